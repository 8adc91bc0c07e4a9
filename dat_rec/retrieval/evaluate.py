"""A run in, RUN/metrics.json and a printed table out: the model beside rules without one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.dist.agree import together
from dat_rec.files import write_json
from dat_rec.model.towers import TowerFactory
from dat_rec.retrieval.baselines import baselines
from dat_rec.retrieval.divided import sum_of_ranks
from dat_rec.retrieval.encode import (
    each_ranks_block,
    encode_blocks,
    encode_items,
    query_tower,
    rounds,
    user_kinds,
)
from dat_rec.retrieval.metrics import CUTOFFS, blocks
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import Ranking, Ranks, item_columns
from dat_rec.retrieval.ranks import Threads, all_ranks, one_thread_each
from dat_rec.retrieval.trained import Trained, load_model
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
    with all_ranks(), one_thread_each() as threads:
        trained = load_model(run, data, checkpoint, tower)
        with together():
            protocol = Protocol.read(trained.dataset)
        metrics = {
            "dataset": trained.dataset.schema.source,
            "checkpoint": trained.step,
            **blocks(protocol, model_ranks(trained, protocol, threads)),
            "baselines": baselines(protocol),
        }
        with together():
            if rank_and_ranks()[0] == 0:
                write_json(run / METRICS, metrics)
                if read_summary(run) is not None:
                    log_metrics(run, metrics)
    return metrics


def model_ranks(trained: Trained, protocol: Protocol, threads: Threads) -> Ranks:
    """Rank every query's item by the model's vectors. Collective: ranks divide users and items.

    Each rank encodes some of the users, block by block; every block goes to all ranks.

    Raises:
        UserError: a vector is not finite, or a file cannot be read.
    """
    model, dataset = trained.model, trained.dataset
    rows, kind = encode_items(model, dataset, threads)
    items = item_columns(rows, kind, protocol.trained_items)
    source, users = user_kinds(dataset, protocol.users)
    first_rows = protocol.users[users.first]
    ranking = Ranking(protocol, items, users.kind, threads, sum_of_ranks)
    encoded = encode_blocks(model, dataset.schema, source, first_rows, query_tower, threads)
    shown = tqdm(
        encoded, "rank", rounds(len(first_rows)), unit="block", disable=rank_and_ranks()[0] > 0
    )
    for block in shown:
        for start, vectors in each_ranks_block(block):
            ranking.add(vectors, start)
    return ranking.ranks()


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
    for name, of_rule in metrics["baselines"].items():
        yield f"{name}: all pairs", of_rule["all"]
        yield f"{name}: new pairs", of_rule["new_pairs"]
