"""``dat-rec evaluate``: rank every held-out item among all items."""

from dataclasses import dataclass
from pathlib import Path

from dat_rec.commands.parse import Arguments, parse
from dat_rec.storage.address import Location
from dat_rec.versions import require_stack


@dataclass(frozen=True)
class EvaluateOptions:
    """Rank every held-out item among all items; write metrics.json into the run's folder."""

    run: Path
    """Folder of the run that `dat-rec train` made."""
    data: Location | None = None
    """Folder or address of the dataset, if it is no longer where the run found it."""
    checkpoint: str = "newest"
    """Checkpoint to evaluate: the number of its steps, `best` (the lowest main loss, mean over the
    steps since the checkpoint before it) or `newest`."""


def run(arguments: Arguments) -> None:
    """Evaluate, and print the metrics."""
    options: EvaluateOptions = parse("evaluate", EvaluateOptions, arguments)
    require_stack()
    from dat_rec.retrieval.evaluate import evaluate, table

    print(table(evaluate(options.run, options.data, options.checkpoint)))
