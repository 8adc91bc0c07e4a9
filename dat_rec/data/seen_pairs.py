"""A dataset's training pairs in, user by user: of all files together, where there are several."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet

Ints = NDArray[np.int32]
NONE = np.zeros(0, np.int32)


def pairs_by_user(dataset: Dataset, rows: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield user_row and item_index of distinct training pairs, by both, in blocks of whole users.

    Args:
        dataset: a prepared dataset.
        rows: number of rows of each file that are read at a time.

    Raises:
        UserError: a file cannot be read.
    """
    files = [_File(dataset.folder / path, rows) for path in dataset.schema.seen_paths]
    while True:
        left = [file.read() for file in files]
        if not any(left):
            return
        # Of users below it, all files have told all; those at their ends tell no more.
        stop = min(file.whole for file in files)
        taken = [file.take(stop) for file in files]
        user, item = (np.concatenate(parts) for parts in zip(*taken, strict=True))
        if len(files) > 1:
            pairs = np.unique(user.astype(np.int64) << 32 | item)
            user, item = (pairs >> 32).astype(np.int32), (pairs & 0x7FFFFFFF).astype(np.int32)
        if len(user):
            yield user, item


class _File:
    """The pairs of one file that were read and not yet taken."""

    def __init__(self, path: Location, rows: int) -> None:
        self._batches = _batches(path, rows)
        self._user = self._item = NONE
        self._ended = False

    @property
    def whole(self) -> int:
        """The users below this row were read with all their pairs."""
        return np.iinfo(np.int32).max if self._ended else int(self._user[-1])

    def read(self) -> bool:
        """Read on, unless some user was read whole already; return whether anything is left."""
        while not self._ended and (not len(self._user) or self._user[0] == self._user[-1]):
            batch = next(self._batches, None)
            if batch is None:
                self._ended = True
            else:
                self._user = np.concatenate([self._user, batch[0]])
                self._item = np.concatenate([self._item, batch[1]])
        return not self._ended or len(self._user) > 0

    def take(self, stop: int) -> tuple[Ints, Ints]:
        """Take the pairs of the users below ``stop``."""
        end = int(np.searchsorted(self._user, stop))
        found = self._user[:end], self._item[:end]
        self._user, self._item = self._user[end:], self._item[end:]
        return found


def _batches(path: Location, rows: int) -> Iterator[tuple[Ints, Ints]]:
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(rows, columns=["user_row", "item_index"]):
                user, item = (
                    batch[name].to_numpy().astype(np.int32) for name in ("user_row", "item_index")
                )
                yield user, item
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: cannot be read ({reason}): prepare the dataset anew") from error
