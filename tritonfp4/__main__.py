"""``python -m tritonfp4``."""

import sys

from tritonfp4.cli import main

if __name__ == "__main__":
    sys.exit(main())
