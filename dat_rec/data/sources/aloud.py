"""What a user should know and need not mend: a line on stderr."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """Write a line on stderr, above the progress bar."""
    tqdm.write(text, file=sys.stderr)
