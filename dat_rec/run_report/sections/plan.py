"""The sharding plan, and the memory of each rank: as planned, and as measured."""

from collections.abc import Sequence

from dat_rec.planner.report_sections import ranges, size_text
from dat_rec.run_report.html import Html, details, element, joined, missing, name, note, table
from dat_rec.run_report.memory import Held, Table, by_rank, planned_tables
from dat_rec.run_report.parts import legend, of_run, section
from dat_rec.run_report.run_facts import RunFacts

MOST_RANKS = 32
"""Maximum number of ranks that are shown; of more, the fullest."""
MIB = 2**20


def plan(runs: Sequence[RunFacts]) -> Html:
    """Return the section."""
    several = len(runs) > 1
    return section(
        "plan",
        "Plan and memory",
        *(of_run(run, *_of_run(run), several=several) for run in runs),
    )


def _of_run(run: RunFacts) -> list[Html]:
    if not run.plan or run.schema is None:
        return [missing(f"{run.label} has no plan yet", run.status.command or "dat-rec train …")]
    tables = planned_tables(run.plan, run.schema, run.config)
    ranks = int(run.options.get("world_size") or 1)
    peaks = run.training.get("peak_memory_mb") or []
    return [
        _bars(by_rank(tables, ranks), peaks),
        _tables(tables),
        details("What the last start began with", element("pre", run.start_page)),
    ]


def _bars(held: Sequence[Held], peaks: Sequence[float]) -> Html:
    shown = sorted(range(len(held)), key=lambda rank: -held[rank].total)[:MOST_RANKS]
    most = max((one.total for one in held), default=0) or 1
    rows = []
    for rank in sorted(shown):
        one = held[rank]
        parts = [
            element("span", class_=f"f{colour}", style=f"width:{100 * size / most:.2f}%")
            for colour, size in ((0, one.weights), (1, one.state))
        ]
        drawn = element("span", *parts, class_="stack", aria_hidden="true")
        peak = size_text(peaks[rank] * MIB) if rank < len(peaks) else "-"
        rows.append([f"rank {rank}", size_text(one.weights), size_text(one.state), peak, drawn])
    said = "Memory of the tables by rank, and the process's measured peak"
    if len(shown) < len(held):
        said += f": the fullest {len(shown)} of {len(held)} ranks"
    return joined(
        [
            table(said, ["rank", "weights", "optimizer", "measured peak", "tables"], rows),
            legend([(0, "weights"), (1, "optimizer state")]),
            note(
                "The peak is that of the whole process: Python and PyTorch, towers, batches and "
                "the examples that are read ahead."
            )
            if peaks
            else missing("No measured peak: it is there when the training has ended"),
        ]
    )


def _tables(tables: Sequence[Table]) -> Html:
    rows = [
        [
            name(one.name),
            one.sharding_type,
            one.kernel,
            f"{one.rows:,} × {one.dim:,}",
            size_text(one.total),
            ranges(list(one.held)),
        ]
        for one in sorted(tables, key=lambda one: -one.total)
    ]
    head = ["table", "sharding", "kernel", "rows × dim", "in all", "on ranks"]
    return table("The plan", head, rows, texts=3)
