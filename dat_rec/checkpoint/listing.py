"""List the checkpoints in a run's folder, and say how to go on. Standard library only.

``RUN/checkpoints/step-00001000/`` holds a safetensors file of each rank, checkpoint.json (the index
of their tensors, and what else a run needs to go on) and sha256.json. It appears by a rename after
every rank's bytes are on the disk, so a killed run, a full disk or Ctrl-C leaves the older ones and
nothing half-written. Random numbers need no saving: they are keyed by seed and step.
"""

import os
from pathlib import Path

VERSION = 1
"""Version of the layout, as checkpoint.json states it."""
INDEX = "checkpoint.json"
DIGESTS = "sha256.json"
"""Holds the SHA-256 of every other file of a checkpoint."""


def checkpoint_folder(run: Path, step: int) -> Path:
    """Return the folder of the checkpoint after ``step`` steps."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Return the run's checkpoints as (step, folder), oldest first.

    They appear by a rename: one that lacks a file was finished once, and is damaged.

    Raises:
        OSError: the disk does not tell. A missing folder is no error.
    """
    try:
        entries = os.scandir(run / "checkpoints")
    except FileNotFoundError:
        return []
    found = []
    with entries:
        for entry in entries:
            number = entry.name.removeprefix("step-")
            if number != entry.name and number.isdecimal() and entry.is_dir():
                found.append((int(number), run / "checkpoints" / entry.name))
    return sorted(found)


def advice(run: Path) -> str:
    """Say how to go on after a start of the run has failed; also where the disk does not tell."""
    state = _state(run)
    if state == "checkpoints":
        return "go on with --resume"
    if state == "begun":
        return "begin anew with --overwrite (there is no checkpoint yet)"
    return "start it again"


def usual_command(run: Path) -> str:
    """Say the same as what to add to the command that was given."""
    options = {"checkpoints": " with --resume", "begun": " with --overwrite", "nothing": ""}
    return f"the same command{options[_state(run)]}"


def _state(run: Path) -> str:
    """Return what there is: checkpoints, unless the disk says that there are none."""
    try:
        if checkpoints(run):
            return "checkpoints"
        return "begun" if (run / "config.json").exists() else "nothing"
    except OSError:
        return "checkpoints"
