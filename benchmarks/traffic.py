"""What a rank sends to others in a step: counted, not measured."""

from itertools import pairwise
from math import prod

from benchmarks.shapes import Shape

FLOAT, INT64 = 4, 8
"""Bytes."""


def bytes_sent(shape: Shape, ranks: int) -> float:
    """Return the bytes that each rank sends in a step, with tables evenly spread table-wise.

    Ids to the tables' ranks; pooled embeddings and vectors back, and their gradients; the towers'
    vectors and what is known of the items; moments and towers' gradients, summed in a ring.
    """
    rows = (shape.batch_size + shape.shared_negatives) / ranks
    candidates = 1 if shape.shared_negatives else 1 + shape.negatives
    item_keys = (len(shape.item_rows) + 1) * candidates
    bags = len(shape.query_rows) + item_keys
    single = 1 + 2 * candidates  # user, item, category
    augmented = 1 + candidates  # user, item
    values = single + (bags - single) * shape.bag
    pooled = bags * shape.dim + augmented * shape.output_dim
    away = (ranks - 1) / ranks
    ids = rows * (values + bags + 2 * augmented) * INT64 * away
    embeddings = 2 * rows * pooled * FLOAT * away
    # With shared negatives, the examples' own items are no candidates of others.
    known = shape.shared_negatives / ranks if shape.shared_negatives else rows * candidates
    vectors = known * (2 * shape.output_dim * FLOAT + 3 * INT64) * (ranks - 1)
    moments = shape.categories * (1 + shape.output_dim + shape.output_dim**2)
    summed = 2 * (2 * moments + _tower_weights(shape)) * FLOAT * away
    return ids + embeddings + vectors + summed


def tables(shape: Shape) -> int:
    """Return the number of tables in both collections."""
    return len(shape.query_rows) + len(shape.item_rows) + 1 + 2


def _tower_weights(shape: Shape) -> int:
    """Number of weights in both towers."""
    weights = 0
    for features in (len(shape.query_rows), len(shape.item_rows) + 1):
        widths = [features * shape.dim + shape.output_dim, *shape.hidden, shape.output_dim]
        weights += sum(prod(layer) + layer[1] for layer in pairwise(widths))
    return weights
