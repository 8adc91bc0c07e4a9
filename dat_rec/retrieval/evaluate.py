"""A run in, RUN/metrics.json out: the model's figures beside those of the baselines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.dataset import Dataset
from dat_rec.dist.agree import broadcast_from_rank_0, together
from dat_rec.errors import UserError
from dat_rec.files import write_json
from dat_rec.model.dat import DAT
from dat_rec.model.towers import TowerFactory
from dat_rec.retrieval.baselines import Settings
from dat_rec.retrieval.divided import BETWEEN_RANKS
from dat_rec.retrieval.encode import (
    each_ranks_block,
    encode_blocks,
    encode_items,
    query_tower,
    rounds,
    user_kinds,
)
from dat_rec.retrieval.kept_baselines import Found, baselines
from dat_rec.retrieval.metrics import USER_CUTOFFS, blocks, check_cutoffs
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import Ranking, Ranks, item_columns
from dat_rec.retrieval.ranks import Threads, all_ranks, one_thread_each
from dat_rec.retrieval.top_lists import TopLists
from dat_rec.retrieval.trained import Trained, load_model
from dat_rec.runs.curves import log_metrics
from dat_rec.runs.figures import METRICS, read_summary
from dat_rec.storage.address import Location


def evaluate(
    run: Path,
    data: Location | None = None,
    checkpoint: str = "newest",
    *,
    k: Sequence[int] = USER_CUTOFFS,
    queries: int = 0,
    fitted_baselines: bool = True,
    tower: TowerFactory | None = None,
) -> dict[str, Any]:
    """Rank every held-out item among all items, and write the figures to ``RUN/metrics.json``.

    If the run has ended, its TensorBoard shows the figures too.

    Args:
        run: folder that ``dat_rec.train`` made.
        data: the dataset, if it is no longer where the run found it.
        checkpoint: which of the run's: the number of its steps, ``best`` (in validation, else by
            the main loss) or ``newest``.
        k: the Ks of Recall@K and NDCG@K, means over users, and of coverage and popularity of the
            lists. HR@K stays at 50 and 100.
        queries: maximum number of test interactions to ask; of more, those of users drawn at
            random; 0: all.
        fitted_baselines: whether ItemCF and iALS are fitted and tuned. Their figures are kept with
            the dataset, so that the next evaluation has them at once.
        tower: the tower that the run was trained with, if it was not dat_rec's own.

    Returns:
        What metrics.json holds: ``dataset``, ``checkpoint`` (steps), ``asked`` and ``tests``, the
        numbers of test interactions that were asked and that there are, the blocks of
        ``dat_rec.retrieval.metrics.blocks``, ``baselines`` with the same blocks by name, and
        ``baselines_left_out``, why one is missing, by name.

    Raises:
        UserError: a K below 1, no whole checkpoint, one with another tower, a malformed dataset, or
            vectors that are not finite.

    Example:
        >>> metrics = dat_rec.evaluate(Path("run"))
        >>> sorted(metrics["all"])
        ['HR@100', 'HR@50', 'MRR', 'queries', 'unanswerable']
        >>> 0 < metrics["all"]["MRR"] < 1
        True
        >>> sorted(name for name in metrics["per_user"] if name.startswith("NDCG"))
        ['NDCG@100', 'NDCG@20', 'NDCG@50']
        >>> list(metrics["baselines"])
        ['MostPop', 'own history', 'ItemCF', 'iALS']
    """
    cutoffs = check_cutoffs(k)
    if queries < 0:
        raise UserError(f"--queries {queries}: must be at least 0")
    with all_ranks(), one_thread_each() as threads:
        trained = load_model(run, data, checkpoint, tower)
        with together():
            protocol = Protocol.read(trained.dataset, most=queries)
        lists = TopLists(protocol, cutoffs, BETWEEN_RANKS)
        ranks = model_ranks(trained.model, trained.dataset, protocol, threads, lists)
        settings = Settings(protocol, cutoffs)
        found = _baselines(run, trained, settings, threads, fitted=fitted_baselines)
        metrics = {
            "dataset": trained.dataset.schema.source,
            "checkpoint": trained.step,
            "asked": len(protocol.user_row),
            "tests": trained.dataset.schema.tests,
            **blocks(protocol, ranks, lists, cutoffs),
            "baselines": found.figures,
            "baselines_left_out": found.left_out,
        }
        with together():
            if rank_and_ranks()[0] == 0:
                write_json(run / METRICS, metrics)
                if read_summary(run) is not None:
                    log_metrics(run, metrics)
    return metrics


def model_ranks(
    model: DAT,
    dataset: Dataset,
    protocol: Protocol,
    threads: Threads,
    lists: TopLists | None = None,
    *,
    shown: bool = True,
) -> Ranks:
    """Rank every query's item by the model's vectors. Collective: ranks divide users and items.

    Each rank encodes some of the users, block by block; every block goes to all ranks.

    Args:
        model: of ``load_model``, or a ``LiveModel``'s.
        dataset: the catalogue and the users.
        protocol: the queries.
        threads: that compute side by side.
        lists: takes the best items of each user, if they are wanted.
        shown: show the progress, on rank 0.

    Raises:
        UserError: a vector is not finite, or a file cannot be read.
    """
    rows, kind = encode_items(model, dataset, threads)
    items = item_columns(rows, kind, protocol.trained_items)
    source, users = user_kinds(dataset, protocol.users)
    first_rows = protocol.users[users.first]
    ranking = Ranking(protocol, items, users.kind, threads, BETWEEN_RANKS, lists=lists)
    encoded = encode_blocks(model, dataset.schema, source, first_rows, query_tower, threads)
    hidden = not shown or rank_and_ranks()[0] > 0
    for block in tqdm(encoded, "rank", rounds(len(first_rows)), unit="block", disable=hidden):
        for start, vectors in each_ranks_block(block):
            ranking.add(vectors, start)
    return ranking.ranks()


def _baselines(
    run: Path, trained: Trained, settings: Settings, threads: Threads, *, fitted: bool
) -> Found:
    """Compute the baselines on rank 0, for all. Collective; the others wait without a timeout."""
    found: Found | None = None
    with together():
        if rank_and_ranks()[0] == 0:
            found = baselines(run, trained.dataset, settings, threads, fitted=fitted)
    shared: Found = broadcast_from_rank_0(found)
    return shared
