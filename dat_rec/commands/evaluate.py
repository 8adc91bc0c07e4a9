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
    """Folder or address of the dataset, if it is no longer where the run found it. Or of another
    one, as the next day's: users, items and values are matched by id, and unknown ones count as
    such."""
    checkpoint: str = "newest"
    """Checkpoint to evaluate: the number of its steps, `best` or `newest`. The best has the
    highest --stop-by of its validation or, in a run without any, the lowest main loss, mean over
    the steps since the checkpoint before it."""
    k: tuple[int, ...] = (20, 50, 100)
    """Lengths of lists, for Recall@K and NDCG@K as means over users, coverage and popularity. HR@K
    of interactions stays at 50 and 100, so that all runs compare."""
    queries: int = 0
    """Maximum number of test interactions to ask; of more, those of users drawn at random, all of a
    user's together. metrics.json says so. 0: all."""
    fitted_baselines: bool = True
    """Fit and tune ItemCF and iALS on the dataset, which takes minutes for a million interactions;
    what comes of it is kept with the dataset. MostPop and own history take no time."""
    blend_history: bool = False
    """Rank once more with each user's own history blended into the model's scores, by weights that
    are fitted on validation, or on the last tenth of training where there is none."""


def run(arguments: Arguments) -> None:
    """Evaluate; under torchrun on each rank, of which the first one prints the metrics."""
    options: EvaluateOptions = parse("evaluate", EvaluateOptions, arguments)
    require_stack()
    from dat_rec.retrieval.evaluate import evaluate
    from dat_rec.retrieval.evaluation_text import text

    metrics = evaluate(
        options.run,
        options.data,
        options.checkpoint,
        k=options.k,
        queries=options.queries,
        fitted_baselines=options.fitted_baselines,
        blend_history=options.blend_history,
    )
    if os.environ.get("RANK", "0") == "0":
        print(text(metrics))
