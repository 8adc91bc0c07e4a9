"""A run's curves in MLflow: where, its own variables say (MLFLOW_TRACKING_URI and others)."""

import os
import time
from collections.abc import Mapping

from dat_rec.training.trackers.tracker import About, Outcome

EXPERIMENT = "dat_rec"
"""The experiment of runs for which MLFLOW_EXPERIMENT_NAME names none."""
STATUS: dict[Outcome, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
AT_ONCE = 100
"""Maximum number of parameters in a request."""
LONGEST = 500
"""Maximum number of characters of a parameter: every store takes as many."""


class Mlflow:
    """See ``Tracker``. Hyperparameters become params; a resumed run has those of its first start.

    MLflow takes no "@" in a name: HR@100 is called HR_at_100 there.

    Args:
        run_id: to go on with; None: a new run.
        about: the run.
    """

    def __init__(self, run_id: str | None, about: About) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        if run_id is not None:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
            return
        created = self._client.create_run(
            self._experiment(), tags=dict(about.tags), run_name=about.run.resolve().name
        )
        self.run_id = str(created.info.run_id)
        params = [Param(name, str(value)[:LONGEST]) for name, value in about.options.items()]
        for start in range(0, len(params), AT_ONCE):
            self._client.log_batch(self.run_id, params=params[start : start + AT_ONCE])

    def _experiment(self) -> str:
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """See Tracker."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self.run_id,
            metrics=[
                Metric(name.replace("@", "_at_"), value, now, step)
                for name, value in scalars.items()
            ],
        )

    def close(self, outcome: Outcome) -> None:
        """See Tracker."""
        self._client.set_terminated(self.run_id, STATUS[outcome])
