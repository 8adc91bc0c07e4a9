"""An export's files in, a refusal out unless they answer as the model that they came from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.columns import BadIds
from dat_rec.data.dense import AnyColumn, concatenate, read_all
from dat_rec.dist.agree import together
from dat_rec.errors import UserError
from dat_rec.model.towers import GivenTower, Tower
from dat_rec.retrieval.encode import encode_queries, encode_unknown_items
from dat_rec.retrieval.exported import (
    INDEX,
    ITEM_TOWER,
    PART_ROWS,
    TOWER,
    USER_PARTS,
    open_index,
    part_name,
    with_unknown,
)
from dat_rec.retrieval.feature_rows import FeatureRows, RowGroups
from dat_rec.retrieval.golden_queries import golden_problem
from dat_rec.retrieval.item_index import read_index
from dat_rec.retrieval.ranks import Threads
from dat_rec.retrieval.runtimes.runtimes import Runtime, file_of, read_runtime
from dat_rec.retrieval.search import top_items
from dat_rec.retrieval.table_forms import Form
from dat_rec.retrieval.tower_file import QueryTower, check_records
from dat_rec.retrieval.trained import Trained
from dat_rec.retrieval.vector_parts import read_vectors, vectors_digest

ASKED = 100
"""Number of users that are asked for at random, beside the first, the last, one without a history
and an unknown one."""
FOUND = 10
"""Number of items that each is given."""
ROUNDING = 1e-5
"""Bound on how a unit vector's numbers differ where a float32 tower multiplies in another order."""
BFLOAT16_ROUNDING = 2e-2
"""The same bound where the towers multiply in bfloat16."""
FORM_ROUNDING: dict[Form, float] = {"float32": 0, "float16": 1e-2, "int8": 1e-1}
"""What is added to it where tables are stored so."""


def check_answers(
    folder: Path,
    trained: Trained,
    digests: Mapping[str, str],
    without: Iterable[int],
    threads: Threads,
    form: Form = "float32",
    runtimes: Sequence[Runtime] = (),
) -> dict[str, float]:
    """Load what was written and ask it: vectors and best items must be the model's. Collective.

    Each rank reads the parts that it has written; rank 0 asks.

    Args:
        folder: holds the export's files.
        trained: the model that they were made from.
        digests: of the vectors in this rank's parts, of ``write_item_vectors``.
        without: users who lack a list, of ``write_users``.
        threads: that compute side by side.
        form: in which tables are stored.
        runtimes: that the query tower was written for, too.

    Returns:
        On rank 0, by how much the numbers of a vector differ from the model's at most, for each of
        the query tower's files.

    Raises:
        UserError: a file cannot be read, a query tower cannot run, a vector differs from the
            model's by more than rounding, or an item that is given is none of the best.
    """
    model, dataset = trained.model, trained.dataset
    first = rank_and_ranks()[0] == 0
    rows = asked_users(dataset.schema.users, without if first else ())
    if not first:
        rows = rows[:0]
    users = FeatureRows(dataset, "users")
    with together():
        asked = users.take(rows)
    wanted_BD = encode_queries(model, dataset.schema, with_unknown(asked), threads).numpy()
    rounding = _rounding(model.query_tower, form)
    largest: dict[str, float] = {}

    def problem() -> str:
        found = _problem_of_parts(folder, digests)
        if found or not first:
            return found
        written = with_unknown(_written(folder, users, rows))
        found, largest[TOWER] = _problem(folder, written, rows, wanted_BD, rounding)
        others = _Asked(folder / TOWER, written, wanted_BD, rounding)
        return found or _problem_of_runtimes(others, runtimes, largest)

    with together():
        _refuse(problem)
    return largest


