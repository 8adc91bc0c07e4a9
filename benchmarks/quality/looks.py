"""Who has looked at a log's test: a line for each look, kept beside the datasets.

The test is for the last word. An arm is evaluated on it once for each seed; the same trial may be
run again, as after a kill, for it finds the same. Another setting, or other code, is a second look
at what chose the first, and is refused unless it is asked for.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dat_rec.errors import UserError

if TYPE_CHECKING:
    from benchmarks.quality.trial import Trial

LEDGER = "test_reads.jsonl"


def looks(folder: Path) -> list[dict[str, Any]]:
    """What was read of the test of a log.

    Raises:
        UserError: the ledger is malformed.
    """
    path = folder / LEDGER
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise UserError(f"{path}: is no ledger of looks at the test ({error})") from error


def _of_same_model(trial: "Trial") -> list[dict[str, Any]]:
    """Looks for the trial's arm and seed."""
    mine = {"arm": trial.arm, "seed": trial.seed, "data_digest": trial.data.whole}
    return [one for one in looks(trial.data.folder) if mine.items() <= one.items()]


def refuse_second_look(trial: "Trial") -> None:
    """Refuse a trial whose arm and seed have seen the test with another setting or other code.

    Raises:
        UserError: they have.
    """
    folder = trial.data.folder
    what = {"id": trial.id, "code": trial.judged.code}
    others = (one for one in _of_same_model(trial) if not what.items() <= one.items())
    if (other := next(others, None)) is not None:
        changed = "setting" if other["id"] != trial.id else "code"
        raise UserError(
            f"{folder}: its test was read for {trial.arm}, seed {trial.seed}, on {other['date']} "
            f"with another {changed}: choose on validation (--search-only), or pass --again, "
            "which the results will say"
        )


def look(trial: "Trial") -> int:
    """Record that a trial is about to read the test.

    Returns:
        How many times it was read for this arm and seed, this time included.
    """
    earlier = len(_of_same_model(trial))
    record = {
        "arm": trial.arm,
        "seed": trial.seed,
        "data_digest": trial.data.whole,
        "id": trial.id,
        "code": trial.judged.code,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with (trial.data.folder / LEDGER).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return earlier + 1
