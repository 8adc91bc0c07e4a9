"""Options that benchmarks share: how they are read, and where results go."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import tyro

from benchmarks.record import append, circumstances
from dat_rec.commands.parse import path_rules
from dat_rec.config import Device
from dat_rec.errors import UserError
from dat_rec.files import local_path
from dat_rec.storage.address import Location

RESULTS = Path("benchmarks/results")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every benchmark takes."""

    device: Device = "auto"
    """Device that is measured, as in training."""
    out: Path | None = None
    """File to append results to; benchmarks/results/NAME.jsonl without it."""
    smoke: bool = False
    """Run once, tiny: shows that the script works; its figures mean nothing and are not kept."""

    def report(self, name: str, row: dict[str, Any]) -> None:
        """Print a result of benchmark ``name`` with its circumstances, and append it."""
        out = None if self.smoke else self.out or RESULTS / f"{name}.jsonl"
        append(out, {"benchmark": name} | row | circumstances())


Given = TypeVar("Given", bound=Options)


def parse(options: type[Given]) -> Given:
    """Read the command line; an address in place of a path is refused, as by ``dat-rec``."""
    places = {f"--{one.name}" for one in fields(options) if one.type is Location}
    words = sys.argv[1:]
    try:
        for before, word in zip(["", *words], words, strict=False):
            name, _, value = word.rpartition("=")
            if (name or before) not in places:
                local_path(value)
        return tyro.cli(options, registry=path_rules())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
