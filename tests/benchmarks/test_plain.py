"""The model in plain PyTorch has the loss and the gradients of ours, or it would prove nothing."""

from dataclasses import replace

import pytest
import torch

from benchmarks.plain import PlainDAT
from benchmarks.shapes import Shape
from dat_rec.dist.process_group import process_group
from dat_rec.training.objective import TrainTask

SHAPE = Shape((50, 20), (40, 30), dim=8, hidden=(16,), output_dim=8, batch_size=32, categories=4)


@pytest.mark.parametrize(
    "shape",
    [
        replace(SHAPE, bag=3),
        replace(SHAPE, negatives=2),
        replace(SHAPE, shared_negatives=20),
        replace(SHAPE, shared_negatives=40),
    ],
)
@pytest.mark.parametrize("preset", ["modern", "two-tower"])
def test_plain_pytorch_has_the_same_loss(preset: str, shape: Shape) -> None:
    torch.manual_seed(0)
    config = shape.config(preset)  # type: ignore[arg-type]
    batch = shape.batches(1)[0]
    with process_group(60):
        ours = TrainTask(shape.schema(), config.model, config.loss)
        plain = PlainDAT(shape.schema(), config)
        given = {
            name.removeprefix("dat.")
            .replace("embeddings.embedding_bags", "tables")
            .replace("augmented.embedding_bags", "tables")
            .replace("tower.layers", "tower"): value
            for name, value in ours.state_dict().items()
        }
        plain.load_state_dict(given)
        loss, _ = ours(batch)
        loss.backward()
        other = plain(batch)
        other.backward()
    torch.testing.assert_close(other, loss)
    for name, parameter in plain.query_tower.named_parameters():
        mine = ours.get_parameter(f"dat.query_tower.layers.{name}")
        torch.testing.assert_close(parameter.grad, mine.grad)
    table = plain.tables["item"].weight.grad
    assert table is not None
    assert table.is_sparse
    expected = ours.get_parameter("dat.embeddings.embedding_bags.item.weight").grad
    torch.testing.assert_close(table.to_dense(), expected)
