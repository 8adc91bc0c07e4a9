"""What half precision does to gradients on their way, and to weights where they stand."""

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dat_rec.dist.process_group import process_group
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.table_shards import fbgemm_kernels, table_shards
from tests.distributed.ranks import run_ranks

ROWS, DIM = 8, 8
GRADIENTS = (1e-8, 1.0, 100.0)
"""Each rank looks up rows of its own, one for each."""


class Lookup(nn.Module):
    """One table; a gradient of its output is a gradient of its rows."""

    def __init__(self, data_type: DataType) -> None:
        super().__init__()
        table = EmbeddingBagConfig(
            name="item",
            embedding_dim=DIM,
            num_embeddings=ROWS,
            feature_names=["item"],
            pooling=PoolingType.SUM,
            data_type=data_type,
        )
        self.tables = EmbeddingBagCollection([table], device=torch.device("meta"))
        self.tower = nn.Linear(1, 1)

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        """(B, DIM)."""
        vectors: Tensor = self.tables(features).values()
        return vectors + 0 * self.tower.weight.sum()


def features_of(rows: Tensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor.from_lengths_sync(["item"], rows, torch.ones_like(rows))


def gradients_that_arrive(kind: str, comms: str) -> dict[int, float]:
    """By row on this rank, the size of the gradient that RowWiseAdagrad has seen."""
    with process_group(60) as context:
        options = ShardingOptions(
            len(GRADIENTS),
            table_lr=0.1,
            pins=(f"*={kind},min_partition:4",),
            comms=comms,  # type: ignore[arg-type]
        )
        model, _ = plan_and_shard(Lookup(DataType.FP32), {}, context, options)
        own = torch.arange(len(GRADIENTS)) + context.rank * len(GRADIENTS)
        model(features_of(own)).backward(torch.tensor(GRADIENTS).unsqueeze(1).expand(-1, DIM))
        found = {}
        for shard in table_shards(model):
            assert shard.accumulator is not None
            for row, square in enumerate(shard.accumulator.tolist()):
                found[shard.row + row] = square**0.5
        return found


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise", "table_row_wise"])
def test_small_and_large_gradients_arrive_in_float16(kind: str) -> None:
    for rank in run_ranks(gradients_that_arrive, 2, kind, "fp16"):
        for row, found in rank.items():
            sent = GRADIENTS[row % len(GRADIENTS)] if row < 2 * len(GRADIENTS) else 0.0
            # Averaged over the ranks, of which one has the row.
            assert found == pytest.approx(sent / 2, rel=0.01), (row, found)


def weights_after_steps(table_lr: float, steps: int) -> Tensor:
    """A row of a float16 table that began at 1, and steps by ``table_lr`` / √step."""
    with process_group(60) as context:
        model, _ = plan_and_shard(Lookup(DataType.FP16), {}, context, ShardingOptions(1, table_lr))
        (shard,) = table_shards(model)
        shard.weights.fill_(1.0)
        for _ in range(steps):
            model(features_of(torch.tensor([3]))).sum().backward()
        return shard.weights.float()


def test_a_float16_weight_moves_to_the_nearest_number_and_not_at_random() -> None:
    # Below 1 they lie 2⁻¹¹ apart.
    unit = 2.0**-11
    (lost,) = run_ranks(weights_after_steps, 1, 0.49 * unit, 40)
    assert (lost == 1).all()
    (moved,) = run_ranks(weights_after_steps, 1, 0.51 * unit, 1)
    assert (moved[3] == 1 - unit).all()
    assert (moved[:3] == 1).all()


def test_no_kernel_rounds_at_random() -> None:
    """On CPU nothing does; on GPUs FBGEMM's kernels would, had they not been told."""
    assert run_ranks(stochastic_roundings, 1) == [[False]]


def stochastic_roundings() -> list[bool]:
    with process_group(60) as context:
        model, _ = plan_and_shard(Lookup(DataType.FP16), {}, context, ShardingOptions(1, 0.1))
        return [
            kernel.emb_module.stochastic_rounding for kernel in fbgemm_kernels(model.module.tables)
        ]
