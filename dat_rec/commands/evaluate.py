"""``dat-rec evaluate``: rank every held-out item among all items."""

import os
from dataclasses import dataclass
from pathlib import Path

from dat_rec.commands.parse import Arguments, parse
from dat_rec.storage.address import Location
from dat_rec.versions import require_stack


@dataclass(frozen=True)
class EvaluateOptions:
    """Rank every held-out item among all items; write metrics.json; under torchrun on all ranks."""

    run: Path
    """Folder of the run that `dat-rec train` made."""
    data: Location | None = None
    """Folder or address of the dataset, if it is no longer where the run found it."""
    checkpoint: str = "newest"
    """Checkpoint to evaluate: the number of its steps, `best` (the lowest main loss, mean over the
    steps since the checkpoint before it) or `newest`."""


def run(arguments: Arguments) -> None:
    """Evaluate; under torchrun on each rank, of which the first one prints the metrics."""
    options: EvaluateOptions = parse("evaluate", EvaluateOptions, arguments)
    require_stack()
    from dat_rec.retrieval.evaluate import evaluate, table

    metrics = evaluate(options.run, options.data, options.checkpoint)
    if os.environ.get("RANK", "0") == "0":
        print(table(metrics))
