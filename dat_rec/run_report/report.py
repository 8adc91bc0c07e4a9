"""Runs in, one HTML file out."""

from collections.abc import Sequence
from pathlib import Path

from dat_rec.errors import UserError
from dat_rec.files import whole_file
from dat_rec.run_report.catalogue import Catalogue, of_export, of_run
from dat_rec.run_report.page import page
from dat_rec.run_report.run_facts import RunFacts, read_runs
from dat_rec.storage.address import Location

MOST_RUNS = 8
"""Maximum number of runs: as many as there are colours."""


def report(
    runs: Sequence[Path] | Path,
    out: Path,
    *,
    exports: Sequence[Location] = (),
    overwrite: bool = False,
) -> Path:
    """Write a page about one run, or several side by side: one HTML file that needs no other.

    It shows how they learned, what they score beside the baselines, by category, warm and cold,
    whether scores are calibrated, item vectors and neighbours, plan, memory and time. What a run
    does not have yet, the page says, with the command that gives it.

    Args:
        runs: folders that ``dat_rec.train`` made, or a single one; at most 8.
        out: the file to write.
        exports: an export of each run, in their order, whose vectors are shown. Without them, a
            catalogue of at most 200,000 items is encoded by a checkpoint, which takes seconds.
        overwrite: replace a file that is already at ``out``.

    Returns:
        ``out``.

    Raises:
        UserError: no run or too many, a folder that is none, a malformed file, as many exports as
            there are not runs, an export that is none or of another dataset, or ``out`` is taken.

    Example:
        >>> page = dat_rec.report([Path("run"), Path("stopped")], Path("report.html"))
        >>> page.read_text().startswith("<!DOCTYPE html>")
        True
    """
    folders = [runs] if isinstance(runs, Path) else list(runs)
    if not 1 <= len(folders) <= MOST_RUNS:
        raise UserError(f"{len(folders)} runs: a report is of 1 to {MOST_RUNS}: name as many")
    if exports and len(exports) != len(folders):
        raise UserError(
            f"--export names {len(exports)} exports for {len(folders)} runs: name one for each "
            "run, in their order, or none"
        )
    if out.is_dir() or (out.exists() and not overwrite):
        cure = "name a file" if out.is_dir() else "name another file, or pass --overwrite"
        raise UserError(f"{out} is already there: {cure}")
    found = read_runs(folders)
    of_each: Sequence[Location | None] = exports or [None] * len(found)
    text = page(found, [_catalogue(*pair) for pair in zip(found, of_each, strict=True)])
    with whole_file(out) as partial:
        partial.write_text(text, "utf-8")
    return out


def _catalogue(run: RunFacts, export: Location | None) -> Catalogue | UserError:
    """Return the run's catalogue, or why there is none; an export that is named must be one."""
    if export is not None:
        return of_export(run, export)
    try:
        return of_run(run)
    except UserError as error:
        return error
