"""The figures of a run's validations: ``RUN/validations.jsonl``, an object a line.

Each has ``step``, ``seconds`` (what the validation took), ``metric`` with its ``value``, ``best``
and ``best_step``, and the blocks ``all``, ``new_pairs``, ``warm``, ``cold`` and ``per_user`` as
metrics.json has them. The file is written anew each time, whole. Standard library only, so that
``dat-rec status`` answers at once.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dat_rec.errors import UserError
from dat_rec.files import whole_file
from dat_rec.runs.figures import BLOCKS, CUTOFFS, figure

VALIDATIONS = "validations.jsonl"


def read_validations(run: Path) -> list[dict[str, Any]]:
    """Return the records, by step; none where there is no file.

    Raises:
        UserError: the file cannot be read, or is malformed.
    """
    path = run / VALIDATIONS
    try:
        lines = path.read_text("utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        if not all(isinstance(one["step"], int) for one in found):
            raise TypeError("a step is no number")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error}): remove it") from error
    return found


def write_validations(run: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write the records.

    Raises:
        OSError: the disk refuses them.
    """
    with whole_file(run / VALIDATIONS) as partial:
        partial.write_text("".join(json.dumps(one) + "\n" for one in records), "utf-8")


def figures_of(blocks: dict[str, Any]) -> dict[str, Any]:
    """Return of an evaluation's blocks what a record holds of them."""
    found = {
        block: {name: blocks[block][name] for name in (*CUTOFFS, "queries")} for block in BLOCKS
    }
    return {**found, "per_user": blocks["per_user"]}


def value_of(blocks: dict[str, Any], metric: str) -> float | None:
    """Return the value of a metric such as ``new_pairs/HR@100``; None where it has no query."""
    block, _, name = metric.partition("/")
    value: float | None = blocks[block][name]
    return value


def validation_words(record: dict[str, Any]) -> str:
    """Say what a validation found, and which was the best."""
    value, best = (figure(record[name], ".4f") for name in ("value", "best"))
    return (
        f"step {record['step']:,}: {record['metric']} {value} "
        f"(best {best}, step {record['best_step']:,})"
    )
