"""The examples' column ``example_weight`` in, an array of weights out, checked at the door."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.data.schema import EXAMPLE_WEIGHT
from dat_rec.errors import UserError


def read_weights(table: pa.Table, where: str, first_row: int = 0) -> NDArray[np.float32]:
    """What each row of ``table`` weighs, (rows,) float32.

    Args:
        table: has the column, of floats.
        where: the file's name, and the row group's number if ``table`` is of one, for messages.
        first_row: number in ``where`` of the table's first row, for messages.

    Raises:
        UserError: the column is missing or holds no floats, or one is null, not finite, or 0 or
            less.
    """
    if EXAMPLE_WEIGHT not in table.column_names:
        raise UserError(f"{where}: column {EXAMPLE_WEIGHT!r} is missing: prepare the dataset anew")
    column = table[EXAMPLE_WEIGHT]
    if not pa.types.is_floating(column.type):
        raise UserError(
            f"{where}: column {EXAMPLE_WEIGHT!r} is {column.type}, not floats: prepare the dataset "
            "anew"
        )
    weight: NDArray[np.float32] = column.to_numpy().astype(np.float32, copy=False)  # nulls are NaN
    bad = ~(np.isfinite(weight) & (weight > 0))
    if bad.any():
        row = int(bad.argmax())
        raise UserError(
            f"{where}: column {EXAMPLE_WEIGHT!r}, row {first_row + row} (from 0), is "
            f"{weight[row]}, and a weight is a finite number above 0: prepare the dataset anew"
        )
    return weight
