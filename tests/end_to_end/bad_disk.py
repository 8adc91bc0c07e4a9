"""``dat-rec`` on ranks one of which has a bad disk: what it does there is done late, or fails.

``bad_disk("1:write_blocks=9")`` is a program to be launched: on rank 1 every file of a checkpoint
is written after 9 s. The function may be any that ``SLOWED`` names.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

SLOWED = {
    "write_blocks": "dat_rec.train.checkpoint",
    "sha256": "dat_rec.train.checkpoint",
    "load_into": "dat_rec.train.checkpoint",
    "copy_rows": "dat_rec.train.run_folder",
}
"""In which module each is looked up."""
SAID = "the bad disk begins: "


def bad_disk(*tricks: str) -> Sequence[str]:
    """The program; each trick is RANK:FUNCTION=SECONDS."""
    return (sys.executable, "-m", "tests.end_to_end.bad_disk", *tricks, "--", "train")


def _slow(name: str, seconds: float) -> None:
    module = importlib.import_module(SLOWED[name])
    real: Callable[..., Any] = getattr(module, name)

    def slow(*arguments: Any) -> Any:
        print(SAID + name, file=sys.stderr, flush=True)
        time.sleep(seconds)
        return real(*arguments)

    setattr(module, name, slow)


if __name__ == "__main__":
    end = sys.argv.index("--")
    for trick in sys.argv[1:end]:
        rank, _, rest = trick.partition(":")
        function, _, duration = rest.partition("=")
        if rank == os.environ["RANK"]:
            _slow(function, float(duration))
    sys.argv = ["dat-rec", *sys.argv[end + 1 :]]
    from dat_rec.cli import main

    main()
