"""What a step could take at least, counted by hand."""

import numpy as np
import torch

from benchmarks.floor import bytes_of_tables, products_of
from benchmarks.shapes import Shape


def test_products_are_counted_by_dtype_forward_and_backward() -> None:
    rows, weight = torch.ones(5, 3, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    small = torch.ones(4, 4, dtype=torch.bfloat16)

    def step() -> None:
        (rows @ weight).sum().backward()
        torch.zeros(5, 2).addmm_(rows.detach(), weight.detach())
        small @ small

    found = products_of(step)
    assert found == {torch.float32: 4 * 2 * 5 * 3 * 2, torch.bfloat16: 2 * 4**3}


def test_bytes_of_tables_are_rows_read_and_updated() -> None:
    shape = Shape((6, 5), (7,), dim=4, output_dim=2, batch_size=16, categories=3)
    (batch,) = shape.batches(1)
    features = batch.features.to_dict()
    read = written = 0
    for name, width in (("user", 6), ("query_1", 4), ("item", 6), ("category", 4)):
        ids = [features[key].values().numpy() for key in (name, f"{name}@1") if key in features]
        read += sum(len(part) for part in ids) * 4 * width
        # A row and its float32 of Adagrad are read and written.
        written += len(set(np.concatenate(ids).tolist())) * 2 * 4 * (width + 1)
    assert bytes_of_tables(batch, shape, augmented=2) == read + written
