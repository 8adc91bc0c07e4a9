"""Which steps a test trains, and what TensorBoard holds of them: what a tracker must hold too."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

FLAGS = ("--epochs", "2", "--batch-size", "512", "--log-every", "4", "--checkpoint-every", "8")


def tensorboard_points(run: Path) -> list[tuple[str, int, float]]:
    """All points of a run's curves, as (curve, step, value), sorted."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return sorted(
        (name, event.step, event.value)
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    )
