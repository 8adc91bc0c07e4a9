"""The order of examples against a naive loop, and what each rank reads of the files for it."""

import hashlib
import random
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import Tensor

from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import ExampleFile
from dat_rec.data.stream.batch import Batch
from dat_rec.data.stream.examples import Examples
from dat_rec.data.stream.negatives import ORDER, WINDOW, generator
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.data.stream.reader_options import ReaderOptions
from dat_rec.data.stream.row_groups import ExampleFiles, RowGroup

OPTIONS = ReaderOptions(
    global_batch=100, epochs=2, seed=1, negatives=1, id_dropout=0.1, shuffle_mb=0.01
)
ROW_GROUP = 50
FILES = (3_000, 377, 4_623)
"""Rows of each file, which are cut into row groups of 50."""


@pytest.fixture(scope="module")
def numbered(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """8,000 examples in 161 row groups, each of which has a user of its own: its number."""
    return cut(planted, tmp_path_factory.mktemp("numbered"), FILES)


def cut(planted: Dataset, folder: Path, rows: Sequence[int]) -> Dataset:
    (folder / "examples").mkdir()
    (folder / "items.parquet").write_bytes((planted.folder / "items.parquet").read_bytes())
    table = pq.read_table(planted.folder / "examples").slice(0, sum(rows))
    assert table.num_rows == sum(rows)
    users = pa.array(range(sum(rows)), pa.int32())
    table = table.set_column(table.column_names.index("user"), "user", users)
    files, first = [], 0
    for number, size in enumerate(rows):
        path = f"examples/part-{number}.parquet"
        pq.write_table(table.slice(first, size), folder / path, row_group_size=ROW_GROUP)
        files.append(ExampleFile(path, size))
        first += size
    features = tuple(
        replace(feature, rows=first) if feature.table == "user" else feature
        for feature in planted.schema.features
    )
    schema = replace(
        planted.schema, features=features, example_files=tuple(files), examples=sum(rows)
    )
    schema.save(folder)
    return Dataset.open(folder)


def groups_of(dataset: Dataset, *, skip_repeats: bool = False) -> list[list[int]]:
    """The examples of each row group, by their numbers."""
    groups: list[list[int]] = []
    first = 0
    for file in dataset.schema.example_files:
        repeats = pq.read_table(dataset.folder / file.path)["repeat"].to_pylist()
        for start in range(0, file.rows, ROW_GROUP):
            rows = range(start, min(start + ROW_GROUP, file.rows))
            groups.append([first + row for row in rows if not (skip_repeats and repeats[row])])
        first += file.rows
    return groups


def bit_reversed(lanes: int) -> list[int]:
    """The lanes in the order of their turns: 0, 1/2, 1/4, 3/4, 1/8, … of the way."""
    order = [0]
    while len(order) < lanes:
        order = [2 * lane for lane in order] + [2 * lane + 1 for lane in order]
    return order


def naive_windows(
    groups: list[list[int]], options: ReaderOptions, lanes: int, window: int
) -> Iterator[tuple[int, list[int]]]:
    """Every window as lane and examples, all of an epoch before the next; plain lists."""
    turns, dealt = bit_reversed(lanes), 0
    for epoch in range(options.epochs):
        order = generator(options.seed, ORDER, epoch).permutation(len(groups))
        rows = [example for number in order for example in groups[number]]
        sizes = [0] * lanes
        for _ in rows:
            sizes[turns[dealt % lanes]] += 1
            dealt += 1
        for lane, size in enumerate(sizes):
            mine, rows = rows[:size], rows[size:]
            number, length = 0, -(-window * (turns.index(lane) + 1) // (lanes + 1))
            while mine:
                part, mine = mine[:length], mine[length:]
                permuted = generator(options.seed, WINDOW, epoch, lane, number).permutation(
                    len(part)
                )
                yield lane, [part[i] for i in permuted]
                number, length = number + 1, window


def naive_batches(
    groups: list[list[int]], options: ReaderOptions, lanes: int, window: int
) -> list[list[int]]:
    """The examples of every global batch: dealt in turn, then lane after lane."""
    left: list[list[int]] = [[] for _ in range(lanes)]
    for lane, rows in naive_windows(groups, options, lanes, window):
        left[lane] += rows
    turns, position, batches = bit_reversed(lanes), 0, []
    while any(left):
        hands: list[list[int]] = [[] for _ in range(lanes)]
        for _ in range(options.global_batch):
            if any(left):
                hands[turns[position % lanes]].append(left[turns[position % lanes]].pop(0))
                position += 1
        batches.append([example for hand in hands for example in hand])
    return batches


def users(batch: Batch, rank: int = 0) -> list[int]:
    """The examples' own numbers; ids that are hidden are 0."""
    return batch.features["user"].values()[: batch.counts[rank]].tolist()


@pytest.mark.parametrize("lanes", [1, 2, 8, 16])
@pytest.mark.parametrize("skip_repeats", [False, True])
@pytest.mark.parametrize("global_batch", [3, 500, 9_000])
def test_batches_are_those_of_a_naive_loop(
    numbered: Dataset, lanes: int, skip_repeats: bool, global_batch: int
) -> None:
    options = replace(
        OPTIONS,
        id_dropout=0.0,
        negatives=0,
        lanes=lanes,
        skip_repeats=skip_repeats,
        global_batch=global_batch,
    )
    groups = groups_of(numbered, skip_repeats=skip_repeats)
    # As little as may be: the rows of the largest row group.
    expected = naive_batches(groups, options, lanes, max(map(len, groups)))
    steps = min(len(expected), 300)
    found = [users(batch) for batch in islice(ExampleReader(numbered, options), steps)]
    assert found == expected[:steps]


def digest(ranks: Sequence[Batch]) -> str:
    """SHA-256 of a global batch, from every rank's part of it."""
    seen = hashlib.sha256(str(sum(ranks[0].counts)).encode())

    def see(tensors: Iterator[Tensor]) -> None:
        for tensor in tensors:
            seen.update(tensor.numpy().tobytes())

    for key in ranks[0].features.keys():  # noqa: SIM118
        parts = [(batch.features[key], batch.counts[rank]) for rank, batch in enumerate(ranks)]
        see(bags.lengths()[:count] for bags, count in parts)
        see(bags.values() for bags, _ in parts)
    for which in ("positives", "negatives"):
        items = [getattr(b, which).first(b.counts[rank]).tensors() for rank, b in enumerate(ranks)]
        for same in zip(*items, strict=True):
            see(iter(same))
    return seen.hexdigest()


class Decoded:
    """Counts the rows that readers decode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        read = ExampleFiles.read

        def counted(files: ExampleFiles, group: RowGroup, names: list[str]) -> pa.Table:
            table = read(files, group, names)
            self.rows += len(table)
            return table

        monkeypatch.setattr(ExampleFiles, "read", counted)


@pytest.fixture(scope="module")
def stream(numbered: Dataset) -> list[str]:
    """The digest of every global batch, as one rank reads them."""
    return [digest([batch]) for batch in ExampleReader(numbered, OPTIONS)]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_ranks_divide_the_decoding_and_see_the_same_stream(
    world: int, numbered: Dataset, stream: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Decoded(monkeypatch)
    readers = [ExampleReader(numbered, OPTIONS, rank, world) for rank in range(world)]
    ranks = []
    examples = numbered.schema.examples * OPTIONS.epochs
    for reader in readers:
        decoded.rows = 0
        ranks.append(list(reader))
        # With three ranks, two of which cut a lane: it is decoded by both.
        most = 1.15 / world if world != 3 else 6 / 16 * 1.15
        assert decoded.rows <= most * examples
    assert [digest(parts) for parts in zip(*ranks, strict=True)] == stream


def test_a_stream_goes_on_at_any_step_on_any_ranks(numbered: Dataset, stream: list[str]) -> None:
    draw = random.Random(0)
    step, found = 0, []
    for _ in range(20):
        world = draw.choice([1, 2, 3, 4, 5, 8, 20])
        ranks = [iter(ExampleReader(numbered, OPTIONS, rank, world, step)) for rank in range(world)]
        parts = list(zip(*(islice(rank, draw.randint(0, 31)) for rank in ranks), strict=False))
        found += [digest(one) for one in parts]
        step += len(parts)
    found += [digest([batch]) for batch in ExampleReader(numbered, OPTIONS, start_step=step)]
    assert step < len(stream)
    assert found == stream


def test_what_comes_before_a_resumed_step_stays_unread(
    numbered: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, epochs=1)
    decoded = Decoded(monkeypatch)
    for rank in range(2):
        reader = ExampleReader(numbered, options, rank, 2)
        reader.start_step = reader.steps * 3 // 4
        decoded.rows = 0
        assert len(list(reader)) == reader.steps - reader.start_step
        # Of each of its 8 lanes the window and the row group that it stands in, besides.
        least = numbered.schema.examples / 2 / 4
        assert least <= decoded.rows <= least + 8 * 2 * ROW_GROUP


class Memory:
    """Counts the bytes of the examples that are alive in a reader."""

    def __init__(self, reader: ExampleReader, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        self._lock = threading.RLock()
        for name in ("_decode", "_shuffle"):
            monkeypatch.setattr(reader, name, self._counted(getattr(reader, name)))

    def _counted(self, make: Callable[..., Examples]) -> Callable[..., Examples]:
        def counted(*arguments: object) -> Examples:
            examples = make(*arguments)
            arrays = [examples.item_index]
            for column in examples.columns.values():
                arrays += [column.values, *([] if column.offsets is None else [column.offsets])]
            size = sum(array.nbytes for array in arrays)
            self._add(size)
            weakref.finalize(examples, self._add, -size)
            return examples

        return counted

    def _add(self, size: int) -> None:
        with self._lock:
            self.now += size
            self.most = max(self.most, self.now)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("shuffle_mb", [0.3, 0.8])
def test_memory_stays_within_the_option(
    lanes: int, shuffle_mb: float, numbered: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, lanes=lanes, shuffle_mb=shuffle_mb)
    reader = ExampleReader(numbered, options)
    memory = Memory(reader, monkeypatch)
    for _ in reader:
        # Who is held up between two windows holds both, while the next ones are loaded.
        assert memory.most < 1.25 * shuffle_mb * 2**20
    # And makes use of it.
    assert memory.most > 0.5 * shuffle_mb * 2**20
    assert memory.now == 0


@pytest.mark.parametrize("rows", [(1,), (3,), (2, 1), (60,), (1, 130)])
@pytest.mark.parametrize("global_batch", [1, 7, 64, 1_000])
def test_tiny_datasets_are_read_whole_on_any_ranks(
    planted: Dataset, tmp_path: Path, rows: tuple[int, ...], global_batch: int
) -> None:
    dataset = cut(planted, tmp_path, rows)
    options = replace(OPTIONS, epochs=3, id_dropout=0.0, global_batch=global_batch)
    for world, lanes in ((1, 0), (1, 5), (2, 0), (3, 8), (4, 2), (7, 4)):
        ranks = [
            list(ExampleReader(dataset, replace(options, lanes=lanes), rank, world))
            for rank in range(world)
        ]
        found = [
            example
            for step in zip(*ranks, strict=True)
            for rank, batch in enumerate(step)
            for example in users(batch, rank)
        ]
        one = sum(rows)
        for epoch in range(3) if global_batch == 1 else ():
            assert sorted(found[epoch * one : (epoch + 1) * one]) == [*range(one)]
        assert sorted(found) == sorted([*range(one)] * 3)


def test_where_a_batch_lies(numbered: Dataset) -> None:
    options = replace(OPTIONS, lanes=2, global_batch=450, negatives=0, id_dropout=0.0)
    reader = ExampleReader(numbered, options)
    groups = groups_of(numbered)
    windows = [set(rows) for _, rows in naive_windows(groups, options, 2, ROW_GROUP)]
    one = numbered.schema.examples
    # Each example comes in two windows, one of each epoch, of which the first is of the first.
    half = np.searchsorted(np.cumsum([len(window) for window in windows]), one) + 1
    epochs = [windows[:half], windows[half:]]
    for step, batch in enumerate(reader):
        begin, end = step * 450, min((step + 1) * 450, 2 * one)
        own = users(batch)
        words = reader.where(step + 1)
        assert words.startswith(f"global batch {step + 1} (epoch {begin // one + 1}, examples ")
        if begin // one != (end - 1) // one:
            assert "; epoch 2, examples 0 to " in words
            continue
        there = set().union(*(w for w in epochs[begin // one] if w & set(own)))
        named = {number for number, rows in enumerate(groups) if there & set(rows)}
        assert words == in_words(numbered, step, begin % one, (end - 1) % one, begin // one, named)


def in_words(
    dataset: Dataset, step: int, first: int, last: int, epoch: int, groups: set[int]
) -> str:
    files, begin = [], 0
    for file in dataset.schema.example_files:
        end = begin + -(-file.rows // ROW_GROUP)
        if own := [str(group - begin) for group in sorted(groups) if begin <= group < end]:
            files.append(f"{file.path} row groups {', '.join(own)}")
        begin = end
    return (
        f"global batch {step + 1} (epoch {epoch + 1}, examples {first:,} to {last:,} of its "
        f"order, in {', '.join(files)})"
    )
