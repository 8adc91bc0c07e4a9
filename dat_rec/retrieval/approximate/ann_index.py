"""Query vectors and an approximate index in, each query's best items out, with exact scores.

The index proposes candidates. Their scores are computed from the export's own vectors, as
``dat_rec.retrieval.search`` does, items with equal vectors come back in (``equal_items``), and
equal scores stand in the catalogue's order. What would be shorter than K is searched exactly.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.files import STRICT
from dat_rec.retrieval.approximate.equal_items import EqualItems
from dat_rec.retrieval.approximate.kinds import Effort, KindName, parameters
from dat_rec.retrieval.search import exact_scores, top_items

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
LONGER = 10
"""How many times K items are searched for approximately; beyond, the search is exact."""


@dataclass(frozen=True)
class Measured:
    """What a search by the index is worth, beside the exact one."""

    recall: float
    """Mean share of the exact K best that are found, over the queries."""
    recall_p10: float
    """A tenth of the queries have a lower one."""
    queries: Annotated[int, Ge(1)]
    """Number of them; none was used to choose the numbers above."""
    queries_per_s: float
    """On one thread, by CPU time, in blocks of ``block`` queries."""
    exact_queries_per_s: float
    """Of the exact search, in turns with it."""
    block: Annotated[int, Ge(1)]

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class AnnFacts:
    """What ``export.json`` says of ``ann.faiss``."""

    kind: KindName
    faiss: str
    """What it is, in the words of ``faiss.index_factory``, behind a linear map of queries."""
    vectors: Annotated[int, Ge(1)]
    """Number of different vectors, which it holds."""
    k: Annotated[int, Ge(1)]
    """K of the recalls."""
    min_recall: float
    """What was asked for."""
    users_effort: Effort
    """What lists of users are searched with."""
    users: Measured
    similar_effort: Effort | None = None
    """What similar items are searched with; None where they do not reach the recall, and are
    searched for exactly."""
    similar: Measured | None = None

    __pydantic_config__ = STRICT

    def __str__(self) -> str:
        return f"{self.kind} index, recall@{self.k} {self.users.recall:.3f} as measured at export"


@dataclass(frozen=True)
class ApproximateIndex:
    """An approximate index of N items' vectors, beside the exact one."""

    kind: KindName
    index: faiss.Index
    equal: EqualItems
    exact: faiss.Index
    item_ND: Floats
    k: int
    """K for which efforts are given."""

    def reaches(self, k: int) -> bool:
        """Whether lists of so many items are searched for approximately."""
        return k <= min(LONGER * self.k, len(self.item_ND))

    def top_items(self, query_BD: Floats, k: int, effort: Effort) -> tuple[Ints, Floats]:
        """The K best items that are found, and their scores.

        Args:
            query_BD: (B, D) vectors.
            k: K; what is spent rises with it, beyond the K of the export.
            effort: for lists of up to that K.

        Returns:
            As ``dat_rec.retrieval.search.top_items``: (B, K) item_index and (B, K) float32.
        """
        spent = round_up(effort.search * max(k, self.k), self.k)
        wanted = min(effort.fetch * k, self.index.ntotal)
        if self.kind == "hnsw":
            spent = max(spent, wanted)
        given = parameters(self.kind, spent)
        _, found_BC = self.index.search(query_BD, wanted, params=given)
        scores_BC = exact_scores(self.item_ND, query_BD, found_BC)
        scores_BC[found_BC < 0] = -np.inf
        items_BK, scores_BK = self._best(found_BC, scores_BC, k)
        if len(short := np.flatnonzero(np.isneginf(scores_BK[:, -1]))):
            items_BK[short], scores_BK[short] = top_items(
                self.exact, self.item_ND, query_BD[short], k
            )
        return items_BK, scores_BK

    def _best(self, found_BC: Ints, scores_BC: Floats, k: int) -> tuple[Ints, Floats]:
        """The K best of the candidates and of those that they stand for; −∞ where there is none."""
        if (more := k - found_BC.shape[1]) > 0:
            found_BC = np.pad(found_BC, ((0, 0), (0, more)), constant_values=-1)
            scores_BC = np.pad(scores_BC, ((0, 0), (0, more)), constant_values=-np.inf)
        groups_BC = self.equal.groups(found_BC)
        order = np.lexsort((found_BC, -scores_BC))[:, :k]
        items_BK = np.take_along_axis(found_BC, order, 1)
        scores_BK = np.take_along_axis(scores_BC, order, 1)
        for row in np.flatnonzero((groups_BC >= 0).any(axis=1)):
            places = np.flatnonzero(groups_BC[row] >= 0)
            others = [self.equal.others(int(group), k) for group in groups_BC[row, places]]
            lengths = [len(one) for one in others]
            items = np.concatenate([found_BC[row], *others])
            scores = np.append(scores_BC[row], np.repeat(scores_BC[row, places], lengths))
            best = np.lexsort((items, -scores))[:k]
            items_BK[row], scores_BK[row] = items[best], scores[best]
        return items_BK, scores_BK


def read_ann(path: Path) -> faiss.Index:
    """Read an approximate index, mapped from its file."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def round_up(number: int, by: int) -> int:
    """The least whole number that is ``number`` / ``by`` or more."""
    return -(-number // by)


@dataclass(frozen=True)
class Ann:
    """An export's approximate index, and what was measured of it."""

    index: ApproximateIndex
    facts: AnnFacts

    @staticmethod
    def read(
        path: Path, equal: Path, facts: AnnFacts, exact: faiss.Index, item_ND: Floats
    ) -> "Ann":
        """Read the files; the index is mapped.

        Args:
            path: of ``ann.faiss``.
            equal: of ``ann_equal.parquet``.
            facts: of export.json.
            exact: the exact index.
            item_ND: (N, D) vectors, which it holds.

        Raises:
            UserError: a file is not what export.json says.
        """
        index = read_ann(path)
        if (index.d, index.ntotal) != (exact.d, facts.vectors):
            raise UserError(
                f"{path}: holds {index.ntotal} vectors, {index.d} wide, and not {facts.vectors}, "
                f"{exact.d} wide: export anew"
            )
        equals = EqualItems.read(equal)
        return Ann(ApproximateIndex(facts.kind, index, equals, exact, item_ND, facts.k), facts)
