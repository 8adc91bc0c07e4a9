"""How many cases a test takes: a selection that covers, or with ``DAT_REC_TEST_CASES=N`` all.

    DAT_REC_TEST_CASES=1000 make pytest

draws so many cases where a test draws at random, and takes whole grids where CI takes a part.
"""

import os

ASKED = os.environ.get("DAT_REC_TEST_CASES", "")
WHOLE = bool(ASKED)
"""Whether grids are taken whole."""


def drawn(usual: int) -> int:
    """The number of random cases, ``usual`` unless another one is asked for."""
    return int(ASKED) if ASKED else usual
