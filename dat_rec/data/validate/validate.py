"""A dataset's folder in, its faults out: whether it keeps to docs/dataset.md, whoever wrote it.

First the files by their metadata (validate_files.py), then every row (validate_rows.py), then what
the files say of one another (validate_history.py), if all else is well. DuckDB reads the rows
within a memory limit, and spills into a temporary folder.
"""

import tempfile
from contextlib import closing
from pathlib import Path

from dat_rec.data.database import connect, threads_of
from dat_rec.data.duckdb_errors import errors_in_one_line
from dat_rec.data.progress import Progress
from dat_rec.data.schema import Schema
from dat_rec.data.validate.fault import Fault
from dat_rec.data.validate.files import digest_faults, file_faults
from dat_rec.data.validate.history import history_faults
from dat_rec.data.validate.rows import row_faults
from dat_rec.errors import UserError


def validate(folder: Path, memory_limit: str = "15%", threads: int | None = None) -> list[Fault]:
    """Check a dataset, and return its faults: none for a good one.

    Args:
        folder: of the dataset.
        memory_limit: maximum memory of DuckDB, as in ``Options``.
        threads: number of threads; None: all cores.

    Raises:
        UserError: there is no dataset, or no room to spill.
    """
    if not (folder / "schema.json").exists():
        Schema.load(folder)
    try:
        schema = Schema.load(folder)
    except UserError as error:
        where, _, rest = str(error).partition(": ")
        what, _, cure = rest.rpartition(": ")
        return [Fault(where, what, cure)] if what else [Fault(where, rest, "correct it")]
    found = file_faults(folder, schema)
    faults = [fault for of_file in found.values() for fault in of_file]
    sound = {name for name, of_file in found.items() if not of_file}
    with (
        tempfile.TemporaryDirectory(prefix="dat-rec-validate-") as spill,
        errors_in_one_line((folder,), Path(spill), memory_limit),
        connect(Path(spill), memory_limit, threads) as database,
    ):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        with closing(Progress("validate: sha256", size, unit="B")) as bar:
            faults += digest_faults(folder, bar, threads_of(database))
        with (
            closing(Progress("validate: rows", schema.examples)) as bar,
            bar.of_statements(database),
        ):
            faults += row_faults(database, folder, schema, sound)
        if not faults:
            with (
                closing(Progress("validate: histories", schema.examples)) as bar,
                bar.of_statements(database),
            ):
                faults += history_faults(database, folder, schema)
    return faults
