"""The stream of batches against the files' rows: all of them, once an epoch, alike at any world."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dat_rec.data.batch import Batch, negative_key
from dat_rec.data.dataset import Dataset
from dat_rec.data.negatives import NegativeSampler, generator, log_candidate_share
from dat_rec.data.reader import ExampleReader, Prefetcher, ReaderOptions
from dat_rec.data.schema import ExampleFile
from dat_rec.errors import UserError

OPTIONS = ReaderOptions(batch_size=64, epochs=2, seed=1, negatives=2, window=2)


@pytest.fixture(scope="module")
def chopped(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The planted world in three files of small row groups, so that windows matter."""
    folder = tmp_path_factory.mktemp("chopped")
    (folder / "examples").mkdir()
    table = pq.read_table(planted.folder / "examples")
    cuts = [0, 2_000, 2_777, table.num_rows]
    files = []
    for number, (start, stop) in enumerate(pairwise(cuts)):
        path = f"examples/part-{number:05d}.parquet"
        pq.write_table(table.slice(start, stop - start), folder / path, row_group_size=500)
        files.append(ExampleFile(path, stop - start))
    for name in ("items", "users", "seen", "test"):
        (folder / f"{name}.parquet").write_bytes((planted.folder / f"{name}.parquet").read_bytes())
    schema = replace(planted.schema, example_files=tuple(files))
    schema.save(folder)
    return Dataset.open(folder)


def bags(batch: Batch, key: str) -> list[tuple[int, ...]]:
    return [tuple(bag.tolist()) for bag in batch.features[key].to_dense()]


def rows_of(dataset: Dataset, repeats: bool = True) -> Counter[tuple[tuple[int, ...], ...]]:
    table = pq.read_table(dataset.folder / "examples")
    names = [feature.name for feature in dataset.schema.features]
    rows: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for row in table.to_pylist():
        if repeats or not row["repeat"]:
            values = [row[name] if isinstance(row[name], list) else [row[name]] for name in names]
            rows[tuple(tuple(value) for value in values)] += 1
    return rows


def read(dataset: Dataset, options: ReaderOptions) -> Counter[tuple[tuple[int, ...], ...]]:
    names = [feature.name for feature in dataset.schema.features]
    rows: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for batch in ExampleReader(dataset, options):
        rows.update(zip(*(bags(batch, name) for name in names), strict=True))
    return rows


@pytest.mark.parametrize("skip_repeats", [False, True])
def test_each_epoch_holds_every_example_once(chopped: Dataset, skip_repeats: bool) -> None:
    expected = rows_of(chopped, repeats=not skip_repeats)
    options = replace(OPTIONS, batch_size=1, negatives=0, epochs=2, skip_repeats=skip_repeats)
    found = read(chopped, options)
    assert found == Counter({row: 2 * count for row, count in expected.items()})
    if skip_repeats:
        assert expected.total() < rows_of(chopped).total()


def test_order_changes_with_seed_and_epoch_and_stays_otherwise(chopped: Dataset) -> None:
    def users(options: ReaderOptions) -> list[int]:
        reader = ExampleReader(chopped, options)
        return [int(v) for batch in reader for v in batch.features["user"].values()]

    once = users(OPTIONS)
    assert once == users(OPTIONS)
    assert once != users(replace(OPTIONS, seed=2))
    half = chopped.schema.examples
    assert once[:1000] != once[half : half + 1000]


