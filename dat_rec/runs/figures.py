"""A run's train.json and metrics.json in, what came out of it in words out.

Standard library only, so that ``dat-rec status`` answers at once.
"""

import shlex
from pathlib import Path
from typing import Any

from dat_rec.errors import UserError
from dat_rec.files import read_json
from dat_rec.runs.failure_record import SUMMARY

METRICS = "metrics.json"
CUTOFFS = ("HR@50", "HR@100", "MRR")
BLOCKS = {"all": "all pairs", "new_pairs": "new pairs", "warm": "warm", "cold": "cold"}
"""Of metrics.json, and what they are called."""


def read_summary(run: Path) -> dict[str, Any] | None:
    """What train.json holds; None where training has not ended.

    Raises:
        UserError: it is malformed.
    """
    return _read(run / SUMMARY, "the training's summary")


def read_metrics(run: Path) -> dict[str, Any] | None:
    """The figures of metrics.json without those of single categories; None where there are none.

    Returns:
        ``checkpoint`` (the step), and of each of ``BLOCKS`` HR@50, HR@100, MRR and ``queries``.

    Raises:
        UserError: it is malformed.
    """
    found = _read(run / METRICS, "the evaluation's figures")
    if found is None:
        return None
    try:
        blocks = {
            block: {name: found[block][name] for name in (*CUTOFFS, "queries")} for block in BLOCKS
        }
        return {"checkpoint": found["checkpoint"], **blocks}
    except (TypeError, KeyError) as error:
        raise UserError(f"{run / METRICS}: a field is missing ({error}): evaluate anew") from error


def _read(path: Path, what: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    found = read_json(path, what)
    if not isinstance(found, dict):
        raise UserError(f"{path}: not {what}: make it anew")
    return found


def main_loss(summary: dict[str, Any]) -> float | None:
    """The main loss of train.json, if it says any."""
    losses = summary.get("loss")
    return losses.get("main") if isinstance(losses, dict) else None


def trained_words(summary: dict[str, Any]) -> str:
    """How a training ended, as in ``93 steps, main loss 5.1234, 57,000 samples/s``."""
    words = [f"{summary.get('steps', 0):,} steps"]
    loss, rate = main_loss(summary), summary.get("samples_per_s")
    if loss is not None:
        words.append(f"main loss {loss:.4f}")
    if rate is not None:
        words.append(f"{rate:,.0f} samples/s")
    return ", ".join(words)


def metrics_words(metrics: dict[str, Any]) -> str:
    """What an evaluation found, in one line."""
    parts = []
    for block in ("all", "new_pairs"):
        figures = [
            f"{name} {'-' if value is None else format(value, '.4f')}"
            for name, value in metrics[block].items()
            if name in CUTOFFS
        ]
        parts.append(f"{BLOCKS[block]} {', '.join(figures)}")
    return f"step {metrics['checkpoint']:,}: {'; '.join(parts)}"


def next_command(run: Path, metrics: dict[str, Any] | None) -> str:
    """What to give once a run has ended: evaluate it, then export it."""
    where = shlex.quote(str(run))
    if metrics is None:
        return f"dat-rec evaluate --run {where}"
    return f"dat-rec export --run {where} --out EXPORT"
