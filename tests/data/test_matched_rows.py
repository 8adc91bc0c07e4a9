"""Features in a run's numbers, by hand; tests/retrieval/test_other_dataset.py has real datasets."""

import numpy as np

from dat_rec.data.columns import Column
from dat_rec.data.matched_rows import MatchedRows
from dat_rec.data.schema import Feature


def test_ids_go_by_their_place_and_other_features_by_their_value() -> None:
    """The second user has no row in the dataset, and one in the run."""
    matched = MatchedRows(
        features=(
            Feature("user", "query", "user", 3),
            Feature("city", "query", "city", 4),
            Feature("history", "query", "item", 4, multi_valued=True),
        ),
        digest="",
        users=np.array([7, 9, 0]),
        items=np.array([5, 0, 2, 6]),
        tables={"city": np.array([0, 3, 0, 1]), "item": np.array([0, 5, 0, 2])},
    )
    bags = Column(np.array([3, 2, 0, 1]), np.array([0, 3, 4]))
    columns = {
        "user": Column(np.array([0, 2]), None),
        "city": Column(np.array([3, 2]), None),
        "history": bags,
    }
    found = matched.columns(columns, np.array([1, 2]))
    assert list(found) == ["user", "city", "history"]
    assert found["user"].values.tolist() == [9, 0]
    assert found["city"].values.tolist() == [1, 0]
    assert found["history"].values.tolist() == [2, 0, 0, 5]
    assert found["history"].offsets is bags.offsets
    assert matched.known_users().tolist() == [True, True, False]
    assert matched.known_items().tolist() == [True, False, True, True]
    known = {table: one.tolist() for table, one in matched.known_values().items()}
    assert known == {"city": [True, False, True]}
