"""What storing tables in few bits costs in hit rate, and saves in bytes: export --tables.

    python -m benchmarks.export_tables --work /tmp/tables            # a planted world
    python -m benchmarks.export_tables --run demo/run --work /tmp/tables

Queries are encoded by the exported tower and ranked among the exported item vectors, by the
protocol of ``dat-rec evaluate``.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import dat_rec
from benchmarks.record import append, circumstances
from dat_rec.config import preset
from dat_rec.data.sources import Synthetic


@dataclass(frozen=True)
class Arguments:
    """Which run, and what is planted where none is given."""

    work: Path
    """Folder for the exports, and the planted world and its run."""
    run: Path | None = None
    """A trained run; None: of a planted world."""
    users: int = 60_000
    items: int = 2_000
    interactions: int = 400_000
    dim: int = 64
    """Width of embeddings and of vectors."""
    epochs: int = 2
    smoke: bool = False
    """A small world, to see that it runs."""
    out: Path | None = None
    """JSON lines are added to it."""


KINDS = {"query_tower.pt2": "towers", "item_tower.pt2": "towers"}
KINDS |= {"item_vectors": "item_vectors", "index.faiss": "item_vectors"}
KINDS |= {"users": "users", "seen": "users"}
"""What a file counts as, by the first part of its name."""


def main() -> None:
    """Export in each form; print a line of bytes and hit rates for each."""
    arguments = tyro.cli(Arguments)
    if arguments.smoke:
        arguments = replace(arguments, users=300, items=100, interactions=4_000, dim=8, epochs=1)
    run = arguments.run or _planted(arguments)
    for form in ("float32", "float16", "int8"):
        out = arguments.work / form
        made = dat_rec.export(run, out, tables=form, overwrite=True)
        sizes: dict[str, int] = {}
        for name in made["sha256"]:
            kind = KINDS.get(name.split("/")[0], "rest")
            sizes[kind] = sizes.get(kind, 0) + (out / name).stat().st_size
        append(
            arguments.out,
            {
                "benchmark": "export_tables",
                **circumstances(),
                "run": run.name,
                "users": made["users"],
                "items": made["items"],
                "tables": made["tables"],
                "bytes": sum(sizes.values()),
                "bytes_of": sizes,
                **_hit_rates(run, out),
            },
        )


def _planted(arguments: Arguments) -> Path:
    data, run = arguments.work / "data", arguments.work / "run"
    dat_rec.prepare(
        Synthetic(
            out=data,
            users=arguments.users,
            items=arguments.items,
            interactions=arguments.interactions,
            overwrite=True,
        )
    )
    config = preset("modern", data, run)
    model = replace(config.model, embedding_dim=arguments.dim, output_dim=arguments.dim)
    dat_rec.train(replace(config, model=model, epochs=arguments.epochs, overwrite=True))
    return run


def _hit_rates(run: Path, export: Path) -> dict[str, Any]:
    from dat_rec.data.dataset import Dataset
    from dat_rec.retrieval.exported import Export
    from dat_rec.retrieval.metrics import protocol_metrics
    from dat_rec.retrieval.protocol import Protocol
    from dat_rec.runs.recorded import load_config

    opened = Export.open(export)
    protocol = Protocol.read(Dataset.open(load_config(run).data))
    found = []
    for start in range(0, len(protocol.users), 4096):
        rows = protocol.users[start : start + 4096]
        columns = {name: column.take(rows) for name, column in opened.user_columns.items()}
        found.append(opened.tower.encode(columns))
    metrics = protocol_metrics(protocol, np.concatenate(found), opened.item_vectors)
    return {
        f"{name} {figure}": metrics[name][figure]
        for name in ("all", "new_pairs")
        if name in metrics
        for figure in ("HR@50", "HR@100", "MRR")
    }


if __name__ == "__main__":
    main()
