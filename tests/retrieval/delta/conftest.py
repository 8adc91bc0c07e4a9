import pytest

from tests.retrieval.delta.chain import Chain, write_chain


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Four days; read them, do not change them."""
    return write_chain(tmp_path_factory.mktemp("chain"), 4)
