import numpy as np
import pytest

from dat_rec.data.columns import Column
from dat_rec.retrieval.distinct import Distinct, encode_once, kinds, row_hashes, vector_hashes


def by_hand(rows: list[object]) -> Distinct:
    """A dictionary of what was there before."""
    first: dict[object, int] = {}
    for number, row in enumerate(rows):
        first.setdefault(row, number)
    numbers = {row: number for number, row in enumerate(first)}
    return Distinct(np.array([*first.values()]), np.array([numbers[row] for row in rows]))


def assert_equal(found: Distinct, expected: Distinct) -> None:
    np.testing.assert_array_equal(found.first, expected.first)
    np.testing.assert_array_equal(found.kind, expected.kind)


@pytest.mark.parametrize("different", [1, 5, 300])
def test_vectors_are_sorted_into_kinds(different: int) -> None:
    rng = np.random.default_rng(different)
    vectors = rng.standard_normal((different, 3)).astype(np.float32)
    vectors = vectors[rng.integers(0, different, 300)]
    vectors[:, 1] *= rng.choice([0.0, -0.0, 1.0], 300)  # −0 and 0 are equal
    assert_equal(kinds(vector_hashes(vectors)), by_hand([tuple(row) for row in vectors.tolist()]))
    assert len(kinds(vector_hashes(vectors[:0])).first) == 0


def ragged(lists: list[list[int]]) -> Column:
    values = np.array([value for row in lists for value in row], np.int64)
    return Column(values, np.cumsum([0, *map(len, lists)]))


@pytest.mark.parametrize("single", [0, 1, 2])
@pytest.mark.parametrize("multi", [0, 1, 2])
def test_rows_are_equal_where_every_feature_is(single: int, multi: int) -> None:
    if not single + multi:
        return
    rng = np.random.default_rng(single + multi)
    columns = {f"s{i}": Column(rng.integers(0, 3, 200), None) for i in range(single)}
    lists = [
        [rng.integers(0, 2, rng.integers(0, 3)).tolist() for _ in range(200)] for _ in range(multi)
    ]
    columns |= {f"m{i}": ragged(one) for i, one in enumerate(lists)}
    rows = [
        (
            *(int(columns[f"s{i}"].values[row]) for i in range(single)),
            *(tuple(one[row]) for one in lists),
        )
        for row in range(200)
    ]
    assert_equal(kinds(row_hashes(columns)), by_hand(rows))


def test_each_kind_is_encoded_once_and_few_rows_at_a_time() -> None:
    columns = {"a": Column(np.array([4, 5, 4, 6, 5, 7]), None)}
    given: list[list[int]] = []

    def encode(taken: dict[str, Column]) -> np.ndarray:
        values = taken["a"].values
        given.append(values.tolist())
        return np.stack([values, -values], axis=1).astype(np.float32)

    found = encode_once(columns, np.array([5, 4, 2, 1, 0]), encode, at_once=2)
    assert given == [[4, 5], [7]]
    assert found.tolist() == [[7, -7], [5, -5], [4, -4], [5, -5], [4, -4]]
    assert encode_once(columns, np.array([], np.int64), encode, 2).shape == (0, 2)
