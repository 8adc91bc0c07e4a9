"""``dat-rec`` on ranks one of which does something late, as on a slow disk, or fails in it.

``disturbed("1:write_blocks=9")`` is a program to be launched: on rank 1 every file of a checkpoint
is written after 9 s; ``disturbed("1:initialize_tables=fail")`` is one in which that rank raises an
IndexError there. The function may be any that ``DISTURBED`` names.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from dat_rec.versions import require_stack
from tests.device import DEVICE_FLAGS

DISTURBED = {
    "write_blocks": "dat_rec.checkpoint.write_job",
    "sha256": "dat_rec.checkpoint.damage",
    "load_into": "dat_rec.checkpoint.restore",
    "copy_rows": "dat_rec.runs.writes",
    "initialize_tables": "dat_rec.training.build",
}
"""In which module each is looked up."""
SAID = "disturbed: "
FAULT = "list index out of range"


def disturbed(*tricks: str) -> Sequence[str]:
    """The program; each trick is RANK:FUNCTION=SECONDS, or RANK:FUNCTION=fail."""
    return (
        sys.executable,
        "-m",
        "tests.end_to_end.disturbed",
        *tricks,
        "--",
        "train",
        *DEVICE_FLAGS,
    )


def _disturb(name: str, how: str) -> None:
    module = importlib.import_module(DISTURBED[name])
    real: Callable[..., Any] = getattr(module, name)

    def late(*arguments: Any) -> Any:
        print(SAID + name, file=sys.stderr, flush=True)
        if how == "fail":
            raise IndexError(FAULT)
        time.sleep(float(how))
        return real(*arguments)

    setattr(module, name, late)


if __name__ == "__main__":
    require_stack()
    end = sys.argv.index("--")
    for trick in sys.argv[1:end]:
        rank, _, rest = trick.partition(":")
        function, _, what = rest.partition("=")
        if rank == os.environ["RANK"]:
            _disturb(function, what)
    sys.argv = ["dat-rec", *sys.argv[end + 1 :]]
    from dat_rec.cli import main

    main()
