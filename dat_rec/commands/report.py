"""``dat-rec report``: one HTML page about runs."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from dat_rec.commands.parse import Arguments, parse, refuse_repeated
from dat_rec.storage.address import Location
from dat_rec.versions import require_stack


@dataclass(frozen=True)
class ReportOptions:
    """Write one HTML page about a run, or several side by side: curves, figures, vectors, time."""

    runs: Positional[tuple[Path, ...]]
    """Folders of runs that `dat-rec train` made, at most 8."""
    out: Path
    """HTML file to write."""
    export: tuple[Location, ...] = ()
    """Folder of an export of each run, or its address, in the order of the runs: its vectors are
    shown. Without, they are encoded by a checkpoint, of 200,000 items at most."""
    overwrite: bool = False
    """Replace a file that is already at OUT."""


def run(arguments: Arguments) -> None:
    """Write the page, and print where it is."""
    refuse_repeated(arguments, ("--export",))
    options: ReportOptions = parse("report", ReportOptions, arguments)
    require_stack()
    from dat_rec.run_report.report import report

    report(options.runs, options.out, exports=options.export, overwrite=options.overwrite)
    count = len(options.runs)
    print(f"{options.out}: a report of {count} run{'s' if count > 1 else ''}: open it in a browser")
