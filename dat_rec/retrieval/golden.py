"""An export's files in, a refusal out unless they answer as the model that they came from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.columns import Column
from dat_rec.data.schema import Schema
from dat_rec.errors import UserError
from dat_rec.model.dat import DAT
from dat_rec.retrieval.encode import encode_queries
from dat_rec.retrieval.exported import Export, with_unknown
from dat_rec.retrieval.search import top_items

ASKED = 100
"""Number of users that are asked for at random, beside the first, the last, one without a history
and an unknown one."""
FOUND = 10
"""Number of items that each is given."""
ROUNDING = 1e-5
"""Bound on how a unit vector's numbers differ where a float32 tower multiplies in another order."""
BFLOAT16_ROUNDING = 2e-2
"""The same bound where the towers multiply in bfloat16."""


def check_answers(
    folder: Path,
    model: DAT,
    schema: Schema,
    columns: Mapping[str, Column],
    item_ND: NDArray[np.float32],
) -> None:
    """Load what was written and ask it: vectors and best items must be the model's.

    Args:
        folder: holds the export's files.
        model: the model that they were made from.
        schema: the dataset's.
        columns: query features of all users, as of the split.
        item_ND: the model's vectors of the catalogue.

    Raises:
        UserError: a file cannot be read, the query tower cannot run, a vector differs from the
            model's by more than rounding, or an item that is given is none of the best.
    """
    try:
        problem = _problem(folder, model, schema, columns, item_ND)
    except (OSError, UserError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        problem = f"it fails with {type(error).__name__}: {reason}"
    if problem:
        raise UserError(
            f"the export does not answer as the model does ({problem}), and was not kept: see what "
            "`dat-rec doctor` says of this machine, and report it with the run's config.json"
        )


def _problem(
    folder: Path,
    model: DAT,
    schema: Schema,
    columns: Mapping[str, Column],
    item_ND: NDArray[np.float32],
) -> str:
    """What is wrong with the answers, in words; empty if nothing is."""
    export = Export.read(folder, schema.side("query"))
    if not np.array_equal(export.item_vectors, item_ND):
        return "item_vectors.npy holds other vectors"
    rows = _asked(columns)
    asked = {name: column.take(rows) for name, column in with_unknown(columns).items()}
    wanted_BD = encode_queries(model, schema, asked, np.arange(len(rows)))
    written = {name: column.take(rows) for name, column in export.user_columns.items()}
    found_BD = export.tower.encode(written)
    rounding = BFLOAT16_ROUNDING if model.query_tower.in_bfloat16 else ROUNDING
    off_B = np.abs(found_BD - wanted_BD).max(axis=1)
    if not off_B.max() <= rounding:
        worst = int(off_B.argmax())
        return f"query_tower.pt2: the vector of user_row {rows[worst]} is off by {off_B[worst]:.2g}"
    k = min(FOUND, len(item_ND))
    items_BK, scores_BK = top_items(export.index, export.item_vectors, found_BD, k)
    exact_BN = wanted_BD.astype(np.float64) @ item_ND.T.astype(np.float64)
    best_BK = np.sort(exact_BN, axis=1)[:, : -k - 1 : -1]
    given_BK = np.take_along_axis(exact_BN, items_BK, axis=1)
    # A difference of unit vectors moves an inner product by no more than its length.
    moved = rounding * wanted_BD.shape[1] ** 0.5
    off_B = np.maximum(np.abs(scores_BK - best_BK), np.abs(given_BK - best_BK)).max(axis=1)
    if not off_B.max() <= 2 * moved:
        worst = int(off_B.argmax())
        return f"index.faiss: an item found for user_row {rows[worst]} is none of the best {k}"
    return ""


def _asked(columns: Mapping[str, Column]) -> NDArray[np.int64]:
    """Rows of the users that are asked; the last is the unknown one, behind all others."""
    users = len(next(iter(columns.values())))
    rows = {0, users - 1, *np.random.default_rng(0).integers(0, users, ASKED).tolist()}
    for column in columns.values():
        rows.update(np.flatnonzero(column.lengths() == 0)[:1].tolist())
    return np.array([*sorted(rows), users], np.int64)
