"""MLflow with a store in SQLite: the real package, asked for what it was sent."""

import shutil
from pathlib import Path

import pytest

from dat_rec.data.dataset import Dataset
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked
from tests.training.trackers.points import FLAGS, tensorboard_points

pytest.importorskip("mlflow", reason="needs the package mlflow")
# The store's own: mlflow-skinny is without.
pytest.importorskip("alembic", reason="needs the whole of mlflow, with its SQLite store")


def test_a_run_that_is_resumed_has_every_point_once(planted: Dataset, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    run, store = tmp_path / "tracked", f"sqlite:///{tmp_path / 'mlflow.db'}"
    # A store of a new file is made by hundreds of statements, longer than the run.
    client = MlflowClient(store)
    client.create_experiment("planted")
    train = ("train", "--data", planted.folder, "--out", run, *FLAGS)
    train = (*train, "--log-to", "tensorboard", "mlflow")
    where = {"MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": "planted"}
    done(forked(*train, **where))
    whole = [(name.replace("@", "_at_"), *rest) for name, *rest in tensorboard_points(run)]
    (run / "train.json").unlink()
    for folder in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(folder)
    done(forked(*train, "--resume", **where))
    experiment = client.get_experiment_by_name("planted")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("tracked", "FINISHED")
    assert found.data.tags["preset"] == "modern"
    assert found.data.params["optimizer.table_lr"] == "0.05"
    assert found.data.params["global_batch"] == "512"
    points = sorted(
        (name, one.step, one.value)
        for name in found.data.metrics
        for one in client.get_metric_history(found.info.run_id, name)
    )
    assert [point[:2] for point in points] == [tuple(point[:2]) for point in whole]
    assert [value for *_, value in points] == pytest.approx([value for *_, value in whole], 1e-5)
