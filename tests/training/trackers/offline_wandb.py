"""Read what Weights & Biases keeps of an offline run: a log in the format of LevelDB."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK, HEADER = 2**15, 7
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, up to one that was cut off."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = path.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        kind = data[place + 6]
        whole += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def offline_files(run: Path) -> list[Path]:
    """The files of all starts of a run, in their order."""
    return sorted((run / "wandb").glob("offline-run-*/*.wandb"))


class Told(NamedTuple):
    """What all starts of a run have told."""

    points: list[tuple[str, int, float]]
    """(curve, step, value), sorted."""
    runs: list[Any]
    """What each said of the run."""
    options: dict[str, Any]
    """The run's configuration."""


def told(run: Path) -> Told:
    """Read what all starts have told."""
    points, runs, options = [], [], {}
    for path in offline_files(run):
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                runs.append(record.run)
            if kind == "config":
                for item in record.config.update:
                    options[item.key or item.nested_key[0]] = json.loads(item.value_json)
            if kind == "history":
                step = record.history.step.num
                for item in record.history.item:
                    name = item.key or "/".join(item.nested_key)
                    if not name.startswith("_"):
                        points.append((name, step, json.loads(item.value_json)))
    return Told(sorted(points), runs, options)
