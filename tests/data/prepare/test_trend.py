"""How often items were had lately: by a plain sum, where it foretells the end of training."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.schema import RECENT, Schema
from dat_rec.data.trend import PRIOR, trending
from dat_rec.data.validate.validate import validate
from tests.data.prepare.test_bounds import make
from tests.data.sources.prepared import digest, write
from tests.data.validate.test_validate import edit, set_value

ROWS, ITEMS = 4_000, 20
OPTIONS = {"test_share": 0.1}


def write_log(folder: Path, *, moving: bool) -> list[tuple[int, int]]:
    """Items, popular by turns or all the time, and times: in the order of time."""
    rng = np.random.default_rng(5)
    time = np.sort(rng.integers(0, 100_000, ROWS))
    item = rng.zipf(1.5, ROWS) % ITEMS
    if moving:
        item = (item + time // 20_000 * 4) % ITEMS
    write(folder / "log.parquet", user_id=rng.integers(0, 50, ROWS), item_id=item, time=time)
    return list(zip(item.tolist(), time.tolist(), strict=True))


def test_where_popularity_moves_recent_counts_are_a_plain_sum(tmp_path: Path) -> None:
    rows = write_log(tmp_path, moving=True)
    make(tmp_path, "out", **OPTIONS)
    trend = Schema.load(tmp_path / "out").trend
    assert trend is not None
    training = rows[: ROWS - pq.read_table(tmp_path / "out" / "test.parquet").num_rows]
    times = [time for _, time in training]
    assert trend.until == times[math.ceil(0.999 * len(times)) - 1]
    assert 100 < trend.half_life < 45_000
    wanted: Counter[int] = Counter()
    for item, time in training:
        wanted[item] += 0.5 ** (max(0, trend.until - time) / trend.half_life)  # type: ignore[assignment]
    items = pq.read_table(tmp_path / "out" / "items.parquet")
    for item, found in zip(items["item_id"].to_pylist(), items[RECENT].to_pylist(), strict=True):
        assert found == pytest.approx(wanted[item], abs=1e-3)


def test_threads_do_not_matter(tmp_path: Path) -> None:
    write_log(tmp_path, moving=True)
    for number in (1, 4):
        make(tmp_path, f"out {number}", threads=number, **OPTIONS)
    assert digest(tmp_path / "out 1") == digest(tmp_path / "out 4")


def test_the_next_day_adds_to_what_is_left(tmp_path: Path) -> None:
    rows = write_log(tmp_path, moving=True)
    log = pq.read_table(tmp_path / "log.parquet")
    folder = tmp_path / "days"
    folder.mkdir()
    for number, (first, last) in enumerate([(0, 2500), (2500, 3000), (3000, ROWS)]):
        pq.write_table(log[first:last], folder / "log.parquet")
        changes = {"after": folder / f"{number - 1}"} if number else {}
        make(folder, f"{number}", split="none", **changes)
    first_trend, trend = (Schema.load(folder / name).trend for name in ("0", "2"))
    assert first_trend is not None
    assert trend is not None
    assert trend.half_life == first_trend.half_life
    assert trend.until > first_trend.until
    wanted = dict.fromkeys(range(ITEMS), 0.0)
    for item, time in rows:
        wanted[item] += 0.5 ** (max(0, trend.until - time) / trend.half_life)
    items = pq.read_table(folder / "2" / "items.parquet")
    for item, found in zip(items["item_id"].to_pylist(), items[RECENT].to_pylist(), strict=True):
        # Few lie between a day's end and its last moment, by which ages are counted.
        assert found == pytest.approx(wanted[item], rel=0.01, abs=1e-3)


@pytest.mark.parametrize(
    ("moving", "options"), [(False, {}), (True, {"trend": False})], ids=["steady", "not wanted"]
)
def test_elsewhere_there_are_none(tmp_path: Path, moving: bool, options: dict[str, bool]) -> None:
    write_log(tmp_path, moving=moving)
    make(tmp_path, "out", **OPTIONS, **options)
    assert Schema.load(tmp_path / "out").trend is None
    assert "trend" not in (tmp_path / "out" / "schema.json").read_text()
    assert RECENT not in pq.read_schema(tmp_path / "out" / "items.parquet").names


@pytest.mark.parametrize("seed", range(6))
def test_chance_is_no_trend(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    item = rng.zipf(1.5, 800) % 30
    write(tmp_path / "log.parquet", user_id=rng.integers(0, 50, 800), item_id=item, time=range(800))
    make(tmp_path, "out", **OPTIONS)
    assert Schema.load(tmp_path / "out").trend is None


def test_hours_of_the_day_are_no_trend(tmp_path: Path) -> None:
    """In two days, what is had at night differs from what is had by day."""
    hour = np.sort(np.random.default_rng(1).integers(0, 48, ROWS))
    item = np.random.default_rng(2).integers(0, 10, ROWS) + 10 * (hour % 24 < 12)
    time = pa.array(hour * 3_600_000_000, pa.timestamp("us"))
    write(tmp_path / "log.parquet", user_id=np.arange(ROWS) % 50, item_id=item, time=time)
    make(tmp_path, "out", test_share=0.1)
    assert Schema.load(tmp_path / "out").trend is None


@pytest.mark.parametrize("value", [-1.0, float("nan"), None])
def test_validate_names_a_bad_count(tmp_path: Path, value: float | None) -> None:
    write_log(tmp_path, moving=True)
    make(tmp_path, "out", **OPTIONS)
    edit(tmp_path / "out" / "items.parquet", set_value(RECENT, 3, value))
    assert [RECENT in str(fault) for fault in validate(tmp_path / "out")].count(True) == 1


def test_an_item_had_as_often_as_ever_keeps_its_count() -> None:
    count = np.array([100.0, 100.0, 1.0])
    found = trending(count, np.array([20.0, 0.0, 0.2]))
    expected = 100 * 20.2 / 201
    assert found[0] == pytest.approx(100 * (20 + PRIOR) / (expected + PRIOR))
    assert found[1] == pytest.approx(100 * PRIOR / (expected + PRIOR))
    assert trending(count, count / 5) == pytest.approx(count)
