"""Read a run's config.json, train.json and metrics.json, and put its figures into words.

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
"""Blocks of metrics.json, and what they are called."""
USER_FIGURES = ("Recall@20", "NDCG@20")
"""Of the block ``per_user``, which means are over users."""


def read_config(run: Path) -> dict[str, Any]:
    """Return what config.json holds: the configuration, and facts of the run's last start.

    Raises:
        UserError: the folder holds no run, or the file is malformed.
    """
    path = run / "config.json"
    if not path.exists():
        raise UserError(f"{run} is not a run (no config.json): make one with `dat-rec train`")
    found = read_json(path, "the run's configuration")
    if not isinstance(found, dict):
        raise UserError(f"{path}: the content is {found!r:.40}: it must be an object: train anew")
    return found


def read_summary(run: Path) -> dict[str, Any] | None:
    """Return what train.json holds; None if training has not ended.

    Raises:
        UserError: the file is malformed.
    """
    return _read(run / SUMMARY, "the training's summary")


def read_metrics(run: Path) -> dict[str, Any] | None:
    """Return the figures of metrics.json, but for single categories; None if there is no file.

    Returns:
        ``checkpoint`` (its step), for each of ``BLOCKS`` HR@50, HR@100, MRR and ``queries``, and
        ``per_user`` with those of ``USER_FIGURES`` that the file has: none if it is of a release
        that had none, or was asked for other cutoffs. Where the file has them ``matched``, the
        dataset, where it is not that of the training, and ``tests``, the number of test
        interactions that there are.

    Raises:
        UserError: the file is malformed.
    """
    found = _read(run / METRICS, "the evaluation's figures")
    if found is None:
        return None
    try:
        blocks = {
            block: {name: found[block][name] for name in (*CUTOFFS, "queries")} for block in BLOCKS
        }
        of_users = found.get("per_user", {})
        per_user = {name: of_users[name] for name in USER_FIGURES if name in of_users}
        on: dict[str, Any] = {name: found[name] for name in ("matched", "tests") if name in found}
        return {"checkpoint": found["checkpoint"], **on, **blocks, "per_user": per_user}
    except (TypeError, KeyError) as error:
        raise UserError(f"{run / METRICS}: a field is missing ({error}): evaluate anew") from error


def _read(path: Path, what: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    found = read_json(path, what)
    if not isinstance(found, dict):
        raise UserError(f"{path}: not {what}: make it anew")
    return found


def losses(summary: dict[str, Any]) -> dict[str, float]:
    """Return the loss terms of train.json, by name; none if it states none."""
    found = summary.get("loss")
    return found if isinstance(found, dict) else {}


def figure(value: float | None, form: str) -> str:
    """Return a figure as text in that format; "-" for one that there is not."""
    return "-" if value is None else format(value, form)


def trained_words(summary: dict[str, Any]) -> str:
    """Say how a training ended, as in ``93 steps, main loss 5.1234, 57,000 samples/s``."""
    words = [f"{summary.get('steps', 0):,} steps"]
    loss, rate = losses(summary).get("main"), summary.get("samples_per_s")
    if loss is not None:
        words.append(f"main loss {loss:.4f}")
    if rate is not None:
        words.append(f"{rate:,.0f} samples/s")
    found = summary.get("validation")
    if isinstance(found, dict):
        best = figure(found.get("best"), ".4f")
        words.append(f"best {found.get('metric')} {best} after step {found.get('best_step', 0):,}")
        if found.get("stopped_early"):
            words.append("stopped early")
    return ", ".join(words)


def metrics_words(metrics: dict[str, Any]) -> str:
    """Say in one line what an evaluation found."""
    blocks = []
    for block in ("all", "new_pairs"):
        figures = [f"{name} {figure(metrics[block][name], '.4f')}" for name in CUTOFFS]
        blocks.append(f"{BLOCKS[block]} {', '.join(figures)}")
    on = f" on {metrics['matched']['data']}" if "matched" in metrics else ""
    return f"step {metrics['checkpoint']:,}{on}: {'; '.join(blocks)}"


def next_command(run: Path, summary: dict[str, Any], metrics: dict[str, Any] | None) -> str:
    """Return the command that comes next once a run has ended: evaluate it, then export it.

    Args:
        run: the run's folder.
        summary: what train.json holds.
        metrics: of ``read_metrics``; None if the run was not evaluated.
    """
    where = shlex.quote(str(run))
    found = summary.get("validation")
    best = " --checkpoint best" if isinstance(found, dict) and found.get("stopped_early") else ""
    if metrics is None:
        return f"dat-rec evaluate --run {where}{best}"
    return f"dat-rec export --run {where} --out EXPORT{best}"
