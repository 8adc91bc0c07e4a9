"""The end of a command that was given something wrong: one line, exit code 2, as argparse does."""

import sys
from typing import NoReturn


def refuse(message: str) -> NoReturn:
    """Say what is wrong, where, and the cure; nothing is queued."""
    print(f"launch: error: {message}", file=sys.stderr)
    sys.exit(2)
