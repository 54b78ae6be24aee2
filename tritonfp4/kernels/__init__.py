"""How the answer is computed fast. Private: one file a kernel family, with its jit functions and one launcher.

Nothing outside `tritonfp4.ops` and `tritonfp4.aot` imports this package, and both do so lazily: Triton does not exist on
every platform.
"""
