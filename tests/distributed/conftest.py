"""A planted world for tests that pin every table to every sharding type."""

import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare import prepare
from dat_rec.data.sources.synthetic import Synthetic


@pytest.fixture(scope="session")
def divisible(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """As ``planted``, with 8 rows of categories: 2, 3 and 4 ranks all get some."""
    folder = tmp_path_factory.mktemp("divisible") / "data"
    prepare(Synthetic(out=folder, users=300, items=200, interactions=9_000, categories=7))
    return Dataset.open(folder)
