"""A store's answers in, whether they are right out: compared with exact search over the export.

Scores are inner products in float64 over the vectors of the export's files. Equal scores may stand
in any order, and so may scores that differ by less than float32 rounding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.publish.catalogue import Catalogue
from dat_rec.publish.store import Answer
from dat_rec.retrieval.search import ROUNDING


class Best(NamedTuple):
    """What exact search gives Q queries."""

    query_QD: NDArray[np.float32]
    ids: list[list[object]]
    """(Q, K) best first"""
    scores: NDArray[np.float64]
    """(Q, K) falling"""


def best_items(catalogue: Catalogue, query_QD: NDArray[np.float32], k: int) -> Best:
    """The K items with the highest inner products, batch by batch."""
    ids = np.empty((len(query_QD), 0), object)
    scores = np.empty((len(query_QD), 0))
    for some, vectors in catalogue.vectors():
        names = np.array(some.to_pylist(), object)
        scores = np.concatenate([scores, _scores(query_QD, vectors)], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(names, (len(ids), len(names)))], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ids = np.take_along_axis(ids, order, 1)
        scores = np.take_along_axis(scores, order, 1)
    return Best(query_QD, ids.tolist(), scores)


def true_scores(
    catalogue: Catalogue, query_QD: NDArray[np.float32], answers: Sequence[Answer]
) -> list[NDArray[np.float64]]:
    """The inner product of each item of each answer; NaN for an id that the export has not."""
    kind = catalogue.schema.field("item_id").type
    asked = [pa.array(answer.ids, kind) for answer in answers]
    found = [np.full(len(ids), np.nan) for ids in asked]
    for some, vectors in catalogue.vectors():
        for query, ids, scores in zip(query_QD, asked, found, strict=True):
            place = pc.index_in(ids, value_set=some)
            here = place.is_valid().to_numpy(zero_copy_only=False)
            rows = place.drop_null().to_numpy()
            scores[here] = _scores(query[None], vectors[rows])[0]
    return found


def check_answers(
    where: str, catalogue: Catalogue, best: Best, answers: Sequence[Answer], *, exact: bool
) -> float:
    """Refuse answers with fewer than K items, or with other scores than ours.

    Args:
        where: the store's collection, for messages.
        catalogue: the export.
        best: what exact search gives.
        answers: of the store, one for each query.
        exact: whether the answers must hold the very best.

    Returns:
        Recall@K: the share of items whose score is among the K best.

    Raises:
        UserError: the first query that is answered wrongly, and how.
    """
    k = best.scores.shape[1]
    hits = []
    every = zip(answers, true_scores(catalogue, best.query_QD, answers), strict=True)
    for number, (answer, true) in enumerate(every):
        query = f"{where}: query {number + 1} of {len(answers)}"
        if len(answer.ids) != k or len(set(answer.ids)) != k:
            raise UserError(f"{query}: {len(set(answer.ids))} items of {k} came back")
        if np.isnan(true).any():
            stranger = answer.ids[int(np.flatnonzero(np.isnan(true))[0])]
            raise UserError(f"{query}: item {stranger!r} is not in the export")
        wrong = np.abs(answer.scores - true) > _rounding(true)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{query}: item {answer.ids[first]!r} has the score {answer.scores[first]:.6f}, "
                f"and the inner product is {true[first]:.6f}"
            )
        if (np.diff(answer.scores) > 0).any():
            raise UserError(f"{query}: scores do not fall")
        least = best.scores[number, -1]
        hits.append(np.mean(true >= least - _rounding(least)))
        clearly = best.scores[number] > least + _rounding(least)
        needed = {item for item, sure in zip(best.ids[number], clearly, strict=True) if sure}
        if exact and (hits[-1] < 1 or needed - set(answer.ids)):
            raise UserError(f"{query}: its {k} items are not the best {k} of exact search")
    return float(np.mean(hits))


def _scores(query_QD: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = query_QD.astype(np.float64) @ vectors.astype(np.float64).T
    return scores


def _rounding(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ROUNDING * (1 + np.abs(scores)))
