"""Tables of a CPU are updated as RowWiseAdagrad says, and none by FBGEMM's slow kernel."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dat_rec.dist.process_group import process_group
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.shard import EPS
from dat_rec.sharding.table_shards import table_shards

ROWS, DIM, BAGS, LR = 7, 8, 50, 0.1
FEATURES = {"first": ["a"], "shared": ["b", "c"], "middle": ["d"], "last": ["e"]}
KEYS = [key for keys in FEATURES.values() for key in keys]


class Lookup(nn.Module):
    def __init__(self, keys: dict[str, list[str]]) -> None:
        super().__init__()
        self.tables = EmbeddingBagCollection(
            [
                EmbeddingBagConfig(
                    name=name,
                    embedding_dim=DIM,
                    num_embeddings=ROWS,
                    feature_names=names,
                    pooling=PoolingType.SUM,
                )
                for name, names in keys.items()
            ],
            device=torch.device("meta"),
        )

    def forward(self, features: KeyedJaggedTensor) -> dict[str, Tensor]:
        vectors: dict[str, Tensor] = self.tables(features).to_dict()
        return vectors


class Updates(TorchDispatchMode):
    """Keeps how many features FBGEMM is told of each table."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.features: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "backward_codegen_rowwise_adagrad" in func.name():
            names = [argument.name for argument in func._schema.arguments]
            begins = dict(zip(names, args, strict=False))["hash_size_cumsum"][:-1]
            self.features += begins.unique(return_counts=True)[1].tolist()
        return func(*args, **(kwargs or {}))


def batch(rng: np.random.Generator) -> dict[str, list[NDArray[np.int64]]]:
    """Bags of no to four ids each, the same id several times in some."""
    return {key: [rng.integers(ROWS, size=rng.integers(5)) for _ in range(BAGS)] for key in KEYS}


def by_hand(
    weights: dict[str, NDArray[np.float64]],
    sums: dict[str, NDArray[np.float64]],
    bags: dict[str, list[NDArray[np.int64]]],
    gradient: dict[str, NDArray[np.float32]],
) -> None:
    """One update of RowWiseAdagrad, row after row."""
    for table, keys in FEATURES.items():
        of_row: dict[int, NDArray[np.float64]] = defaultdict(lambda: np.zeros(DIM))
        for key in keys:
            for number, ids in enumerate(bags[key]):
                for one in ids:
                    of_row[int(one)] += gradient[key][number]
        for row, total in of_row.items():
            sums[table][row] += np.mean(total**2)
            weights[table][row] -= LR * total / (np.sqrt(sums[table][row]) + EPS)


@pytest.fixture(scope="module")
def trained() -> list[tuple[dict[str, Tensor], dict[str, Tensor], Updates]]:
    """Weights, accumulators and what FBGEMM was told: of two runs of three steps, by table."""
    found = []
    with process_group(60) as context:
        for _ in range(2):
            model, _ = plan_and_shard(
                Lookup(FEATURES), dict.fromkeys(KEYS, 2.0), context, ShardingOptions(BAGS, LR)
            )
            initialize_tables(model, 0, 1.0)
            rng, told = np.random.default_rng(1), Updates()
            for _ in range(3):
                bags = batch(rng)
                gradient = {key: rng.standard_normal((BAGS, DIM), np.float32) for key in KEYS}
                values = [torch.from_numpy(np.concatenate(bags[key])) for key in KEYS]
                lengths = [torch.tensor([len(ids) for ids in bags[key]]) for key in KEYS]
                features = KeyedJaggedTensor(KEYS, torch.cat(values), lengths=torch.cat(lengths))
                with told:
                    vectors = model(features)
                    torch.autograd.backward(
                        [vectors[key] for key in KEYS],
                        [torch.from_numpy(gradient[key]) for key in KEYS],
                    )
            shards = {shard.table.rpartition(".")[2]: shard for shard in table_shards(model)}
            weights = {name: shard.weights.clone() for name, shard in shards.items()}
            sums = {
                name: shard.accumulator.clone()
                for name, shard in shards.items()
                if shard.accumulator is not None
            }
            found.append((weights, sums, told))
    return found


def test_rows_and_accumulators_are_those_of_rowwise_adagrad(
    trained: list[tuple[dict[str, Tensor], dict[str, Tensor], Updates]],
) -> None:
    with process_group(60) as context:
        model, _ = plan_and_shard(
            Lookup(FEATURES), dict.fromkeys(KEYS, 2.0), context, ShardingOptions(BAGS, LR)
        )
        initialize_tables(model, 0, 1.0)
        begin = {
            shard.table.rpartition(".")[2]: shard.weights.double().numpy()
            for shard in table_shards(model)
        }
    sums = {name: np.zeros(ROWS) for name in FEATURES}
    rng = np.random.default_rng(1)
    for _ in range(3):
        bags = batch(rng)
        gradient = {key: rng.standard_normal((BAGS, DIM), np.float32) for key in KEYS}
        by_hand(begin, sums, bags, gradient)
    weights, accumulators, _ = trained[0]
    for name in FEATURES:
        np.testing.assert_allclose(weights[name].numpy(), begin[name], rtol=0, atol=1e-6)
        np.testing.assert_allclose(accumulators[name].numpy(), sums[name], rtol=1e-5)


def test_the_same_batches_give_the_same_bits(
    trained: list[tuple[dict[str, Tensor], dict[str, Tensor], Updates]],
) -> None:
    once, twice = trained
    for kind in (0, 1):
        for name in FEATURES:
            assert torch.equal(once[kind][name], twice[kind][name])


def test_no_table_goes_to_the_kernel_of_tables_of_one_feature(
    trained: list[tuple[dict[str, Tensor], dict[str, Tensor], Updates]],
) -> None:
    features = trained[0][2].features
    assert len(features) == 3 * len(FEATURES)
    assert min(features) == 2
