"""Rows of ids, found one by one or all at once, beside a dictionary."""

import numpy as np
import pyarrow as pa
import pytest

from dat_rec.retrieval.id_rows import IdRows


@pytest.mark.parametrize("count", [0, 1, 3000])
@pytest.mark.parametrize("kind", [pa.int64(), pa.uint16(), pa.string(), pa.large_string()])
def test_rows_are_those_of_a_dictionary(count: int, kind: pa.DataType) -> None:
    rng = np.random.default_rng(count)
    numbers = rng.permutation(2 * count)[:count].tolist()
    letters = ["é", "z", "\U0001f600", "Z", "", "\uffff"]

    def named(number: int) -> object:
        return letters[number % 6] + str(number) if pa.types.is_unicode(kind) or text else number

    text = pa.types.is_large_unicode(kind)
    ids = pa.array([named(number) for number in numbers], kind)
    known = {named(number): row for row, number in enumerate(numbers)}
    rows = IdRows(ids)
    for many in (0, 1, 60, 100, 2 * count):
        asked = [named(number) for number in rng.integers(0, 2 * count + 5, many).tolist()]
        asked[::7] = [None] * len(asked[::7])
        found = rows.of(pa.array(asked, kind))
        assert found.dtype == np.int64
        assert found.tolist() == [known.get(one, -1) for one in asked]
