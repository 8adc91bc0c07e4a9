"""One row's inputs are those of columns that hold that row alone."""

from pathlib import Path

import numpy as np
import torch

from dat_rec.data.columns import Column
from dat_rec.data.dense import AnyColumn, DenseColumn
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.table_forms import FORMS
from dat_rec.retrieval.tower_inputs import row_inputs, to_inputs
from tests.retrieval.world import USERS

ROWS = 40


def random_columns(*, dense: bool) -> dict[str, AnyColumn]:
    """Single values and lists, of which some are empty, in both kinds of integers."""
    rng = np.random.default_rng(3)
    ends = np.append(0, np.cumsum(rng.integers(0, 4, ROWS)))
    columns: dict[str, AnyColumn] = {
        "user": Column(rng.integers(0, 99, ROWS).astype(np.int32), None),
        "history": Column(rng.integers(0, 99, ends[-1]).astype(np.int32), ends),
        "age": Column(rng.integers(0, 99, ROWS), None),
        "tags": Column(rng.integers(0, 99, ends[-1]), ends),
    }
    if dense:
        columns["face"] = DenseColumn(rng.normal(size=(ROWS, 3)).astype(np.float32))
        columns["price"] = DenseColumn(rng.normal(size=(ROWS, 1)))
    return columns


def test_one_rows_inputs_are_those_of_its_columns() -> None:
    alone: dict[str, AnyColumn] = {"user": random_columns(dense=False)["user"]}
    lists: dict[str, AnyColumn] = {"tags": random_columns(dense=False)["tags"]}
    for columns in (random_columns(dense=True), random_columns(dense=False), alone, lists):
        for row in range(ROWS):
            expected = to_inputs({n: c.take(np.array([row])) for n, c in columns.items()})
            found = row_inputs(columns, row)
            assert len(found) == len(expected)
            for ours, theirs in zip(found, expected, strict=True):
                assert ours.keys() == theirs.keys()
                for name, tensor in theirs.items():
                    assert ours[name].dtype == tensor.dtype
                    assert torch.equal(ours[name], tensor)


def test_one_user_has_the_bits_of_torch_exports_program(run: Path, tmp_path: Path) -> None:
    for form in FORMS:
        export(run, tmp_path / form, tables=form)
        opened = Export.open(tmp_path / form)
        program = torch.export.load(tmp_path / form / "query_tower.pt2").module()
        # The last row is that of unknown users.
        for row in range(USERS + 1):
            here = {n: c.take(np.array([row])) for n, c in opened.user_columns.items()}
            found = opened.tower.encode_row(opened.user_columns, row)
            assert np.array_equal(found, program(*to_inputs(here)).numpy())
