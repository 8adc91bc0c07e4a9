"""The stream of batches against the files' rows: all of them, once an epoch, alike at any world."""

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import ExampleFile
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.data.stream.batch import Batch, negative_key
from dat_rec.data.stream.negatives import NegativeSampler, generator, log_candidate_share, uniform
from dat_rec.data.stream.prefetch import Prefetcher
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.data.stream.reader_options import ReaderOptions
from dat_rec.data.stream.survey import join_surveys, survey
from dat_rec.errors import UserError
from tests.data.sources.prepared import own, write

OPTIONS = ReaderOptions(global_batch=64, epochs=2, seed=1, negatives=2, lanes=3, shuffle_mb=0.01)
"""Three lanes, each of which shuffles as little as it can: as many rows as a row group has."""


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


@pytest.fixture(scope="module")
def numbered(chopped: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The chopped world, where every example's user is a number of its own."""
    folder = tmp_path_factory.mktemp("numbered")
    (folder / "examples").mkdir()
    (folder / "items.parquet").write_bytes((chopped.folder / "items.parquet").read_bytes())
    first = 0
    for file in chopped.schema.example_files:
        table = pq.read_table(chopped.folder / file.path)
        users = np.arange(first, first + file.rows)
        table = table.set_column(table.column_names.index("user"), "user", [users])
        pq.write_table(table, folder / file.path, row_group_size=500)
        first += file.rows
    features = tuple(
        replace(feature, rows=first) if feature.table == "user" else feature
        for feature in chopped.schema.features
    )
    replace(chopped.schema, features=features).save(folder)
    return Dataset.open(folder)


def bags(batch: Batch, key: str, rank: int = 0) -> list[tuple[int, ...]]:
    """The bags of the rank's examples, padding left out."""
    found = [tuple(bag.tolist()) for bag in batch.features[key].to_dense()]
    return found[: batch.counts[rank]]


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


@pytest.mark.parametrize("global_batch", [5, 777, 20_000])
@pytest.mark.parametrize("skip_repeats", [False, True])
def test_each_epoch_holds_every_example_once(
    chopped: Dataset, skip_repeats: bool, global_batch: int
) -> None:
    expected = rows_of(chopped, repeats=not skip_repeats)
    options = replace(OPTIONS, global_batch=global_batch, negatives=0, skip_repeats=skip_repeats)
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


def remainder(dataset: Dataset, rows: int) -> int:
    """A global batch that is not divisible by 2 or 3 and leaves ``rows`` for the last one."""
    examples = dataset.schema.examples
    return next(g for g in range(100, examples) if examples % g == rows and g % 2 and g % 3)


def joined(ranks: Sequence[Batch], which: str, field: str = "index") -> Tensor:
    """The positives or negatives of every rank, without padding."""
    counts = {"positives": ranks[0].counts, "negatives": ranks[0].negative_counts}[which]
    parts = [getattr(getattr(b, which), field) for b in ranks]
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def negative_bags(batch: Batch, feature: str, rank: int = 0) -> list[tuple[int, ...]]:
    """The bags of the rank's negatives, padding left out: key after key, or behind the examples."""
    keys = [key for key in batch.features.keys() if key.startswith(f"{feature}@")]  # noqa: SIM118
    found = [tuple(bag.tolist()) for key in keys for bag in batch.features[key].to_dense()]
    if not keys:
        bags_of_all = batch.features[feature].to_dense()
        found = [tuple(bag.tolist()) for bag in bags_of_all[len(batch.positives.index) :]]
    return found[: batch.negative_counts[rank]]


def check_parts(whole: Batch, ranks: Sequence[Batch]) -> None:
    """``ranks`` cut ``whole``, each about as much as the others, and nothing of it is lost."""
    (counts,) = {batch.counts for batch in ranks}
    assert sum(counts) == whole.counts[0]
    assert len(counts) == len(ranks)
    assert max(counts) - min(counts) <= 2
    for key in whole.features.keys():  # noqa: SIM118
        if "@" not in key:
            parts = [v for rank, b in enumerate(ranks) for v in bags(b, key, rank)]
            assert bags(whole, key) == parts
    for feature in ("item", "category"):
        parts = [v for rank, b in enumerate(ranks) for v in negative_bags(b, feature, rank)]
        assert negative_bags(whole, feature) == parts
    for name, field in product(("positives", "negatives"), ("index", "category", "offset")):
        assert torch.equal(joined([whole], name, field), joined(ranks, name, field))


def check_padding(batch: Batch, rank: int, rows: int, negatives: int) -> None:
    """``rows`` rows, and negatives, of which those behind what is there are empty."""
    own, own_negatives = batch.counts[rank], batch.negative_counts[rank]
    shared = batch.features.stride() - rows
    lengths = batch.features.lengths().view(-1, rows + shared)
    assert len(lengths) == len(batch.features.keys())
    assert lengths.sum() == len(batch.features.values())
    for key, length in zip(batch.features.keys(), lengths, strict=True):
        name, _, number = key.partition("@")
        there = own_negatives - rows * (int(number) - 1) if number else own
        behind = own_negatives if shared and name in ("item", "category", "tags") else 0
        assert not length[max(0, there) : rows].any()
        assert not length[rows + behind :].any()
        if name in ("user", "item", "category"):
            assert length[: max(0, there)].all()
            assert length[rows : rows + behind].all()
    for items, count, size in (
        (batch.positives, own, rows),
        (batch.negatives, own_negatives, negatives),
    ):
        for tensor in items.tensors():
            assert tensor.shape == (size,)
            assert not tensor[count:].any()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize(("shared", "last"), [(0, 1), (0, 3), (0, 50), (1, 3), (1000, 50)])
def test_ranks_cut_each_global_batch_and_pad_it_alike(
    chopped: Dataset, shared: int, world: int, last: int
) -> None:
    size = remainder(chopped, last)
    options = replace(OPTIONS, global_batch=size, epochs=1, id_dropout=0.3, shared_negatives=shared)
    options = replace(options, unknown_count="typical", popularity=0.5)
    rows = ExampleReader(chopped, options, 0, world).rows
    assert rows <= math.ceil(size / world) + 1
    negatives = math.ceil(shared / world) if shared else OPTIONS.negatives * rows
    alone = ExampleReader(chopped, options)
    readers = [ExampleReader(chopped, options, rank, world) for rank in range(world)]
    sizes = []
    for whole, *ranks in zip(alone, *readers, strict=True):
        check_parts(whole, ranks)
        for rank, batch in enumerate(ranks):
            check_padding(batch, rank, rows, negatives)
            if shared:
                assert sum(batch.negative_counts) == shared
        sizes.append(sum(ranks[0].counts))
    assert sizes == [size] * (chopped.schema.examples // size) + [last]
    assert {reader.steps for reader in readers} == {len(sizes)}
    assert max(max(batch.counts) for batch in ranks) <= rows
    assert (0 in ranks[0].counts) == (last < world)


@pytest.fixture(scope="module")
def weighted(chopped: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The chopped world, where an example's weight tells which one it is."""
    folder = tmp_path_factory.mktemp("weighted")
    shutil.copytree(chopped.folder, folder, dirs_exist_ok=True)
    for file in chopped.schema.example_files:
        table = pq.read_table(folder / file.path)
        weight = pa.array(weight_of(table["user"].to_numpy(), table["item"].to_numpy()))
        table = table.append_column("example_weight", weight)
        pq.write_table(table, folder / file.path, row_group_size=500)
    replace(chopped.schema, example_weights={}).save(folder)
    return Dataset.open(folder)


def weight_of(user: Any, item: Any) -> Any:
    return (1 + user * 1000 + item).astype(np.float32)


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("start", [0, 7, 139])
def test_each_example_of_a_batch_has_its_own_weight(
    chopped: Dataset, weighted: Dataset, start: int, world: int
) -> None:
    """Resumed or not, on any ranks; and all else is as without weights."""
    options = replace(OPTIONS, global_batch=101)
    for rank in range(world):
        readers = (ExampleReader(d, options, rank, world, start) for d in (chopped, weighted))
        for plain, batch in zip(*readers, strict=True):
            own = batch.counts[rank]
            assert plain.weight is None
            assert batch.weight is not None
            assert batch.weight.dtype == torch.float32
            user, item = (np.array(bags(batch, name, rank))[:, 0] for name in ("user", "item"))
            assert batch.weight[:own].tolist() == weight_of(user, item).tolist()
            assert not batch.weight[own:].any()
            assert batch.weight.shape == (len(batch.positives.index),)
            assert torch.equal(plain.features.values(), batch.features.values())


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan, None, "text", "missing"])
def test_what_is_no_weight_is_refused_with_file_and_row(
    weighted: Dataset, bad: Any, tmp_path: Path
) -> None:
    shutil.copytree(weighted.folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / weighted.schema.example_files[2].path
    table = pq.read_table(path)
    values = table["example_weight"].to_pylist()
    place = table.column_names.index("example_weight")
    values[707] = bad
    texts = isinstance(bad, str)
    column = pa.array(["text"] * len(values) if texts else values)
    table = table.set_column(place, "example_weight", column)
    if bad == "missing":
        table = table.remove_column(place)
    pq.write_table(table, path, row_group_size=500)
    with pytest.raises(UserError) as error:
        list(ExampleReader(Dataset.open(tmp_path), OPTIONS))
    where = "is missing" if bad == "missing" else "not floats" if bad == "text" else "row 207 "
    assert str(path) in str(error.value)
    assert where in str(error.value)


def test_a_batch_knows_its_counts_wherever_it_goes(
    weighted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor, *_: tensor)  # needs a GPU
    batch = next(iter(ExampleReader(weighted, OPTIONS, 1, 3)))
    assert batch.counts == (22, 21, 21)
    for moved in (batch.to(torch.device("cpu")), batch.pin_memory()):
        assert moved.counts == batch.counts
        assert torch.equal(moved.weight, batch.weight)


@pytest.mark.parametrize("start", [1, 7, 60, 139, 200, -1, 0])
@pytest.mark.parametrize("world", [1, 3])
def test_a_resumed_reader_goes_on_where_it_stopped_on_any_ranks(
    chopped: Dataset, start: int, world: int
) -> None:
    whole = list(ExampleReader(chopped, OPTIONS))
    start %= len(whole)
    ranks = [ExampleReader(chopped, OPTIONS, rank, world, start) for rank in range(world)]
    rest = list(zip(*ranks, strict=True))
    assert len(rest) == len(whole) - start
    for batch, parts in zip(whole[start:], rest, strict=True):
        check_parts(batch, parts)


def test_nothing_is_left_after_the_last_step(chopped: Dataset) -> None:
    reader = ExampleReader(chopped, OPTIONS)
    reader.start_step = reader.steps
    assert list(reader) == []


def test_negatives_carry_their_own_items_features(chopped: Dataset) -> None:
    items = pq.read_table(chopped.folder / "items.parquet").to_pylist()
    batch = next(iter(ExampleReader(chopped, OPTIONS)))
    for feature in chopped.schema.side("item"):
        found = bags(batch, feature.name) + negative_bags(batch, feature.name)
        index = torch.cat([batch.positives.index, batch.negatives.index]).tolist()
        for bag, row in zip(found, index, strict=True):
            value = items[row][feature.name]
            assert bag == tuple(value if isinstance(value, list) else [value])
    assert negative_key("item", 2) == "item@2"


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"id_dropout": 0.5}, {"user": 0.5, "item": 0.5}),
        ({"user_dropout": 0.5}, {"user": 0.5}),
        ({"user_dropout": 0.2, "id_dropout": 0.6}, {"user": 0.6, "item": 0.6}),
        ({"user_dropout": 0.8, "id_dropout": 0.3}, {"user": 0.8, "item": 0.3}),
    ],
)
def test_dropout_hides_ids_and_nothing_else(
    shares: dict[str, float], expected: dict[str, float], chopped: Dataset
) -> None:
    plain = next(iter(ExampleReader(chopped, OPTIONS)))
    hidden = next(iter(ExampleReader(chopped, replace(OPTIONS, **shares))))
    for key in plain.features.keys():  # noqa: SIM118
        before, after = plain.features[key].values(), hidden.features[key].values()
        if key in expected:
            dropped = after == 0
            assert dropped.float().mean().item() == pytest.approx(expected[key], abs=0.15)
            assert torch.equal(after[~dropped], before[~dropped])
        else:
            assert torch.equal(before, after)
    assert torch.equal(plain.positives.index, hidden.positives.index)


