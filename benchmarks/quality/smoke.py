"""A study that shows that studies work: a planted world, two arms, two seeds, a few steps."""

from pathlib import Path
from typing import Any

from dat_rec.data.schema import SCHEMA

SMOKE: dict[str, Any] = {
    "arms": ("two-tower", "DAT"),
    "trials": 2,
    "steps": 60,
    "batch_size": 256,
    "seeds": (0, 1),
    "threads": 1,
    "dims": (),
    "blend_history": True,
    "stop_by": "new_pairs/HR@50",
}
WORLD: dict[str, Any] = {"users": 300, "items": 200, "interactions": 9_000, "categories": 5}


def plant(folder: Path) -> Path:
    """Prepare the world twice, unless it stands there; return the folder."""
    from dat_rec.data.prepare.pipeline import prepare
    from dat_rec.data.sources.synthetic import Synthetic

    for name, share in (("tuning", 0.1), ("whole", None)):
        if not (folder / name / SCHEMA).exists():
            prepare(Synthetic(out=folder / name, validation_share=share, **WORLD))
    return folder
