"""A log in which a vector tells the taste: what it is worth, a resumed run, and another day's.

Users and items are unit vectors, and a user takes v with a chance ∝ exp(9 ⟨u, v⟩). Every tenth item
occurs in the test only: nothing but its vector tells anything of it. Users of the plain dataset
have their histories as these have.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import Schema
from tests.checkpoint.saved import saved_digests, saved_tensors
from tests.data.sources.prepared import own, write
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked, on_ranks
from tests.end_to_end.test_planted_world import per_step_losses

USERS, ITEMS, ROWS, WIDTH = 300, 600, 12_000, 6
FLAGS = (
    *("--epochs", "5", "--batch-size", "128", "--seed", "1", "--checkpoint-every", "150"),
    *("--model.embedding-dim", "16", "--model.hidden", "64", "--model.output-dim", "16"),
    *("--keep-checkpoints", "100", "--examples.id-dropout", "0.3"),
)


def write_log(folder: Path) -> Path:
    rng = np.random.default_rng(5)
    user, item = (rng.normal(size=(rows, WIDTH)) for rows in (USERS, ITEMS))
    user, item = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (user, item))
    edges = np.exp(9 * user @ item.T).cumsum(axis=1)
    edges /= edges[:, -1:]
    who = rng.integers(0, USERS, ROWS)
    what = np.array([np.searchsorted(edges[one], rng.random()) for one in who])
    time = np.arange(ROWS)
    kept = (what % 10 != 0) | (time >= 0.9 * ROWS)
    write(folder / "log.parquet", user_id=who[kept], item_id=what[kept], time=time[kept])
    vectors = pa.array(item.astype(np.float32).tolist(), pa.list_(pa.float32()))
    write(folder / "items.parquet", item_id=np.arange(ITEMS), content=vectors)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets with and without the vectors, and a run of each."""
    folder = write_log(tmp_path_factory.mktemp("content"))
    items = folder / "items.parquet"
    content = {"item_features": ("content",), "dense": ("content",)}
    prepare(own(folder, items=items, out=folder / "dense", **content))
    prepare(own(folder, items=items, out=folder / "plain"))
    for name in ("dense", "plain"):
        done(forked("train", "--data", folder / name, "--out", folder / f"run-{name}", *FLAGS))
    return folder


def hit_rates(run: Path) -> tuple[float, float]:
    """HR@50 of the interactions with items that nobody had, and of those with trained ones."""
    done(forked("evaluate", "--run", run))
    found = json.loads((run / "metrics.json").read_text())
    return found["cold"]["new_items"]["HR@50"], found["warm"]["HR@50"]


def test_a_vector_tells_of_items_that_nobody_had(
    world: Path, record_property: Callable[[str, object], None]
) -> None:
    """At random, a list of 50 of the 600 items holds a given one in .083 of the cases."""
    (cold, warm), (plain_cold, plain_warm) = (
        hit_rates(world / f"run-{name}") for name in ("dense", "plain")
    )
    words = f"with a content vector: HR@50 of unseen items {cold:.3f} ({plain_cold:.3f} without)"
    record_property("figure", f"{words}, of trained ones {warm:.3f} ({plain_warm:.3f})")
    assert cold > 0.3 > 3 * plain_cold
    assert warm > plain_warm


def test_a_resumed_run_ends_with_the_same_bits(world: Path, tmp_path: Path) -> None:
    run, again = world / "run-dense", tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(checkpoints(again)[-1][1])
    (again / "train.json").unlink()
    resumed = forked("train", "--data", world / "dense", "--out", again, *FLAGS, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after step" in resumed.stderr
    last = checkpoints(run)[-1][1]
    assert saved_digests(checkpoints(again)[-1][1]) == saved_digests(last)
    assert "towers/dat.item_dense.projections.0.layer.weight" in saved_tensors(last)


def test_two_ranks_have_the_losses_of_one_on_the_same_global_batch(
    world: Path, tmp_path: Path
) -> None:
    common = (
        "train",
        "--data",
        world / "dense",
        "--epochs",
        "1",
        "--log-every",
        "1",
        "--seed",
        "4",
    )
    exact = ("--model.precision", "float64", "--sharding-types", "table_wise")
    one, two = tmp_path / "one", tmp_path / "two"
    done(forked(*common, *exact, "--out", one, "--batch-size", "1024"))
    done(on_ranks(2, *common, *exact, "--out", two, "--batch-size", "512"))
    alone, together = per_step_losses(one), per_step_losses(two)
    assert alone.keys() == together.keys()
    for tag, values in alone.items():
        assert len(values) == len(together[tag]) >= 10
        np.testing.assert_allclose(together[tag], values, rtol=0, atol=1e-7)


def test_a_warm_start_projects_each_value_as_before(world: Path, tmp_path: Path) -> None:
    """Another day's vectors have another scale: with new weights the same would be others."""
    table = pq.read_table(world / "items.parquet")
    # Items that are new on that day are far away.
    rows = table["content"].to_pylist()
    far = [[float(100 * x) for x in row] for row in rows[:50]]
    ids = [*range(ITEMS), *range(ITEMS, ITEMS + 50)]
    vectors = pa.array(rows + far, pa.list_(pa.float32()))
    items = write(tmp_path / "items.parquet", item_id=ids, content=vectors)
    log = pq.read_table(world / "log.parquet")
    more = pa.table({"user_id": list(range(50)), "item_id": ids[-50:], "time": list(range(50))})
    pq.write_table(pa.concat_tables([log, more.cast(log.schema)]), tmp_path / "log.parquet")
    content = {"item_features": ("content",), "dense": ("content",)}
    prepare(own(tmp_path, items=items, **content))
    before, now = (Schema.load(path).dense[0] for path in (world / "dense", tmp_path / "out"))
    assert now.scale > 10 * before.scale
    run = world / "run-dense"
    begin = ("--warm-start", run, "--optimizer.tower-lr", "1e-30", "--optimizer.table-lr", "1e-30")
    done(forked("train", "--data", tmp_path / "out", "--out", tmp_path / "run", *FLAGS, *begin))
    name = "towers/dat.item_dense.projections.0.layer"
    old, new = (saved_tensors(checkpoints(one)[-1][1]) for one in (run, tmp_path / "run"))
    x = np.array(rows)
    first, second = (
        x / of.scale @ saved[f"{name}.weight"].numpy().T + saved[f"{name}.bias"].numpy()
        for of, saved in ((before, old), (now, new))
    )
    np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-5)
    refused = forked(
        *("train", "--data", world / "plain", "--out", tmp_path / "no", *FLAGS),
        *("--warm-start", run),
    )
    assert refused.returncode == 2
    assert re.search(
        "--warm-start .*: dense features is \\[\\], and was \\[.'content'", refused.stderr
    )
