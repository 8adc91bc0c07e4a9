"""A run begun from yesterday's: every row that means the same is taken over, and no other.

Two days of a log with their own numbering: half of today's users and items are yesterday's,
popularity is turned round, and ids that were integers are text today. What a row means is told
here by the datasets' own files, and what was saved by the safetensors library.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from dat_rec.checkpoint.writer import CheckpointWriter
from dat_rec.config import ModelConfig, OptimizerConfig, TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.dist.process_group import process_group
from dat_rec.runs.warm_start import warm_start
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.sharding.table_shards import table_shards
from dat_rec.training.build import build_model
from dat_rec.training.objective import TrainTask
from dat_rec.training.optimizers import build_optimizer
from tests.checkpoint.saved import saved_digests, saved_tensors
from tests.distributed.ranks import run_ranks
from tests.end_to_end.cli import done
from tests.end_to_end.days import meanings, write_day
from tests.end_to_end.forked import forked
from tests.end_to_end.test_refusals import contents, refusal

MODEL = ModelConfig(embedding_dim=8, hidden=(16,), output_dim=8)
FLAGS = (
    *("--epochs", "2", "--batch-size", "256", "--checkpoint-every", "5"),
    *("--model.embedding-dim", "8", "--model.hidden", "16", "--model.output-dim", "8"),
)
AUGMENTED = {"augmented_user": "user", "augmented_item": "item"}


def train(data: Path, out: Path, *more: str) -> Any:
    return forked("train", "--data", data, "--out", out, *FLAGS, *more)


@dataclass(frozen=True)
class World:
    """Two days, and the runs of the first one by their tables' optimizer."""

    yesterday: Path
    today: Path
    runs: dict[str, Path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("days")
    yesterday = write_day(folder / "1", range(80), range(60), text=False, seed=1)
    today = write_day(folder / "2", range(30, 110), range(20, 80), text=True, seed=2)
    runs = {}
    for optimizer, pin in (
        ("rowwise_adagrad", "*=table_wise"),
        ("adagrad", "*=column_wise,min_partition:4"),
    ):
        runs[optimizer] = folder / optimizer
        flags = ("--optimizer.table", optimizer, "--pin", pin)
        done(train(yesterday, runs[optimizer], *flags))
    return World(yesterday, today, runs)


def last(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def kept(world: World, table: str) -> dict[int, int]:
    """By today's row, yesterday's that means the same."""
    before, now = (meanings(day, table) for day in (world.yesterday, world.today))
    pairs = {now[value]: before[value] for value in before.keys() & now.keys()}
    return pairs | {0: 0}


def test_the_days_differ_as_they_must(world: World) -> None:
    """Otherwise what follows would show nothing: rows stay, go, come, and change places."""
    for table in ("user", "item", "genre", "city", "price"):
        before, now = (meanings(day, table) for day in (world.yesterday, world.today))
        assert before.keys() & now.keys(), table
        if table != "price":
            assert before.keys() - now.keys(), table
            assert now.keys() - before.keys(), table
            assert any(new != old for new, old in kept(world, table).items()), table
    assert len(meanings(world.today, "price")) > 10


CASES: dict[str, tuple[str, ...]] = {
    "whole": (),
    "columns": ("*=column_wise,min_partition:4",),
    "rows": ("*=row_wise",),
    "all": ("user=data_parallel", "item=row_wise", "augmented_*=column_wise,min_partition:4"),
    "replicated": ("*=data_parallel",),
}


def first_states(config: TrainConfig, run: Path, cases: dict[str, tuple[str, ...]]) -> None:
    """Begin from ``run`` under every case's plan, and save what training would begin with."""
    with process_group(60) as context:
        dataset = Dataset.open(config.data)
        for name, pins in cases.items():
            model, plan = build_model(replace(config, pin=pins), dataset, context)
            tables = {row["table"]: row["sharding_type"] for row in plan}
            assert len(set(tables.values())) >= (2 if name == "all" else 1)
            optimizer = build_optimizer(model, 0.001, 0.05, config.optimizer.table)
            warm_start(run, dataset, model, optimizer)
            writer = CheckpointWriter(config.out / name, context, keep=1)
            writer.save(0, model, optimizer, {"global_batch": 1, "loss": 0.0})
            writer.finish()
            writer.close()


def fresh(data: Path, config: TrainConfig) -> dict[str, Tensor]:
    """Every table as a run without a warm start has it at first."""
    task = TrainTask(Dataset.open(data).schema, config.model, config.loss)
    initialize_tables(task, config.seed, config.optimizer.table_init)
    return {shard.table: shard.weights for shard in table_shards(task)}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad"])
def test_rows_that_mean_the_same_begin_where_they_ended_under_any_plan(
    optimizer: str, ranks: int, world: World, tmp_path: Path
) -> None:
    run = world.runs[optimizer]
    config = TrainConfig(
        data=world.today,
        out=tmp_path,
        seed=5,
        model=MODEL,
        optimizer=OptimizerConfig(table=optimizer),  # type: ignore[arg-type]
    )
    run_ranks(first_states, ranks, config, run, CASES)
    old, new_rows = saved_tensors(last(run)), fresh(world.today, config)
    for case in CASES:
        found = saved_tensors(last(tmp_path / case))
        check_tables(world, old, found, new_rows)
        towers = [name for name in found if name.startswith("towers/")]
        assert towers
        for name in towers:
            assert torch.equal(found[name], old[name]), (case, name)
        assert {n for n in found if n.startswith("tables/")} == {
            n for n in old if n.startswith("tables/")
        }


def check_tables(
    world: World, old: dict[str, Tensor], found: dict[str, Tensor], new_rows: dict[str, Tensor]
) -> None:
    for table, weights in new_rows.items():
        name = table.rsplit(".", 1)[1]
        pairs = kept(world, AUGMENTED.get(name, name))
        taken = found[f"tables/{table}/weight"], found[f"tables/{table}/accumulator"]
        before = old[f"tables/{table}/weight"], old[f"tables/{table}/accumulator"]
        assert before[1].count_nonzero()
        assert len(pairs) > 1
        for row in range(len(weights)):
            if row in pairs:
                assert torch.equal(taken[0][row], before[0][pairs[row]]), (table, row)
                assert torch.equal(taken[1][row], before[1][pairs[row]]), (table, row)
            else:
                assert torch.equal(taken[0][row], weights[row]), (table, row)
                assert not taken[1][row].any(), (table, row)


def test_the_command_takes_over_says_how_much_and_trains_on(world: World, tmp_path: Path) -> None:
    """With learning rates of 0 the tables and towers stay as they began."""
    run = world.runs["rowwise_adagrad"]
    flags = ("--warm-start", str(run), "--seed", "5")
    still = ("--optimizer.table-lr", "0", "--optimizer.tower-lr", "0")
    result = train(world.today, tmp_path / "run", *flags, *still)
    done(result)
    old, found = saved_tensors(last(run)), saved_tensors(last(tmp_path / "run"))
    config = TrainConfig(data=world.today, out=tmp_path, seed=5, model=MODEL)
    for table, weights in fresh(world.today, config).items():
        expected = weights.clone()
        name = table.rsplit(".", 1)[1]
        pairs = kept(world, AUGMENTED.get(name, name))
        before = old[f"tables/{table}/weight"]
        for new, then in pairs.items():
            expected[new] = before[then]
        assert torch.equal(found[f"tables/{table}/weight"], expected)
        assert f"{name} {len(pairs):,} of {len(weights):,} rows" in result.stderr
    for name in (name for name in found if name.startswith("towers/")):
        assert torch.equal(found[name], old[name])
    (line,) = (one for one in result.stderr.splitlines() if one.startswith("warm start"))
    assert line.startswith(f"warm start from {run}, step {int(last(run).name[5:])}: taken over: ")


@pytest.fixture(scope="module")
def warm(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of today begun from a copy of yesterday's, undisturbed; the copy stands beside."""
    folder = tmp_path_factory.mktemp("warm")
    shutil.copytree(world.runs["rowwise_adagrad"], folder / "old")
    done(train(world.today, folder / "run", "--warm-start", str(folder / "old")))
    return folder / "run"


def test_a_resumed_run_goes_on_and_does_not_begin_again(
    world: World, warm: Path, tmp_path: Path
) -> None:
    """As if killed after the checkpoint before the last; yesterday's run is gone by then."""
    out, old = tmp_path / "run", warm.parent / "old"
    shutil.copytree(warm, out)
    shutil.rmtree(last(out))
    (out / "train.json").unlink()
    old.rename(tmp_path / "away")
    try:
        result = train(world.today, out, "--warm-start", str(old), "--resume")
    finally:
        (tmp_path / "away").rename(old)
    done(result)
    assert "warm start from" not in result.stderr
    assert "resumed after step" in result.stderr
    assert saved_digests(last(out)) == saved_digests(last(warm))


def test_a_run_killed_before_its_first_checkpoint_begins_again(
    world: World, warm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(warm, out)
    shutil.rmtree(out / "checkpoints")
    (out / "train.json").unlink()
    result = train(world.today, out, "--warm-start", str(warm.parent / "old"), "--resume")
    done(result)
    assert "warm start from" in result.stderr
    assert saved_digests(last(out)) == saved_digests(last(warm))


def test_a_warm_started_run_is_another_than_a_fresh_one(
    world: World, warm: Path, tmp_path: Path
) -> None:
    done(train(world.today, tmp_path / "run"))
    assert saved_digests(last(tmp_path / "run")) != saved_digests(last(warm))
    line = refusal(train(world.today, warm, "--resume"))
    assert "--resume with --warm-start None (" in line


def spoil_rows(run: Path, change: Any, name: str = "users") -> None:
    path = run / f"rows/{name}.parquet"
    table = change(pq.read_table(path))
    path.unlink()
    pq.write_table(table, path)


def twice(table: pa.Table) -> pa.Table:
    """The second id is the first again."""
    ids = table["user_id"].to_pylist()
    ids[1] = ids[0]
    return table.set_column(table.column_names.index("user_id"), "user_id", pa.array(ids))


def same_number(table: pa.Table) -> pa.Table:
    """Two rows have the first's number: as many as the greatest, with a gap."""
    rows = table["user"].to_pylist()
    rows[rows.index(2)] = 1
    return table.set_column(table.column_names.index("user"), "user", pa.array(rows))


def as_floats(table: pa.Table) -> pa.Table:
    at = table.column_names.index("user_id")
    return table.set_column(at, "user_id", table["user_id"].cast(pa.float64()))


SPOILT: dict[str, tuple[Any, str]] = {
    "no rows/": (lambda run: shutil.rmtree(run / "rows"), "does not say what its rows stand for"),
    "no checkpoint": (lambda run: shutil.rmtree(run / "checkpoints"), "no whole checkpoint: go on"),
    "no run": (lambda run: (run / "config.json").unlink(), "is not a run (no config.json): make"),
    "no users": (lambda run: (run / "rows/users.parquet").unlink(), "users.parquet: cannot be"),
    "an id twice": (lambda run: spoil_rows(run, twice), "column 'user_id' holds '"),
    "a number twice": (lambda run: spoil_rows(run, same_number), "does not count the rows from 1"),
    "ids that are fractions": (lambda run: spoil_rows(run, as_floats), "'user_id' is double, not"),
    "a vocabulary cut short": (
        lambda run: spoil_rows(run, lambda table: table.slice(0, 3), "vocabularies/city"),
        "tells what 3 rows of city stand for, and the table has 6",
    ),
    "all checkpoints damaged": (
        lambda run: [path.unlink() for path in run.glob("checkpoints/*/*.safetensors")],
        "every checkpoint is damaged",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_a_run_that_cannot_be_begun_from_is_refused(
    spoil: Any, words: str, world: World, tmp_path: Path
) -> None:
    """And the run that stands in --out stays, even under --overwrite."""
    old, out = tmp_path / "old", tmp_path / "run"
    shutil.copytree(world.runs["rowwise_adagrad"], old)
    shutil.copytree(old, out)
    spoil(old)
    before = contents(tmp_path)
    line = refusal(train(world.today, out, "--warm-start", str(old), "--overwrite"))
    assert words in line
    assert str(old) in line
    assert contents(tmp_path) == before
    refusal(train(world.today, tmp_path / "new", "--warm-start", str(old)))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--model.output-dim 4", "--model.output-dim is 4, and was 8 there"),
        ("--model.embedding-dim 16", "--model.embedding-dim is 16, and was 8 there"),
        ("--model.hidden 16 8", "--model.hidden is (16, 8), and was (16,) there"),
        ("--optimizer.table adagrad", "--optimizer.table is adagrad, and was rowwise_adagrad"),
        ("--model.precision float64", "--model.precision is float64, and was float32 there"),
    ],
)
def test_another_model_is_refused(flags: str, words: str, world: World, tmp_path: Path) -> None:
    run = world.runs["rowwise_adagrad"]
    line = refusal(train(world.today, tmp_path / "run", "--warm-start", str(run), *flags.split()))
    assert words in line
    assert "give the same, or train without --warm-start" in line
    assert list(tmp_path.iterdir()) == []


def test_other_features_are_refused(world: World, tmp_path: Path) -> None:
    other = write_day(
        tmp_path / "3", range(30, 110), range(20, 80), text=True, seed=2, features=False
    )
    run = world.runs["rowwise_adagrad"]
    line = refusal(train(other, tmp_path / "run", "--warm-start", str(run)))
    assert f"--warm-start {run}: features is [('user', " in line
    assert "'city'" in line.split("and was")[1]
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_begun_from_itself(world: World) -> None:
    run = world.runs["rowwise_adagrad"]
    before = contents(run)
    for path in (run, run / "checkpoints/.."):
        line = refusal(train(world.today, run, "--overwrite", "--warm-start", str(path)))
        assert "is --out itself: to go on with a run, pass --resume" in line
    assert contents(run) == before


def test_a_dataset_whose_rows_cannot_be_told_apart_is_refused(world: World, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(world.today, data)
    path = data / "users.parquet"
    table = twice(pq.read_table(path))
    pq.write_table(table, path)
    run = world.runs["rowwise_adagrad"]
    line = refusal(train(data, tmp_path / "run", "--warm-start", str(run)))
    assert f"{path}: column 'user_id' holds '" in line
    assert "twice: prepare the dataset anew" in line
    assert not (tmp_path / "run").exists()


def test_the_run_records_what_it_began_from(warm: Path) -> None:
    assert json.loads((warm / "config.json").read_text())["warm_start"] == str(warm.parent / "old")
