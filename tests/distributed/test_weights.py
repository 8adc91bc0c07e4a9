"""Weighted examples on two ranks against one unsharded process; weights of 1 against none."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dat_rec.config import PRESETS
from dat_rec.data.dataset import Dataset
from tests.distributed.exactness import Case, run_cases, run_references
from tests.distributed.ranks import run_ranks
from tests.distributed.test_exactness import EXACT, difference

CASES = [Case(preset, ("*=row_wise",)) for preset in PRESETS]


def weighted(dataset: Dataset, folder: Path, *, alike: bool = False) -> Dataset:
    """The dataset with the weights 1, 3 and 7.3, in turn; or with 1 alone."""
    shutil.copytree(dataset.folder, folder)
    for file in dataset.schema.example_files:
        table = pq.read_table(folder / file.path)
        values = np.ones(1) if alike else np.array([1, 3, 7.3])
        weight = pa.array(np.resize(values, table.num_rows).astype(np.float32))
        pq.write_table(table.append_column("example_weight", weight), folder / file.path)
    replace(dataset.schema, example_weights={}).save(folder)
    return Dataset.open(folder)


def test_two_ranks_train_as_one_process_does(divisible: Dataset, tmp_path: Path) -> None:
    dataset = weighted(divisible, tmp_path / "data")
    plain = [Case(case.preset) for case in CASES]
    references = run_ranks(run_references, 1, dataset, plain)[0]
    without = run_ranks(run_references, 1, divisible, plain)[0]
    for outcomes in run_ranks(run_cases, 2, dataset, CASES):
        for outcome, reference, other in zip(outcomes, references, without, strict=True):
            found = difference(outcome, reference)
            assert found.loss <= EXACT
            assert found.parameters <= EXACT
            assert difference(outcome, other).loss > 100 * EXACT


def test_weights_of_1_train_to_the_bits_of_none(divisible: Dataset, tmp_path: Path) -> None:
    ones = weighted(divisible, tmp_path / "data", alike=True)
    found, wanted = (run_ranks(run_cases, 2, dataset, CASES)[0] for dataset in (ones, divisible))
    for one, other in zip(found, wanted, strict=True):
        assert one.losses == other.losses
        for name, parameter in other.parameters.items():
            assert torch.equal(one.parameters[name], parameter), name
