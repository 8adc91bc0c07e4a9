"""``dat-rec compare``: runs side by side."""

import json
from dataclasses import dataclass
from pathlib import Path

from dat_rec.commands.parse import Arguments, parse


@dataclass(frozen=True)
class CompareOptions:
    """Compare runs: the options in which they differ; losses, samples/s and metrics of each."""

    runs: tuple[Path, ...]
    """Folders of two or more runs that `dat-rec train` made."""
    json: bool = False
    """Print JSON, with every option."""


def run(arguments: Arguments) -> None:
    """Print the comparison."""
    import tyro

    config = (tyro.conf.PositionalRequiredArgs,)
    options: CompareOptions = parse("compare", CompareOptions, arguments, config=config)
    from dat_rec.runs.compare import compare

    found = compare(options.runs)
    print(json.dumps(found.as_json(), indent=2) if options.json else found.text())
