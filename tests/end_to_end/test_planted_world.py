"""The whole way on a planted world, whose best possible hit rate is known by construction."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked, on_ranks


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a trained and evaluated run, its export and recommendations."""
    folder = tmp_path_factory.mktemp("world")
    size = ("--users", "1000", "--items", "1000", "--interactions", "60000", "--categories", "8")
    done(forked("prepare", "synthetic", "--out", folder / "data", *size))
    train = ("--epochs", "6", "--batch-size", "1024")
    done(forked("train", "--data", folder / "data", "--out", folder / "run", *train))
    done(forked("evaluate", "--run", folder / "run"))
    done(forked("export", "--run", folder / "run", "--out", folder / "export"))
    recommend = ("recommend", "--export", folder / "export", "--k", "10")
    done(forked(*recommend, "--out", folder / "recs.parquet"))
    return folder


def test_the_world_is_learned(world: Path) -> None:
    metrics = json.loads((world / "run" / "metrics.json").read_text())
    best = json.loads((world / "data" / "schema.json").read_text())["facts"]
    popular = metrics["baselines"]["MostPop"]["all"]
    for figure in ("HR@50", "HR@100"):
        reached = metrics["all"][figure]
        assert reached > 1.5 * popular[figure]
        assert 0.75 * best[f"best {figure}"] < reached < best[f"best {figure}"] + 0.02


def test_metrics_have_the_promised_names(world: Path) -> None:
    metrics = json.loads((world / "run" / "metrics.json").read_text())
    figures = {"HR@50", "HR@100", "MRR", "queries"}
    assert figures | {"unanswerable"} <= metrics["all"].keys()
    for block in ("new_pairs", "warm", "cold"):
        assert figures <= metrics[block].keys()
    assert len(metrics["by_category"]) > 1
    assert all(figures <= block.keys() for block in metrics["by_category"].values())
    for baseline in metrics["baselines"].values():
        assert figures <= baseline["all"].keys()
        assert figures <= baseline["new_pairs"].keys()
    categories = metrics["by_category"].values()
    assert sum(block["queries"] for block in categories) == metrics["all"]["queries"]


def test_recommendations_are_the_best_items_in_order(world: Path) -> None:
    recs = pq.read_table(world / "recs.parquet")
    assert recs.column_names == ["user_id", "rank", "item_id", "score"]
    users = pq.read_table(world / "data" / "users.parquet").num_rows
    assert recs.num_rows == 10 * users
    scores = recs["score"].to_numpy().reshape(users, 10)
    assert np.all(np.diff(scores, axis=1) <= 0)
    assert np.array_equal(recs["rank"].to_numpy(), np.tile(np.arange(1, 11), users))


def test_the_run_tells_its_plan_and_its_curves(world: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan = json.loads((world / "run" / "plan.json").read_text())
    modules = {row["module"] for row in plan}
    assert modules == {"dat.embeddings", "dat.augmented"}
    curves = EventAccumulator(str(world / "run" / "tensorboard"))
    curves.Reload()
    tags = {tag for tag in curves.Tags()["scalars"] if not tag.startswith("evaluation/")}
    assert tags == {
        *(f"loss/{name}" for name in ("main", "mimic_user", "mimic_item", "alignment")),
        "lr_factor",
        "samples_per_s",
        "share/checkpoint",
        "share/data_wait",
        "share/lookup",
    }
    losses = [point.value for point in curves.Scalars("loss/main")]
    assert losses[-1] < losses[0]


def test_unknown_users_get_an_answer(world: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"user_id": [3, 10**9]}), tmp_path / "queries.parquet")
    out = tmp_path / "recs.parquet"
    common = ("recommend", "--export", world / "export", "--k", "5", "--out", out)
    said = done(forked(*common, "--queries", tmp_path / "queries.parquet"))
    assert "1 of them unknown" in said
    assert pq.read_table(out)["user_id"].to_pylist() == [3] * 5 + [10**9] * 5


def per_step_losses(run: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(run / "tensorboard"))
    curves.Reload()
    tags = [tag for tag in curves.Tags()["scalars"] if tag.startswith("loss/")]
    return {tag: [point.value for point in curves.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize("preset", ["modern", "paper"])
def test_two_ranks_have_the_losses_of_one_on_the_same_global_batch(
    preset: str, world: Path, tmp_path: Path
) -> None:
    common = ("train", "--data", world / "data", "--preset", preset, "--epochs", "1")
    # In float32 rounding depends on how the batch is cut, and row-wise tables pool their
    # bags in parts; training amplifies both, a little more in every step.
    exact = ("--model.precision", "float64", "--sharding-types", "table_wise")
    more = ("--log-every", "1", "--seed", "4", *exact)
    one, two = tmp_path / "one", tmp_path / "two"
    done(forked(*common, *more, "--out", one, "--batch-size", "1024"))
    done(on_ranks(2, *common, *more, "--out", two, "--batch-size", "512"))
    alone, together = per_step_losses(one), per_step_losses(two)
    assert alone.keys() == together.keys()
    for tag, values in alone.items():
        assert len(values) == len(together[tag]) > 40
        np.testing.assert_allclose(together[tag], values, rtol=0, atol=1e-7)


def test_two_ranks_start_with_the_losses_of_one_in_float32_and_row_wise(
    world: Path, tmp_path: Path
) -> None:
    common = ("train", "--data", world / "data", "--epochs", "1", "--log-every", "1")
    one, two = tmp_path / "one", tmp_path / "two"
    done(forked(*common, "--out", one, "--batch-size", "1024"))
    rows = ("--sharding-types", "row_wise")
    done(on_ranks(2, *common, *rows, "--out", two, "--batch-size", "512"))
    assert "row_wise" in (two / "plan.txt").read_text()
    alone, together = per_step_losses(one), per_step_losses(two)
    for tag, values in alone.items():
        np.testing.assert_allclose(together[tag][:10], values[:10], rtol=0, atol=1e-5)


def test_a_failure_on_one_rank_ends_all_with_one_line(world: Path, tmp_path: Path) -> None:
    data = ("--data", world / "data", "--out", tmp_path / "run")
    failed = on_ranks(2, "train", *data, "--pin", "nowhere=row_wise")
    assert failed.returncode != 0
    assert "--pin nowhere=row_wise" in failed.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--run", "nowhere"), "nowhere is not a run"),
        (("export", "--run", "nowhere", "--out", "x"), "nowhere is not a run"),
        (("recommend", "--export", "nowhere", "--out", "x"), "nowhere"),
        (("train", "--data", "nowhere", "--out", "x"), "nowhere is not a prepared dataset"),
        (("train", "--data", "d", "--out", "x", "--batch-size", "0"), "--batch-size is 0"),
        (("train", "--data", "d", "--out", "x", "--preset", "best"), "modern"),
        (("nonsense",), "no command 'nonsense'"),
    ],
)
def test_bad_arguments_get_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str
) -> None:
    refused = forked(*arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
