"""``dat-rec export``: write what serving needs."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dat_rec.commands.parse import Arguments, parse
from dat_rec.storage.address import Location
from dat_rec.versions import require_stack


@dataclass(frozen=True)
class ExportOptions:
    """Write what serving needs: item vectors, index, query tower; under torchrun on all ranks."""

    run: Path
    """Folder of the run that `dat-rec train` made."""
    out: Location
    """Folder of the export, or its address, as in s3://bucket/export."""
    data: Location | None = None
    """Folder or address of the dataset, if it is no longer where the run found it."""
    checkpoint: str = "newest"
    """Checkpoint to export: the number of its steps, `best` or `newest`. The best has the
    highest --stop-by of its validation or, in a run without any, the lowest main loss, mean over
    the steps since the checkpoint before it."""
    blend_history: bool = False
    """Add what `recommend --blend-history` needs: the weights of `evaluate --blend-history`, which
    are fitted anew, and what they add to the scores of each user's own items."""
    since: Location | None = None
    """Folder or address of an export: write a delta into OUT, of what has changed since, of which
    `dat-rec apply` makes the full export. Meanwhile the disk needs room for that, twice."""
    tables: Literal["float32", "float16", "int8"] = "float32"
    """How the towers' tables and the item vectors are stored: float16 takes half the bytes, int8 a
    quarter and a scale for each row. export.json says by how much vectors differ."""
    runtimes: tuple[Literal["onnx", "aotinductor"], ...] = ()
    """Write both towers for other runtimes, too: onnx as .onnx, aotinductor as .aoti.pt2, compiled
    for this machine's CPU, which needs g++. Each is checked against the model on real users."""
    index: Literal["flat", "ivf", "ivf_pq", "hnsw", "auto"] = "flat"
    """An approximate index, ann.faiss, beside the exact one: auto takes the quickest kind, or none
    if none is quicker than scoring all items (flat)."""
    min_recall: float = 0.98
    """Least recall of the approximate index, on users who did not choose its numbers; nothing is
    written where it is not reached."""
    recall_at: int = 100
    """K of the recall: the share of the exact K best items that the index finds."""
    overwrite: bool = False
    """Replace an export, or a delta, that is already in OUT."""


def run(arguments: Arguments) -> None:
    """Export; under torchrun on each rank, of which the first one prints the next command."""
    options: ExportOptions = parse("export", ExportOptions, arguments)
    require_stack()
    from dat_rec.retrieval.export import export

    made = export(
        options.run,
        options.out,
        data=options.data,
        checkpoint=options.checkpoint,
        overwrite=options.overwrite,
        blend_history=options.blend_history,
        since=options.since,
        tables=options.tables,
        runtimes=options.runtimes,
        index=options.index,
        min_recall=options.min_recall,
        recall_at=options.recall_at,
    )
    if os.environ.get("RANK", "0") != "0":
        return
    if options.since is not None:
        _print_delta(options, made)
        return
    if options.index != "flat":
        print(_index_line(made))
    for name, facts in made.get("runtimes", {}).items():
        print(f"{name}: vectors differ from the model's by {facts['largest_difference']} at most")
    print(
        f"{options.out}: {made['items']:,} items and {made['users']:,} users of "
        f"{options.run}, step {made['source']['checkpoint']:,}; next: dat-rec recommend --export "
        f"{shlex.quote(str(options.out))} --out RECOMMENDATIONS.parquet"
    )


def _index_line(made: dict[str, Any]) -> str:
    """What export.json says of the approximate index."""
    if "ann" not in made:
        return "no approximate index is quicker than scoring all items: there is none"
    ann = made["ann"]
    users = ann["users"]
    times = users["queries_per_s"] / users["exact_queries_per_s"]
    similar = "" if ann["similar"] else "; similar items are searched for exactly"
    return (
        f"ann.faiss: {ann['kind']}, recall@{ann['k']} {users['recall']:.4f} on {users['queries']} "
        f"users, {users['queries_per_s']:,.0f} queries/s on one thread, {times:.1f} times the "
        f"exact search's{similar}"
    )


def _print_delta(options: ExportOptions, made: dict[str, Any]) -> None:
    """Say what delta.json says, and the command to go on with."""
    gone = made["forgotten"]
    whole = [name.removeprefix("whole/") for name in made["sha256"] if name.startswith("whole/")]
    whole = [name for name in whole if name != "golden.parquet"]  # New in each.
    given = f"; given whole: {', '.join(whole)}" if whole else ""
    base, delta = shlex.quote(str(options.since)), shlex.quote(str(options.out))
    print(
        f"{options.out}: delta {made['sequence']}, {made['bytes']:,} bytes, since {options.since}: "
        f"{gone['items']:,} items and {gone['users']:,} users forgotten{given}; "
        f"next: dat-rec apply --base {base} --delta {delta} --out EXPORT"
    )
