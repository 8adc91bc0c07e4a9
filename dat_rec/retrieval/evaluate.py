"""A run in, RUN/metrics.json and a printed table out: the model beside rules without one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dat_rec.files import write_json
from dat_rec.model.towers import TowerFactory
from dat_rec.retrieval.baselines import baselines
from dat_rec.retrieval.encode import encode_items, encode_users
from dat_rec.retrieval.metrics import CUTOFFS, protocol_metrics
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.trained import load_model
from dat_rec.runs.figures import METRICS, read_summary
from dat_rec.storage.address import Location
from dat_rec.training.metrics_log import log_metrics


def evaluate(
    run: Path,
    data: Location | None = None,
    checkpoint: str = "newest",
    *,
    tower: TowerFactory | None = None,
) -> dict[str, Any]:
    """Rank every held-out item among all items, and write the figures to ``RUN/metrics.json``.

    If the run has ended, its TensorBoard shows the figures too.

    Args:
        run: folder that ``dat_rec.train`` made.
        data: the dataset, if it is no longer where the run found it.
        checkpoint: which of the run's: the number of its steps, ``best`` (the lowest main loss) or
            ``newest``.
        tower: the tower that the run was trained with, if it was not dat_rec's own.

    Returns:
        What metrics.json holds: ``dataset``, ``checkpoint`` (steps), the blocks of
        ``dat_rec.retrieval.metrics.blocks`` and ``baselines``.

    Raises:
        UserError: no whole checkpoint, one with another tower, a malformed dataset, or vectors that
            are not finite.

    Example:
        >>> metrics = dat_rec.evaluate(Path("run"))
        >>> sorted(metrics["all"])
        ['HR@100', 'HR@50', 'MRR', 'queries', 'unanswerable']
        >>> 0 < metrics["all"]["MRR"] < 1
        True
    """
    trained = load_model(run, data, checkpoint, tower)
    model, dataset = trained.model, trained.dataset
    protocol = Protocol.read(dataset)
    metrics = {
        "dataset": dataset.schema.source,
        "checkpoint": trained.step,
        **protocol_metrics(
            protocol,
            encode_users(model, dataset, protocol.users),
            encode_items(model, dataset),
        ),
        "baselines": baselines(protocol),
    }
    write_json(run / METRICS, metrics)
    if read_summary(run) is not None:
        log_metrics(run, metrics)
    return metrics


def table(metrics: dict[str, Any]) -> str:
    """The figures as an aligned text table: the model's rows, then the baselines'."""
    names = [*(f"HR@{k}" for k in CUTOFFS), "MRR"]
    rows = list(_rows(metrics))
    width = max(len(label) for label, _ in rows)
    lines = [f"{'':{width}}  {'queries':>9}" + "".join(f"  {name:>6}" for name in names)]
    for label, block in rows:
        cells = ["-" if block[name] is None else f"{block[name]:.4f}" for name in names]
        lines.append(
            f"{label:{width}}  {block['queries']:>9,}" + "".join(f"  {cell:>6}" for cell in cells)
        )
    lines.append(
        f"{metrics['all']['unanswerable']:,} test interactions of unseen users or items are "
        "in the cold rows only."
    )
    return "\n".join(lines)


def _rows(metrics: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    category = metrics["largest_category"]
    model = f"model, step {metrics['checkpoint']:,}"
    yield f"{model}: all pairs", metrics["all"]
    yield f"{model}: new pairs", metrics["new_pairs"]
    yield f"{model}: largest category ({category['name']})", category["largest"]
    yield f"{model}: all other categories", category["others"]
    yield f"{model}: warm, whole catalogue", metrics["warm"]
    yield f"{model}: cold, whole catalogue", metrics["cold"]
    yield f"{model}: cold, unseen users", metrics["cold"]["new_users"]
    yield f"{model}: cold, unseen items", metrics["cold"]["new_items"]
    for name, blocks in metrics["baselines"].items():
        yield f"{name}: all pairs", blocks["all"]
        yield f"{name}: new pairs", blocks["new_pairs"]
