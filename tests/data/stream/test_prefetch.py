"""The thread that makes batches ahead, and the clock of those who wait for it."""

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.batch import Batch
from dat_rec.data.stream.prefetch import Prefetcher
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.data.stream.reader_options import ReaderOptions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batches(planted: Dataset) -> list[Batch]:
    """Six batches of a planted world."""
    options = ReaderOptions(global_batch=1024, epochs=1, seed=0, negatives=0)
    reader = ExampleReader(planted, options, 0, 1)
    return [batch for batch, _ in zip(reader, range(6), strict=False)]


def slowly(batches: list[Batch], seconds: float) -> Iterator[Batch]:
    for batch in batches:
        time.sleep(seconds)
        yield batch


def test_waiting_for_batches_is_timed(batches: list[Batch]) -> None:
    begin = time.perf_counter()
    with closing(Prefetcher(slowly(batches, 0.1), CPU)) as prefetcher:
        taken = list(prefetcher)
    elapsed = time.perf_counter() - begin
    assert [id(batch) for batch in taken] == [id(batch) for batch in batches]
    assert 0.5 < prefetcher.wait_s <= elapsed


def test_batches_that_are_there_already_cost_no_waiting(batches: list[Batch]) -> None:
    with closing(Prefetcher(iter(batches), CPU, depth=len(batches) + 1)) as prefetcher:
        time.sleep(0.5)
        begin = time.perf_counter()
        assert len(list(prefetcher)) == len(batches)
        assert prefetcher.wait_s <= time.perf_counter() - begin < 0.4


def test_what_the_maker_raises_is_raised_where_it_is_waited_for(batches: list[Batch]) -> None:
    def breaks() -> Iterator[Batch]:
        yield batches[0]
        raise OSError("the disk is gone")

    with closing(Prefetcher(breaks(), CPU)) as prefetcher:
        assert next(prefetcher) is batches[0]
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                next(prefetcher)
