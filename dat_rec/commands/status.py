"""``dat-rec status``: how a run stands."""

import json
from dataclasses import dataclass
from pathlib import Path

from dat_rec.commands.parse import Arguments, parse


@dataclass(frozen=True)
class StatusOptions:
    """Print how a run stands: state, newest checkpoint, what failed first, the command to go on."""

    run: Path
    """Folder of the run that `dat-rec train` made, or is making."""
    json: bool = False
    """Print JSON."""


def run(arguments: Arguments) -> None:
    """Print how the run stands."""
    options: StatusOptions = parse("status", StatusOptions, arguments)
    from dat_rec.runs.status import status

    found = status(options.run)
    print(json.dumps(found.as_json(), indent=2) if options.json else found.text())
