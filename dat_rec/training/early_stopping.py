"""Values of a metric in, step by step; which is the best, and whether to go on, out."""

from typing import Any


class StopRule:
    """Follows one metric of the validations of a run, and ends the run when it no longer rises.

    Args:
        metric: name of the metric; higher is better.
        patience: number of validations in a row without a better value that are one too many;
            0: the run is never ended.
    """

    def __init__(self, metric: str, patience: int) -> None:
        self.metric = metric
        self.patience = patience
        self.value: float | None = None
        """Value at ``step``, None where the metric had no query."""
        self.step = 0
        """Step of the last validation; 0 before the first."""
        self.best: float | None = None
        """The highest value so far; of equals, the first."""
        self.best_step = 0
        self.since = 0
        """Number of validations since the best one."""

    def look(self, step: int, value: float | None) -> bool:
        """Take the value at a step; return whether it is better than all before."""
        self.step, self.value = step, value
        better = value is not None and (self.best is None or value > self.best)
        if better:
            self.best, self.best_step, self.since = value, step, 0
        else:
            self.since += 1
        return better

    @property
    def is_over(self) -> bool:
        """Whether the run is to end now."""
        return 0 < self.patience <= self.since

    def words(self) -> str:
        """Say why the run ends."""
        best = "none" if self.best is None else f"{self.best:.4f} after step {self.best_step:,}"
        return f"{self.metric} has not risen in {self.since} validations: best {best}"

    def state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint after ``step`` states, as JSON values.

        ``value`` is that of the checkpoint itself, None where it was not validated.
        """
        return {
            "metric": self.metric,
            "value": self.value if self.step == step else None,
            "step": self.step,
            "best": self.best,
            "best_step": self.best_step,
            "since": self.since,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self.value, self.step = state["value"], state["step"]
        self.best, self.best_step = state["best"], state["best_step"]
        self.since = state["since"]
