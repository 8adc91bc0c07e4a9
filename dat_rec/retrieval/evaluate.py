"""A run in, RUN/metrics.json out: the model's figures beside those of the baselines."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.dataset import Dataset
from dat_rec.data.matched_rows import MatchedRows
from dat_rec.data.schema import Schema
from dat_rec.dist.agree import broadcast_from_rank_0, together
from dat_rec.errors import UserError
from dat_rec.files import write_json
from dat_rec.model.towers import TowerFactory
from dat_rec.retrieval.baselines import Settings, of_baseline
from dat_rec.retrieval.blend import past_of
from dat_rec.retrieval.blended_ranks import BlendedRanks
from dat_rec.retrieval.divided import BETWEEN_RANKS
from dat_rec.retrieval.fit_blend import FittedBlend, fit_blend
from dat_rec.retrieval.kept_baselines import Found, baselines
from dat_rec.retrieval.metrics import USER_CUTOFFS, blocks, check_cutoffs
from dat_rec.retrieval.model_ranks import model_ranks
from dat_rec.retrieval.protocol import Known, Protocol
from dat_rec.retrieval.ranking import Ranks
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
    blend_history: bool = False,
    tower: TowerFactory | None = None,
) -> dict[str, Any]:
    """Rank every held-out item among all items, and write the figures to ``RUN/metrics.json``.

    If the run has ended, its TensorBoard shows the figures too, if they are of the training's
    dataset.

    Args:
        run: folder that ``dat_rec.train`` made.
        data: the dataset, if it is no longer where the run found it. Or another one, whose users,
            items and values are matched with the run's: what the run does not know is unknown.
        checkpoint: which of the run's: the number of its steps, ``best`` (in validation, else by
            the main loss) or ``newest``.
        k: the Ks of Recall@K and NDCG@K, means over users, and of coverage and popularity of the
            lists. HR@K stays at 50 and 100.
        queries: maximum number of test interactions to ask; of more, those of users drawn at
            random; 0: all.
        fitted_baselines: whether ItemCF and iALS are fitted and tuned. Their figures are kept with
            the dataset, so that the next evaluation has them at once.
        blend_history: whether the model is ranked once more with each user's own history blended
            in, by weights that are fitted on validation (``dat_rec.retrieval.fit_blend``).
        tower: the tower that the run was trained with, if it was not dat_rec's own.

    Returns:
        What metrics.json holds: ``dataset``, ``checkpoint`` (steps), ``asked`` and ``tests``, the
        numbers of test interactions that were asked and that there are, the blocks of
        ``dat_rec.retrieval.metrics.blocks``, ``baselines`` with the same blocks by name, and
        ``baselines_left_out``, why one is missing, by name. With ``blend_history`` also ``blend``,
        with the same blocks, its ``settings`` and ``trials``. With another dataset than that of the
        training also ``matched``: which, and how many of its users and items the run knows.

    Raises:
        UserError: a K below 1, no whole checkpoint, one with another tower, a malformed dataset,
            one that cannot be matched, vectors that are not finite, or nothing to fit a blend on.

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
        trained = load_model(run, data, checkpoint, tower, match=True)
        matched = trained.dataset.matched
        with together():
            protocol = Protocol.read(trained.dataset, most=queries)
        if matched is not None:
            protocol = replace(protocol, known=Known(matched.known_users(), matched.known_items()))
        settings = Settings(protocol, cutoffs)
        lists = TopLists(protocol, cutoffs, BETWEEN_RANKS)
        blend = _blend(trained, protocol, threads) if blend_history else None
        blended = None if blend is None else blend.ranks
        ranks = model_ranks(trained.model, trained.dataset, protocol, threads, lists, blended)
        found = _baselines(run, trained, settings, threads, fitted=fitted_baselines)
        metrics = {
            "dataset": trained.dataset.schema.source,
            **({} if matched is None else {"matched": _matched(trained.dataset, matched)}),
            "checkpoint": trained.step,
            "asked": len(protocol.user_row),
            "tests": trained.dataset.schema.tests,
            **blocks(protocol, ranks, lists, cutoffs),
            **({} if blend is None else {"blend": blend.figures(settings, ranks, lists)}),
            "baselines": found.figures,
            "baselines_left_out": found.left_out,
        }
        with together():
            if rank_and_ranks()[0] == 0:
                write_json(run / METRICS, metrics)
                # The curves are those of the training's dataset.
                ended = matched is None and read_summary(run) is not None
                if ended and trained.dataset.schema == Schema.load(run):
                    log_metrics(run, metrics)
    return metrics


def _matched(dataset: Dataset, matched: MatchedRows) -> dict[str, Any]:
    """Which dataset that is not the training's, and how much of it the run knows."""
    return {
        "data": str(dataset.folder),
        "row_digest": matched.digest,
        "users": _counted(matched.known_users()),
        "items": _counted(matched.known_items()),
        "values": {table: _counted(known) for table, known in matched.known_values().items()},
    }


def _counted(known: NDArray[np.bool_]) -> dict[str, int]:
    return {"known": int(known.sum()), "unknown": int((~known).sum())}


class _Blend(NamedTuple):
    """The model with own history blended in."""

    fitted: FittedBlend
    ranks: BlendedRanks

    def figures(self, settings: Settings, model: Ranks, lists: TopLists) -> dict[str, Any]:
        """The blocks that the table prints. Collective.

        New pairs, figures of users and lists leave out what a user has had, and so are the model's.
        """
        protocol = settings.protocol
        (trained,), (catalogue,) = self.ranks.ranks()
        ranks = model._replace(
            trained=np.where(protocol.answerable, trained, np.nan), catalogue=catalogue
        )
        return {**self.fitted.facts(), **of_baseline(settings, ranks, lists)}


def _blend(trained: Trained, protocol: Protocol, threads: Threads) -> _Blend:
    """Fit a blend, and read what it adds up. Collective."""
    fitted = fit_blend(trained, threads)
    with together():
        past = past_of(trained.dataset, protocol)
    return _Blend(fitted, BlendedRanks(protocol, past, [fitted.blend], BETWEEN_RANKS))


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
