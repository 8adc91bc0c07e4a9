"""Trials as Parquet: a file for each, written whole by the process that made it.

A file each, and not one that grows: trials that run side by side need no lock, a kill at any moment
loses none that has ended, and `duckdb` or `pyarrow` read the folder as one table. After each stage
the study writes all of them into one more file, to keep or to send.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import dat_rec
from dat_rec.errors import UserError
from dat_rec.files import whole_file

PAIR_FIGURES = ("HR@50", "HR@100", "MRR")
USER_FIGURES = ("Recall@20", "NDCG@20")
BLOCKS = ("all", "new_pairs", "warm", "cold", "largest", "others", "blend")
"""Blocks of HR@K and MRR; ``largest`` and ``others`` are the categories', ``blend`` all pairs with
own history blended in."""
SPANS = ("validation", "test")
FIGURES = (
    *(f"{block}/{name}" for block in BLOCKS for name in PAIR_FIGURES),
    *(f"per_user/{name}" for name in USER_FIGURES),
)
TEXT, NUMBER, REAL = pa.string(), pa.int64(), pa.float64()
SCHEMA = pa.schema(
    [
        ("id", TEXT),  # of all that decides what the trial finds, but for the code
        ("stage", TEXT),  # search, sweep, test or baselines
        ("data", TEXT),
        ("data_digest", TEXT),
        ("arm", TEXT),
        ("number", NUMBER),  # of the draw, or the swept dimension
        ("seed", NUMBER),
        ("setting", TEXT),  # JSON: options by dotted name
        ("code", TEXT),  # digest of dat_rec's sources
        ("steps", NUMBER),
        ("epochs", REAL),
        ("score", REAL),  # what the search goes by; null where the trial failed
        ("chosen_epochs", NUMBER),  # what the setting is to be trained for
        ("failure", TEXT),
        ("test_read", NUMBER),  # how many times the test was read for this arm and seed
        *((f"{span}/{figure}", REAL) for span in SPANS for figure in FIGURES),
        ("validations", TEXT),  # JSON: step and value of each
        ("metrics", TEXT),  # JSON: metrics.json
        ("seconds", REAL),
        ("cpu_seconds", REAL),  # of all threads
        ("samples_per_s", REAL),
        ("peak_memory_mb", REAL),
        ("threads", NUMBER),
        *((name, TEXT) for name in ("command", "commit", "date", "hardware")),
        *((name, TEXT) for name in ("python", "torch", "torchrec", "dat_rec")),
    ]
)
Row = dict[str, Any]


def identity(facts: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that tell these facts from all others."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest() -> str:
    """Digest of dat_rec's sources: unlike a commit it stays when a page or a benchmark changes."""
    digest = hashlib.sha256()
    folder = Path(dat_rec.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def figures_of(span: str, blocks: Mapping[str, Any]) -> dict[str, float | None]:
    """The columns of a span, of the blocks that metrics.json or a validation's record has."""
    blended = blocks.get("blend", {}).get("all", {})
    by_name = {**blocks, **blocks.get("largest_category", {}), "blend": blended}
    found: dict[str, float | None] = {}
    for figure in FIGURES:
        block, _, name = figure.partition("/")
        found[f"{span}/{figure}"] = by_name.get(block, {}).get(name)
    return found


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows whole or not at all; columns that a row lacks are null.

    Raises:
        ValueError: a row has a column that the schema lacks.
    """
    for row in rows:
        if unknown := row.keys() - set(SCHEMA.names):
            raise ValueError(f"no such column: {unknown}")
    with whole_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial)


def read(place: Path) -> list[Row]:
    """The rows of a Parquet file, or of all in a folder, by name; none where nothing is.

    Columns that a file lacks, since it is older than they are, are null.

    Raises:
        UserError: a file is no such Parquet.
    """
    paths = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    rows: list[Row] = []
    for path in paths:
        try:
            table = pq.read_table(path)
            table.select(["id", "stage", "arm"])  # refuses what is no trial
            rows += [dict.fromkeys(SCHEMA.names) | row for row in table.to_pylist()]
        except FileNotFoundError:
            continue
        except (OSError, KeyError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: holds no trials ({reason}): remove it") from error
    return rows
