"""The database that ``prepare`` works with: within a memory limit, spilling beside OUT.

Each stage makes its tables in a file of its own, which no later stage writes to. So a stage that
was killed is begun again from whole files, and a file can go when nobody needs it any more.
"""

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


def count_rows(database: duckdb.DuckDBPyConnection, relation: str) -> int:
    """Number of rows of ``relation``: what can stand after FROM."""
    row = database.execute(f"SELECT count(*) FROM {relation}").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def connect(
    work: Path, memory_limit: str, threads: int | None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database without tables, which spills into ``work``.

    Raises:
        UserError: DuckDB refuses the memory limit.
    """
    with closing(duckdb.connect()) as database:
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
        # The progress is asked for, not printed.
        database.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        yield database


@contextmanager
def tables_of(
    database: duckdb.DuckDBPyConnection, work: Path, stage: str, *earlier: str
) -> Iterator[None]:
    """Make the tables of the block in the file of ``stage``, anew; those of ``earlier`` are read.

    A name is looked up in the stage's own tables, then in those of ``earlier``, in that order.
    """
    path = _path(work, stage)
    path.unlink(missing_ok=True)
    # Nothing is ever recovered from a log.
    database.execute(f"ATTACH {quoted(path)} AS {_name(stage)} (RECOVERY_MODE no_wal_writes)")
    for other in earlier:
        database.execute(
            f"ATTACH IF NOT EXISTS {quoted(_path(work, other))} AS {_name(other)} "
            "(RECOVERY_MODE no_wal_writes)"
        )
    names = ",".join(f"{_name(name)}.main" for name in (stage, *earlier))
    database.execute(f"SET search_path = '{names}'")
    yield
    if can_last(work):
        database.execute(f"CHECKPOINT {_name(stage)}")


def can_last(work: Path) -> bool:
    """Whether a stage's tables outlast the process.

    DuckDB looks for its log at the path cut at a ``?``, and so can write no file down there.
    """
    return "?" not in str(work)


def drop_tables(work: Path, *stages: str) -> None:
    """Remove the files of stages whose tables nobody needs any more."""
    for stage in stages:
        _path(work, stage).unlink(missing_ok=True)


def _path(work: Path, stage: str) -> Path:
    return work / f"{stage}.duckdb"


def _name(stage: str) -> str:
    # "check" is a word of SQL.
    return f"stage_{stage}"
