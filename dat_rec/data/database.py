"""The database that ``prepare`` works with: within a memory limit, spilling beside OUT."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import duckdb

from dat_rec.data.source import quoted
from dat_rec.errors import UserError


def threads_of(database: duckdb.DuckDBPyConnection) -> int:
    """Number of threads that DuckDB uses, and that beside it we use."""
    row = database.execute("SELECT current_setting('threads')").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def connect(
    work: Path, memory_limit: str, threads: int | None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in ``work``, which spills there too."""
    with closing(duckdb.connect()) as database:
        # Nothing is ever recovered, and the log's name breaks at a ? in the path.
        database.execute(
            f"ATTACH {quoted(work / 'duckdb')} AS work (RECOVERY_MODE no_wal_writes); USE work"
        )
        database.execute(
            f"SET temp_directory = {quoted(work / 'spill')}; SET preserve_insertion_order = false; "
            "SET TimeZone = 'UTC'"
        )
        try:
            database.execute(f"SET memory_limit = {quoted(memory_limit)}")
        except duckdb.Error as error:
            raise UserError(
                f"--memory-limit {memory_limit}: DuckDB refuses it: write e.g. 1GB"
            ) from error
        if threads is not None:
            database.execute(f"SET threads = {threads}")
        database.execute("SET enable_progress_bar = false")
        yield database