def check_item_tower(
    folder: Path,
    trained: Trained,
    threads: Threads,
    form: Form = "float32",
    runtimes: Sequence[Runtime] = (),
) -> dict[str, float]:
    """Ask the item tower's files for items whose id they do not know. Collective.

    Returns:
        On rank 0, by how much the numbers of a vector differ from the model's at most, for each
        file of another runtime.

    Raises:
        UserError: one cannot be read or run, or a vector differs from the model's by more than
            rounding.
    """
    model, dataset = trained.model, trained.dataset
    first = rank_and_ranks()[0] == 0
    rows = asked_users(dataset.schema.items, ())
    items = FeatureRows(dataset, "items")
    with together():
        asked = items.take(rows if first else rows[:0])
    wanted_BD, asked = encode_unknown_items(model, dataset.schema, asked, threads)
    rounding = _rounding(model.item_tower, form)
    largest: dict[str, float] = {}

    def problem() -> str:
        check_records(folder / ITEM_TOWER)
        found_BD = QueryTower(folder / ITEM_TOWER).encode(asked)
        off = np.abs(found_BD - wanted_BD.numpy()).max()
        if not off <= rounding:
            return f"item_tower.pt2: a vector is off by {off:.2g}"
        others = _Asked(folder / ITEM_TOWER, asked, wanted_BD.numpy(), rounding)
        return _problem_of_runtimes(others, runtimes, largest)

    with together():
        if first:
            _refuse(problem)
    return largest


class _Asked(NamedTuple):
    """What a tower is asked, and how it must answer."""

    tower: Path
    columns: Mapping[str, AnyColumn]
    wanted_BD: NDArray[np.float32]
    rounding: float


def _problem_of_runtimes(
    asked: _Asked, runtimes: Sequence[Runtime], largest: dict[str, float]
) -> str:
    """What is wrong with a tower's other files, in words; ``largest`` gets their differences."""
    last = np.array([len(asked.wanted_BD) - 1])
    alone = {name: column.take(last) for name, column in asked.columns.items()}
    for runtime in runtimes:
        tower, name = read_runtime(asked.tower, runtime), file_of(asked.tower, runtime).name
        # One alone, too: programs may be made for many.
        off = np.abs(tower.encode(asked.columns) - asked.wanted_BD).max()
        off = np.maximum(off, np.abs(tower.encode(alone) - asked.wanted_BD[last]).max())
        largest[name] = float(off)
        if not off <= asked.rounding:
            return f"{name}: a vector is off by {off:.2g}"
        if tower.model_id != QueryTower(asked.tower).model_id:
            return f"{name}: is of the model {tower.model_id}"
    return ""


def _rounding(tower: Tower | GivenTower, form: Form) -> float:
    """Bound on how a unit vector's numbers may differ from the model's."""
    return (BFLOAT16_ROUNDING if tower.in_bfloat16 else ROUNDING) + FORM_ROUNDING[form]


