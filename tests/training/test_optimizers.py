"""The learning rates: their schedule in figures, and that both optimizers step by them."""

from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dat_rec.config import OptimizerConfig
from dat_rec.dist.process_group import process_group
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.sharding.options import ShardingOptions
from dat_rec.training.optimizers import LearningRates, build_optimizer, learning_rate_factor

TABLE_LR, TOWER_LR, EPS = 0.1, 0.02, 1e-8
STEPS, WARMUP = 5, 1
FACTORS = (0.5, 0.8, 0.6, 0.4, 0.2)
"""Of 5 steps, one of them warm-up: 1/2 · 5/5, 2/2 · 4/5, then 3/5, 2/5, 1/5."""
ROW, DIM = 2, 4


@pytest.mark.parametrize(
    ("warmup", "decay", "step", "expected"),
    [
        (4, "none", 0, 0.2),
        (4, "none", 2, 0.6),
        (4, "none", 3, 0.8),
        (4, "none", 4, 1.0),
        (4, "none", 9, 1.0),
        (4, "linear", 0, 0.2),
        (4, "linear", 2, 0.48),  # 3/5 · 8/10
        (4, "linear", 4, 0.6),
        (4, "linear", 9, 0.1),
        (0, "none", 0, 1.0),
        (0, "linear", 0, 1.0),
        (0, "linear", 9, 0.1),
        (19, "linear", 9, 0.05),  # a run that ends half-way up: 10/20 · 1/10
    ],
)
def test_factor_of_a_run_of_10_steps(
    warmup: int, decay: Literal["none", "linear"], step: int, expected: float
) -> None:
    config = OptimizerConfig(warmup_steps=warmup, decay=decay)
    assert learning_rate_factor(step, 10, config) == pytest.approx(expected, abs=1e-12)


class Product(nn.Module):
    """⟨row of a table, weight of a tower⟩: each is the other's gradient."""

    def __init__(self) -> None:
        super().__init__()
        table = EmbeddingBagConfig(
            name="item",
            embedding_dim=DIM,
            num_embeddings=ROW + 1,
            feature_names=["item"],
            pooling=PoolingType.SUM,
        )
        self.embeddings = EmbeddingBagCollection(tables=[table], device=torch.device("meta"))
        self.tower = nn.Linear(DIM, 1, bias=False)

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        product: Tensor = self.tower(self.embeddings(features).to_dict()["item"])
        return product.sum()


def test_set_moves_tables_and_towers_by_the_scheduled_rates() -> None:
    config = OptimizerConfig(warmup_steps=WARMUP, decay="linear")
    features = KeyedJaggedTensor(["item"], torch.tensor([ROW]), lengths=torch.tensor([1]))
    with process_group(60) as context:
        model, _ = plan_and_shard(Product(), {}, context, ShardingOptions(1, TABLE_LR))
        initialize_tables(model, seed=0, scale=1.0)
        optimizer = build_optimizer(model, TOWER_LR, TABLE_LR)
        rates = LearningRates(optimizer, config, STEPS)

        def weights() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            table, tower = model.state_dict().values()
            row = table.local_shards()[0].tensor[ROW]
            return row.detach().double().numpy(), tower[0].detach().double().numpy()

        expected = moves(*weights())
        for step in range(STEPS):
            assert rates.set(step) == pytest.approx(FACTORS[step])
            before = weights()
            optimizer.zero_grad()
            model(features).backward()
            optimizer.step()
            for now, then, move in zip(weights(), before, expected[step], strict=True):
                np.testing.assert_allclose(now - then, move, rtol=1e-4, atol=1e-7)


def moves(
    row: NDArray[np.float64], tower: NDArray[np.float64]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """What RowWiseAdagrad and Adam add to the row and to the tower in each step."""
    squares = np.float64(0)
    first, second = np.zeros(DIM), np.zeros(DIM)
    result = []
    for number, factor in enumerate(FACTORS, start=1):
        squares += (tower**2).mean()
        row_move = -TABLE_LR * factor * tower / (np.sqrt(squares) + EPS)
        first = 0.9 * first + 0.1 * row
        second = 0.999 * second + 0.001 * row**2
        unbiased_first, unbiased_second = first / (1 - 0.9**number), second / (1 - 0.999**number)
        tower_move = -TOWER_LR * factor * unbiased_first / (np.sqrt(unbiased_second) + EPS)
        result.append((row_move, tower_move))
        row, tower = row + row_move, tower + tower_move
    return result
