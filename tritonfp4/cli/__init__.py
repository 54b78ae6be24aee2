"""The command line: ``tritonfp4 demo | info | quantize``. Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tritonfp4 import __version__
from tritonfp4.cli import demo, info, quantize
from tritonfp4.cli.common import CliError


def parser() -> argparse.ArgumentParser:
    """The parser of the command and its subcommands; ``args.run`` is the chosen one's function."""
    root = argparse.ArgumentParser(prog="tritonfp4", description="FP4 block-scaled matrices in pure Triton.")
    root.add_argument("--version", action="version", version=f"tritonfp4 {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (demo, info, quantize):
        module.add_parser(commands)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit status: 0; 1 for a failure (bad data, a full disk); 2 for a wrong call or a missing optional package;
        130 if interrupted.
    """
    args = parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except CliError as error:
        print(f"tritonfp4 {args.command}: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(f"tritonfp4 {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (``| head``) has enough; without this the interpreter complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"tritonfp4 {args.command}: {error}", file=sys.stderr)
        return 1