def _refuse(find_problem: Callable[[], str]) -> None:
    """Refuse an export of which something is wrong, or that fails when it is asked."""
    try:
        problem = find_problem()
    except (OSError, UserError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        problem = f"it fails with {type(error).__name__}: {reason}"
    if problem:
        raise UserError(
            f"the export does not answer as the model does ({problem}), and was not kept: see "
            "what `dat-rec doctor` says of this machine, and report it with the run's config.json"
        )


def check_golden(folder: Path) -> None:
    """Read the golden queries back, and ask them.

    Raises:
        UserError: they are answered otherwise than they say.
    """
    _refuse(lambda: golden_problem(folder, QueryTower(folder / TOWER), ROUNDING))


def _problem_of_parts(folder: Path, digests: Mapping[str, str]) -> str:
    """What is wrong with the vectors in this rank's parts, or in the index; empty if nothing is."""
    # Of few bits there is none in a file.
    indexed_ND = read_index(folder / INDEX)[1] if (folder / INDEX).exists() else None
    for name, digest in digests.items():
        vectors_ND = read_vectors(folder / name)
        if vectors_digest(vectors_ND) != digest:
            return f"{name} holds other vectors"
        start = int(pq.read_table(folder / name, columns=["item_index"])[0][0].as_py())
        rows = slice(start, start + len(vectors_ND))
        if indexed_ND is not None and not np.array_equal(indexed_ND[rows], vectors_ND):
            return f"index.faiss holds other vectors than {name}"
    return ""


def _problem(
    folder: Path,
    written: Mapping[str, AnyColumn],
    rows: NDArray[np.int64],
    wanted_BD: NDArray[np.float32],
    rounding: float,
) -> tuple[str, float]:
    """What is wrong with the answers, in words, empty if nothing is; the largest difference."""
    check_records(folder / TOWER)
    found_BD = QueryTower(folder / TOWER).encode(written)
    largest = float(np.abs(found_BD - wanted_BD).max())
    # Others load it by torch.export, and recommend without: both are asked.
    for vectors_BD in (found_BD, QueryTower(folder / TOWER, by_torch_export=True).encode(written)):
        off_B = np.abs(vectors_BD - wanted_BD).max(axis=1)
        if not off_B.max() <= rounding:
            worst = int(off_B.argmax())
            who = _who(rows, worst)
            return f"query_tower.pt2: the vector of {who} is off by {off_B[worst]:.2g}", largest
    index, item_ND = open_index(folder)
    k = min(FOUND, len(item_ND))
    items_BK, scores_BK = top_items(index, item_ND, found_BD, k)
    exact_BD = wanted_BD.astype(np.float64)
    best_BK = _best_scores(exact_BD, item_ND, k)
    given_BK = np.einsum("bd,bkd->bk", exact_BD, item_ND[items_BK].astype(np.float64))
    # A difference of unit vectors moves an inner product by no more than its length.
    moved = rounding * wanted_BD.shape[1] ** 0.5
    off_B = np.maximum(np.abs(scores_BK - best_BK), np.abs(given_BK - best_BK)).max(axis=1)
    if not off_B.max() <= 2 * moved:
        worst = int(off_B.argmax())
        who = _who(rows, worst)
        return f"the index: an item found for {who} is none of the best {k}", largest
    return "", largest


def _who(rows: NDArray[np.int64], number: int) -> str:
    """The user who was asked as the ``number``-th; the unknown one is the last."""
    return f"user_row {rows[number]}" if number < len(rows) else "an unknown user"


def _best_scores(
    wanted_BD: NDArray[np.float64], item_ND: NDArray[np.float32], k: int
) -> NDArray[np.float64]:
    """(B, K) the highest scores, falling."""
    best_BK = np.full((len(wanted_BD), k), -np.inf)
    for start in range(0, len(item_ND), PART_ROWS):
        scores = wanted_BD @ item_ND[start : start + PART_ROWS].T.astype(np.float64)
        best_BK = np.sort(np.concatenate([best_BK, scores], axis=1), axis=1)[:, : -k - 1 : -1]
    return best_BK


def _written(folder: Path, users: FeatureRows, rows: NDArray[np.int64]) -> dict[str, AnyColumn]:
    """The features of users, whose row numbers rise, as they stand in the parts."""
    names = users.names
    found = []
    for number in np.unique(rows // PART_ROWS).tolist():
        part = RowGroups(folder / part_name(USER_PARTS, number), names)
        own = rows[rows // PART_ROWS == number] - number * PART_ROWS
        for group, places in part.groups_of(own):
            table, where = part.read(group), str(part.path)
            columns = read_all(table, users.features, users.dense, where, BadIds())
            found.append({name: column.take(places) for name, column in columns.items()})
    return {name: concatenate([one[name] for one in found]) for name in names}


def asked_users(users: int, without: Iterable[int]) -> NDArray[np.int64]:
    """Row numbers of the users that are asked, rising."""
    random = np.random.default_rng(0).integers(0, users, ASKED).tolist()
    return np.unique(np.array([0, users - 1, *random, *without], np.int64))
