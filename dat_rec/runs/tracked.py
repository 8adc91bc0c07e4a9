"""What a run keeps of its trackers (MLflow, Weights & Biases): ``RUN/trackers/NAME.json``.

``id`` is the tracker's run, which a resumed run goes on in; ``sent`` the last step that was sent,
of the training's points and of the validations', so that no point is sent twice.
"""

from dataclasses import dataclass, field
from pathlib import Path

from dat_rec.files import STRICT, checked, read_json, write_json

TRACKERS = "trackers"


@dataclass(frozen=True)
class Tracked:
    """One tracker's part of a run."""

    id: str
    sent: dict[str, int] = field(default_factory=dict)

    __pydantic_config__ = STRICT


def read_tracked(run: Path, name: str) -> Tracked | None:
    """Return what was kept; None if the tracker has no run yet.

    Raises:
        UserError: the file is malformed.
    """
    path = run / TRACKERS / f"{name}.json"
    if not path.exists():
        return None
    found = read_json(path, "the tracker's run")
    return checked(Tracked, found, str(path), "remove it to begin a new one")


def write_tracked(run: Path, name: str, tracked: Tracked) -> None:
    """Keep it.

    Raises:
        OSError: the disk refuses it.
    """
    write_json(run / TRACKERS / f"{name}.json", {"id": tracked.id, "sent": tracked.sent})
