"""The checkpoints that stand in a run's folder, and how to go on. Standard library only."""

from pathlib import Path


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """The run's checkpoints as (step, folder), oldest first.

    They appear by a rename: one that lacks a file was finished once, and is damaged.
    """
    found = []
    for folder in (run / "checkpoints").glob("step-*"):
        number = folder.name.removeprefix("step-")
        if number.isdecimal() and folder.is_dir():
            found.append((int(number), folder))
    return sorted(found)


def advice(run: Path) -> str:
    """What to do after a start of the run has failed."""
    if checkpoints(run):
        return "go on with --resume"
    if (run / "config.json").exists():
        return "begin anew with --overwrite (there is no checkpoint yet)"
    return "start it again"


def usual_command(run: Path) -> str:
    """The same as what to add to the command that was given."""
    if checkpoints(run):
        return "the same command with --resume"
    if (run / "config.json").exists():
        return "the same command with --overwrite"
    return "the same command"