def same(first: Batch, second: Batch) -> bool:
    pairs = [
        (first.features.values(), second.features.values()),
        (first.features.lengths(), second.features.lengths()),
        (first.item_index, second.item_index),
        (first.category, second.category),
        (first.log_q, second.log_q),
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def test_ranks_hold_consecutive_parts_of_the_global_batch(chopped: Dataset) -> None:
    options = replace(OPTIONS, id_dropout=0.3)
    alone = ExampleReader(chopped, replace(options, batch_size=3 * options.batch_size))
    ranks = [ExampleReader(chopped, options, rank, 3) for rank in range(3)]
    assert {reader.steps for reader in ranks} == {alone.steps}
    for whole, *parts in zip(alone, *ranks, strict=True):
        for key in whole.features.keys():  # noqa: SIM118
            assert bags(whole, key) == [bag for part in parts for bag in bags(part, key)]
        for name in ("item_index", "category", "log_q"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(getattr(whole, name), joined)


@pytest.mark.parametrize("start", [1, 7, 60, 139, 200])
def test_a_resumed_reader_goes_on_where_it_stopped(chopped: Dataset, start: int) -> None:
    whole = list(ExampleReader(chopped, OPTIONS))
    rest = list(ExampleReader(chopped, OPTIONS, start_step=start))
    assert len(rest) == len(whole) - start
    assert all(map(same, whole[start:], rest))


def test_negatives_carry_their_own_items_features(chopped: Dataset) -> None:
    items = pq.read_table(chopped.folder / "items.parquet").to_pylist()
    batch = next(iter(ExampleReader(chopped, OPTIONS)))
    for column, key in enumerate(["", "@1", "@2"]):
        for feature in chopped.schema.side("item"):
            found = bags(batch, feature.name + key)
            for row, index in enumerate(batch.item_index[:, column].tolist()):
                value = items[index][feature.name]
                assert found[row] == tuple(value if isinstance(value, list) else [value])
    assert negative_key("item", 2) == "item@2"


def test_id_dropout_hides_ids_and_nothing_else(chopped: Dataset) -> None:
    plain = next(iter(ExampleReader(chopped, OPTIONS)))
    hidden = next(iter(ExampleReader(chopped, replace(OPTIONS, id_dropout=0.5))))
    for key in plain.features.keys():  # noqa: SIM118
        before, after = plain.features[key].values(), hidden.features[key].values()
        if key in ("user", "item"):
            dropped = after == 0
            assert 0.2 < dropped.float().mean() < 0.8
            assert torch.equal(after[~dropped], before[~dropped])
        else:
            assert torch.equal(before, after)
    assert torch.equal(plain.item_index, hidden.item_index)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_negatives_are_drawn_by_popularity_to_the_power(power: float) -> None:
    counts = np.array([1, 4, 9, 100])
    sampler = NegativeSampler(counts, power)
    drawn = sampler.draw((40_000, 2), generator(0, 1, 2))
    expected = np.array([count**power for count in counts.tolist()])
    expected /= expected.sum()
    share = np.bincount(drawn.ravel(), minlength=4) / drawn.size
    np.testing.assert_allclose(share, expected, atol=0.01)


def test_log_q_is_the_share_among_simulated_candidates() -> None:
    counts = np.array([1, 4, 15])
    sampler = NegativeSampler(counts, 0.0)
    rng = generator(0, 1, 2)
    positives = rng.choice(3, 60_000, p=counts / counts.sum())
    candidates = np.concatenate([positives, sampler.draw((60_000, 3), rng).ravel()])
    share = np.bincount(candidates, minlength=3) / len(candidates)
    np.testing.assert_allclose(np.exp(log_candidate_share(counts, sampler, 3)), share, atol=0.005)


def test_log_q_counts_the_examples_that_are_trained_on(chopped: Dataset) -> None:
    rows = pq.read_table(chopped.folder / "examples", columns=["item_index", "repeat"]).to_pylist()
    for skip in (False, True):
        counts = Counter(row["item_index"] for row in rows if not (skip and row["repeat"]))
        options = replace(OPTIONS, negatives=0, skip_repeats=skip)
        batch = next(iter(ExampleReader(chopped, options)))
        expected = [counts[item] / counts.total() for item in batch.item_index[:, 0].tolist()]
        np.testing.assert_allclose(batch.log_q[:, 0].exp().numpy(), expected, rtol=1e-5)


def test_too_few_examples_for_one_batch_are_refused(chopped: Dataset) -> None:
    with pytest.raises(UserError, match="fewer than one global batch of 2000000"):
        ExampleReader(chopped, replace(OPTIONS, batch_size=1_000_000), 0, 2)


def test_a_bad_file_is_named_and_reaches_the_taker(chopped: Dataset, tmp_path: Path) -> None:
    for file in ("items.parquet", "schema.json"):
        (tmp_path / file).write_bytes((chopped.folder / file).read_bytes())
    (tmp_path / "examples").mkdir()
    for example_file in chopped.schema.example_files:
        table = pq.read_table(chopped.folder / example_file.path)
        users = np.full(table.num_rows, chopped.schema.feature("user").rows, np.int32)
        bad = table.set_column(table.column_names.index("user"), "user", [users])
        pq.write_table(bad, tmp_path / example_file.path)
    batches = Prefetcher(iter(ExampleReader(Dataset.open(tmp_path), OPTIONS)))
    with pytest.raises(UserError, match=r"part-0000\d.parquet .*'user' holds id"):
        next(batches)
    batches.close()


def test_a_cut_off_file_is_refused(chopped: Dataset, tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    for file in ("items.parquet", "schema.json", *(f.path for f in chopped.schema.example_files)):
        (tmp_path / file).write_bytes((chopped.folder / file).read_bytes())
    path = tmp_path / chopped.schema.example_files[1].path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"part-00001.parquet: cannot be read"):
        ExampleReader(Dataset.open(tmp_path), OPTIONS)
