"""What a sharded model refuses that TorchRec would take."""

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dat_rec.dist.process_group import process_group
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.sharding.options import ShardingOptions

ROWS = 5


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        table = EmbeddingBagConfig(
            name="item",
            embedding_dim=4,
            num_embeddings=ROWS,
            feature_names=["item"],
            pooling=PoolingType.SUM,
        )
        self.tables = EmbeddingBagCollection([table], device=torch.device("meta"))

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        vectors: Tensor = self.tables(features).values()
        return vectors


@pytest.mark.parametrize("row", [ROWS, ROWS + 1, 2**31])
def test_a_row_that_is_not_there_is_an_error_and_not_row_0(row: int) -> None:
    with process_group(60) as context:
        model, _ = plan_and_shard(Lookup(), {}, context, ShardingOptions(2, 0.1))
        rows = torch.tensor([ROWS - 1, row])
        features = KeyedJaggedTensor.from_lengths_sync(["item"], rows, torch.ones_like(rows))
        with pytest.raises(RuntimeError, match="idx < num_rows"):
            model(features)