@pytest.mark.parametrize("own_log_q", [True, False])
@pytest.mark.parametrize("shared", [0, 150])
def test_hidden_negatives_and_the_popularity_of_hidden_items(
    chopped: Dataset, shared: int, own_log_q: bool
) -> None:
    """What is hidden counts as often as is typical, whatever it is; all else stays as it is."""
    options = replace(
        OPTIONS, global_batch=200, shared_negatives=shared, id_dropout=0.4, popularity=0.7
    )
    options = replace(options, own_log_q=own_log_q)
    plain = next(iter(ExampleReader(chopped, options)))
    hiding = ExampleReader(chopped, replace(options, unknown_count="typical"))
    found = next(iter(hiding))
    count = pq.read_table(chopped.folder / "items.parquet")["train_count"].to_numpy()
    typical = np.exp(np.log(count[count > 0]).mean())

    def ids(batch: Batch) -> list[int]:
        return [bag[0] for bag in bags(batch, "item") + negative_bags(batch, "item")]

    def rows(batch: Batch, field: str) -> list[float]:
        both = (getattr(batch, name) for name in ("positives", "negatives"))
        return [value for items in both for value in getattr(items, field).tolist()]

    assert rows(found, "index") == rows(plain, "index")
    assert ids(found)[:200] == ids(plain)[:200]
    hidden = np.array(ids(found)) == 0
    negatives = ids(plain)[200:]
    assert 0 not in negatives
    assert hidden[200:].mean() == pytest.approx(0.4, abs=0.1)
    shown = [one for one, gone in zip(ids(found), hidden, strict=True) if not gone]
    assert shown == [one for one, gone in zip(ids(plain), hidden, strict=True) if not gone]
    index = np.array(rows(found, "index"), int)
    more = 0.7 * (np.log(typical) - np.log(count[index])) * hidden
    expected = np.array(rows(plain, "offset")) + more
    np.testing.assert_allclose(rows(found, "offset"), expected, rtol=1e-5)
    assert np.abs(more).max() > 0.5
    expected_own = plain.own.offset.numpy() + more[:200]
    np.testing.assert_allclose(found.own.offset.numpy(), expected_own, rtol=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_negatives_are_drawn_by_popularity_to_the_power(power: float) -> None:
    counts = np.array([1, 4, 9, 100])
    sampler = NegativeSampler(counts, power)
    drawn = sampler.draw(uniform(0, 1, 2, 0, 80_000))
    expected = np.array([count**power for count in counts.tolist()])
    expected /= expected.sum()
    share = np.bincount(drawn.ravel(), minlength=4) / drawn.size
    np.testing.assert_allclose(share, expected, atol=0.01)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_draws_are_those_of_a_plain_search(power: float) -> None:
    counts = np.random.default_rng(0).integers(1, 1000, 5_000)
    sums = np.cumsum((counts / counts.max()) ** power / ((counts / counts.max()) ** power).sum())
    numbers = generator(3, 1, 4).random(1_500)
    wanted = [min(int((sums <= number).sum()), 4_999) for number in numbers]
    # A rank draws its own numbers of the sequence, and passes over the others.
    parts = [uniform(3, 1, 4, start, stop) for start, stop in ((0, 7), (7, 1_022), (1_022, 1_500))]
    drawn = np.concatenate([NegativeSampler(counts, power).draw(part) for part in parts])
    assert drawn.tolist() == wanted


def test_log_q_is_the_share_among_simulated_candidates() -> None:
    counts = np.array([1, 4, 15])
    sampler = NegativeSampler(counts, 0.0)
    rng = generator(0, 1, 2)
    positives = rng.choice(3, 60_000, p=counts / counts.sum())
    candidates = np.concatenate([positives, sampler.draw(rng.random(180_000))])
    share = np.bincount(candidates, minlength=3) / len(candidates)
    found = np.exp(log_candidate_share(counts, sampler, 1, 3))
    np.testing.assert_allclose(found, share, atol=0.005)


def test_log_q_of_shared_negatives_knows_the_batch_and_whether_positives_are_candidates(
    chopped: Dataset,
) -> None:
    counts = pq.read_table(chopped.folder / "items.parquet", columns=["train_count"])
    popularity = counts["train_count"].to_numpy()[: chopped.schema.trained_items].astype(float)
    popularity /= popularity.sum()
    options = replace(OPTIONS, negatives=0, shared_negatives=16)
    for in_batch in (True, False):
        batch = next(iter(ExampleReader(chopped, replace(options, in_batch=in_batch))))
        share = 1 / len(popularity)
        for items in (batch.positives, batch.negatives):
            expected = np.full(len(items.index), share)
            if in_batch:
                expected = (64 * popularity[items.index.numpy()] + 16 * share) / 80
            np.testing.assert_allclose(items.offset.neg().exp().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
def test_batches_tell_the_most_frequent_categories_apart_and_no_others(
    chopped: Dataset, skip: bool
) -> None:
    items = pq.read_table(chopped.folder / "items.parquet").to_pylist()
    rows = pq.read_table(chopped.folder / "examples", columns=["item_index", "repeat"]).to_pylist()
    name = chopped.schema.category
    times = Counter(items[row["item_index"]][name] for row in rows if not (skip and row["repeat"]))
    kept = sorted(sorted(times, key=lambda row: (-times[row], row))[:3])
    assert len(times) > 3
    options = replace(OPTIONS, categories=3, skip_repeats=skip)
    found = set()
    for batch in ExampleReader(chopped, options):
        counts = (batch.counts[0], batch.negative_counts[0])
        for known, count in zip((batch.positives, batch.negatives), counts, strict=True):
            there = known.first(count)
            for index, number in zip(there.index.tolist(), there.category.tolist(), strict=True):
                row = items[index][name]
                assert number == (kept.index(row) + 1 if row in kept else 0)
                found.add(number)
    assert found == {0, 1, 2, 3}


def test_own_positives_are_left_uncorrected_where_that_is_asked_for(chopped: Dataset) -> None:
    counts = pq.read_table(chopped.folder / "items.parquet", columns=["train_count"])
    count = counts["train_count"].to_numpy()
    options = replace(OPTIONS, popularity=0.5, own_log_q=False)
    batch = next(iter(ExampleReader(chopped, options)))
    expected = 0.5 * np.log(count[batch.own.index.numpy()] / count.max())
    np.testing.assert_allclose(batch.own.offset.numpy(), expected, rtol=1e-5, atol=1e-6)
    usual = next(iter(ExampleReader(chopped, replace(options, own_log_q=True))))
    assert usual.own is usual.positives
    assert torch.equal(usual.positives.offset, batch.positives.offset)
    assert not torch.equal(batch.own.offset, batch.positives.offset)


def test_log_q_counts_the_examples_that_are_trained_on(chopped: Dataset) -> None:
    rows = pq.read_table(chopped.folder / "examples", columns=["item_index", "repeat"]).to_pylist()
    for skip in (False, True):
        counts = Counter(row["item_index"] for row in rows if not (skip and row["repeat"]))
        options = replace(OPTIONS, negatives=0, skip_repeats=skip)
        batch = next(iter(ExampleReader(chopped, options)))
        expected = [counts[item] / counts.total() for item in batch.positives.index.tolist()]
        np.testing.assert_allclose(batch.positives.offset.neg().exp().numpy(), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def last_days(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A world whose examples are its last days', among which some trained items are not."""
    folder = tmp_path_factory.mktemp("last") / "data"
    size: dict[str, Any] = {"users": 60, "items": 90, "interactions": 1_500, "repeats": 0.3}
    prepare(Synthetic(out=folder, **size, train_from="2020-03-11"))
    return Dataset.open(folder)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_items_of_the_past_alone_are_drawn_and_corrected_as_what_they_are(
    last_days: Dataset, power: float, skip: bool
) -> None:
    """Log Q knows the examples, popularity the whole training; an item of none is drawn as one."""
    rows = pq.read_table(
        last_days.folder / "examples", columns=["item_index", "repeat"]
    ).to_pylist()
    counts = Counter(row["item_index"] for row in rows if not (skip and row["repeat"]))
    items = last_days.schema.trained_items
    count = np.array([counts[item] for item in range(items)])
    table = pq.read_table(last_days.folder / "items.parquet", columns=["train_count"])
    trained = table["train_count"].to_numpy()[:items]
    of_the_past = set(np.flatnonzero(count == 0).tolist())
    assert of_the_past
    assert trained.min() > 0
    drawn = np.maximum(count, 1.0) ** power
    drawn /= drawn.sum()
    expected = -np.log((count / count.sum() + 4 * drawn) / 5) + 0.5 * np.log(
        trained / trained.max()
    )
    options = replace(
        OPTIONS,
        **{"epochs": 9, "negatives": 4, "popularity": 0.5},
        negative_power=power,
        skip_repeats=skip,
    )
    found: Counter[int] = Counter()
    for batch in ExampleReader(last_days, options):
        there = (batch.counts[0], batch.negative_counts[0])
        for known, rows_there in zip((batch.positives, batch.negatives), there, strict=True):
            index = known.index[:rows_there].numpy()
            np.testing.assert_allclose(known.offset[:rows_there], expected[index], atol=1e-5)
        found.update(batch.negatives.index[: there[1]].tolist())
    assert of_the_past & found.keys()
    share = np.array([found[item] for item in range(items)]) / found.total()
    np.testing.assert_allclose(share, drawn, atol=0.02)


def test_without_negatives_items_of_the_past_alone_are_no_candidates(last_days: Dataset) -> None:
    with np.errstate(all="raise"):
        for batch in ExampleReader(last_days, replace(OPTIONS, negatives=0)):
            assert bool(batch.positives.offset.isfinite().all())


def test_ranks_that_divide_the_survey_count_what_one_counts(last_days: Dataset) -> None:
    whole = survey(last_days, "refuse", skip_repeats=False)
    parts = [survey(last_days, "refuse", skip_repeats=False, part=p, parts=3) for p in range(3)]
    joined_parts = join_surveys(parts)
    assert whole.counts is not None
    assert joined_parts.counts is not None
    assert whole.counts.tolist() == joined_parts.counts.tolist()
    assert whole.counts.sum() == last_days.schema.examples == joined_parts.rows


def test_no_examples_are_refused(chopped: Dataset, tmp_path: Path) -> None:
    for name in ("items", "users"):
        (tmp_path / f"{name}.parquet").write_bytes(
            (chopped.folder / f"{name}.parquet").read_bytes()
        )
    replace(chopped.schema, example_files=(), examples=0).save(tmp_path)
    with pytest.raises(UserError, match="no training examples"):
        ExampleReader(Dataset.open(tmp_path), OPTIONS)


def test_a_bad_file_is_named_and_reaches_the_taker(chopped: Dataset, tmp_path: Path) -> None:
    for file in ("items.parquet", "schema.json"):
        (tmp_path / file).write_bytes((chopped.folder / file).read_bytes())
    (tmp_path / "examples").mkdir()
    for example_file in chopped.schema.example_files:
        table = pq.read_table(chopped.folder / example_file.path)
        users = np.full(table.num_rows, chopped.schema.feature("user").rows, np.int32)
        bad = table.set_column(table.column_names.index("user"), "user", [users])
        # Without statistics, so that it is found when it is read.
        pq.write_table(bad, tmp_path / example_file.path, write_statistics=False)
    batches = Prefetcher(iter(ExampleReader(Dataset.open(tmp_path), OPTIONS)), torch.device("cpu"))
    with pytest.raises(UserError, match=r"part-0000\d.parquet .*'user', row 0 .*holds id 301"):
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


def test_a_dataset_of_repeats_alone_names_the_option(tmp_path: Path) -> None:
    """The day after: its only interaction is one of the day before."""
    write(tmp_path / "log.parquet", user_id=[1, 2, 2], item_id=[1, 1, 2], time=[1, 2, 3])
    prepare(own(tmp_path, out=tmp_path / "before", split="none"))
    write(tmp_path / "log.parquet", user_id=[2], item_id=[1], time=[9])
    prepare(own(tmp_path, after=tmp_path / "before", split="none"))
    dataset = Dataset.open(tmp_path / "out")
    options = replace(OPTIONS, global_batch=1)
    assert ExampleReader(dataset, options).examples == 1
    with pytest.raises(UserError, match="all 1 training examples are repeats: pass"):
        ExampleReader(dataset, replace(options, skip_repeats=True))
