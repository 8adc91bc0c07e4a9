"""A log as the study needs it: prepared twice, with a validation span and without.

    dat-rec prepare SOURCE … --validation-share .1 --out DIR/tuning
    dat-rec prepare SOURCE … --out DIR/whole

Settings are chosen on the first; what is chosen is trained on the second, whose training has the
validation span too. The test must be the same in both.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.quality.arms import Setting
from dat_rec.config import Preset, preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.digests import DIGESTS
from dat_rec.data.schema import Schema
from dat_rec.defaults import batch_size, by_data
from dat_rec.errors import UserError
from dat_rec.files import read_json
from dat_rec.option_marks import flatten, to_json

MADE_BY = "dat-rec prepare SOURCE … --validation-share .1 --out {0}/tuning; the same without it "
MADE_BY += "--out {0}/whole"


@dataclass(frozen=True)
class StudyData:
    """A log, prepared twice."""

    folder: Path
    tuning: str
    """Digest of the dataset with a validation span."""
    whole: str
    """Digest of the one without."""

    @property
    def name(self) -> str:
        """What the study calls it."""
        return self.folder.name

    def usual(self, name: Preset) -> Setting:
        """What the rules of the defaults say of the data, where it is not what the preset has."""
        plain = preset(name, self.folder, self.folder)
        fitted = by_data(plain, _schema(self.folder / "tuning"))
        values, others = flatten(to_json(plain)), flatten(to_json(fitted))
        return {name: value for name, value in others.items() if value != values[name]}

    @property
    def batch_size(self) -> int:
        """The batch size that the defaults have for the data."""
        return batch_size(_schema(self.folder / "tuning"))

    def epoch_steps(self, batch_size: int, *, skip_repeats: bool) -> int:
        """Number of steps of an epoch on the dataset with a validation span."""
        examples, repeats = _examples(self.folder / "tuning")
        return max(1, -(-(examples - repeats * skip_repeats) // batch_size))


@cache
def _schema(folder: Path) -> Schema:
    return Dataset.open(folder).schema


@cache
def _examples(folder: Path) -> tuple[int, int]:
    """Number of the examples, and of the repeats among them."""
    files = _schema(folder).example_files
    repeats = [pq.read_table(folder / one.path, columns=["repeat"])["repeat"] for one in files]
    return sum(one.rows for one in files), sum(int(one.to_numpy().sum()) for one in repeats)


def open_data(folder: Path) -> StudyData:
    """Open both datasets of a log, and check that they belong together.

    Raises:
        UserError: one is missing, has a validation span or none against its name, or their tests
            differ.
    """
    folder = folder.resolve()
    made_by = MADE_BY.format(folder)
    for name in ("tuning", "whole"):
        if not (folder / name).is_dir():
            raise UserError(f"{folder}: has no folder {name!r}: {made_by}")
    tuning, whole = (Dataset.open(folder / name) for name in ("tuning", "whole"))
    if not tuning.schema.validation:
        raise UserError(f"{tuning.folder}: has no validation span to choose on: {made_by}")
    if whole.schema.validation:
        raise UserError(f"{whole.folder}: has a validation span, which is to be trained: {made_by}")
    if _tested(tuning) != _tested(whole):
        raise UserError(f"{folder}: tuning and whole have different tests: {made_by}")
    return StudyData(folder, _digest(folder / "tuning"), _digest(folder / "whole"))


def _tested(dataset: Dataset) -> str:
    """SHA-256 of the test's users, items and times: ids, for rows differ with what is trained."""
    test = dataset.table("test", ["user_row", "item_index", "time"])
    columns = {"time": test["time"]}
    for table, key, row in (("users", "user_id", "user_row"), ("items", "item_id", "item_index")):
        columns[key] = dataset.table(table, [key])[key].take(test[row])
    found = pa.table(columns).sort_by([(name, "ascending") for name in columns])
    digest = hashlib.sha256()
    for name in found.column_names:
        digest.update(repr(found[name].to_pylist()).encode())
    return digest.hexdigest()


def _digest(folder: Path) -> str:
    """What a trial knows the dataset by: it follows from the SHA-256 of every file."""
    found = read_json(folder / DIGESTS, "the dataset's digests")
    text = "\n".join(f"{name} {found[name]}" for name in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
