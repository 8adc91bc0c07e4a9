"""The checkpoints that stand in a run's folder, and how to go on. Standard library only."""

import os
from pathlib import Path


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """The run's checkpoints as (step, folder), oldest first.

    They appear by a rename: one that lacks a file was finished once, and is damaged.

    Raises:
        OSError: the disk does not tell; that there are none is no error.
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
    """What to do after a start of the run has failed; also where the disk does not tell."""
    state = _state(run)
    if state == "checkpoints":
        return "go on with --resume"
    if state == "begun":
        return "begin anew with --overwrite (there is no checkpoint yet)"
    return "start it again"


def usual_command(run: Path) -> str:
    """The same as what to add to the command that was given."""
    state = _state(run)
    if state == "checkpoints":
        return "the same command with --resume"
    if state == "begun":
        return "the same command with --overwrite"
    return "the same command"


def _state(run: Path) -> str:
    """What there is; checkpoints, as long as the disk does not say that there are none."""
    try:
        if checkpoints(run):
            return "checkpoints"
        return "begun" if (run / "config.json").exists() else "nothing"
    except OSError:
        return "checkpoints"
