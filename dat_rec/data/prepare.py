"""A source's raw relations in, a whole dataset folder out: the stages of ``dat-rec prepare``.

raw relations → checks.py → split.py → vocabulary.py → history.py → write.py → schema.json. DuckDB
does the work within a memory limit and spills into the unfinished folder, which vanishes when
anything fails.
"""

import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path

import duckdb
import numpy as np
from tqdm import tqdm

from dat_rec.data.checks import reject_bad_rows
from dat_rec.data.database import connect
from dat_rec.data.duckdb_errors import errors_in_one_line
from dat_rec.data.history import order_training
from dat_rec.data.schema import HISTORY, ITEM, Feature, Schema
from dat_rec.data.source import HISTORY_CATEGORY, Source, named
from dat_rec.data.split import hold_out, keep_frequent
from dat_rec.data.vocabulary import number_items, number_users
from dat_rec.data.write import (
    Histories,
    write_examples,
    write_items,
    write_seen,
    write_test,
    write_users,
)
from dat_rec.errors import UserError
from dat_rec.files import whole_folder

STAGES = ("read", "check", "split", "number", "order", "users", "test", "examples")


@dataclass(frozen=True, kw_only=True)
class Options(ABC):
    """The options that every source has; a source adds its own fields."""

    out: Path
    """Folder of the dataset, which is made."""
    history_length: int = 50
    """Maximum length of a history: the user's most recent items."""
    max_rejected: float = 0.01
    """Maximum share of bad rows in the interactions, users or items; above it the command stops."""
    seed: int = 0
    """Random seed of the examples' order, and of what a random split holds out."""
    overwrite: bool = False
    """Replace the dataset in OUT, if there is one."""
    memory_limit: str = "15%"
    """Maximum memory of DuckDB, e.g. 4GB, or a share of the machine's (or container's) memory;
    what does not fit is spilled to the disk, beside OUT."""
    threads: int | None = None
    """Number of threads; by default all cores of the machine or container. The result is the same
    with any."""

    @abstractmethod
    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:
        """Register the raw relations (see source.py); files may be put into ``work``.

        Raises:
            UserError: an input is missing or malformed.
        """

    def inputs(self) -> tuple[Path, ...]:
        """The input files and folders."""
        values = (getattr(self, field.name) for field in fields(self) if field.name != "out")
        return tuple(value for value in values if isinstance(value, Path))


def prepare(options: Options) -> Schema:
    """Turn a log of interactions into the dataset ``options.out``, whole or not at all.

    Args:
        options: a source of ``dat_rec.data.sources`` with its fields, which are the command line's
            options: ``ParquetLog``, ``Amazon``, ``CompleteJourney``, ``KuaiRand``, ``MovieLens``
            or ``Synthetic``.

    Returns:
        What the dataset holds, as schema.json has it.

    Raises:
        UserError: bad input, too many bad rows, no room, no right to write; one line says where.

    Example:
        >>> from pathlib import Path
        >>> import dat_rec
        >>> from dat_rec.data.sources import Synthetic
        >>> source = Synthetic(out=Path("data"), users=200, items=100, interactions=4000)
        >>> schema = dat_rec.prepare(source)
        >>> schema.users, schema.items
        (200, 100)
    """
    _check_options(options)
    with (
        errors_in_one_line(options.inputs(), options.out, options.memory_limit),
        whole_folder(options.out, marker="schema.json", overwrite=options.overwrite) as folder,
    ):
        work = folder / "work"
        for name in (work, folder / "examples", folder / "vocabularies"):
            name.mkdir()
        with connect(work, options.memory_limit, options.threads) as database:
            schema = _run(options, database, work, folder)
        shutil.rmtree(work)
        schema.save(folder)
    _report(options.out, schema)
    return schema


def _check_options(options: Options) -> None:
    if options.history_length < 1:
        raise UserError(f"--history-length {options.history_length}: must be at least 1")
    if not 0 <= options.max_rejected <= 1:
        raise UserError(f"--max-rejected {options.max_rejected}: must lie between 0 and 1")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads}: must be at least 1")
    out = options.out.resolve()
    if "\\" in str(out):
        raise UserError(
            f"--out {options.out}: DuckDB takes a backslash for a slash: name a folder without one"
        )
    for path in options.inputs():
        if not path.exists():
            raise UserError(f"{path}: no such file or folder: correct the path")
        if out == path.resolve() or out in path.resolve().parents:
            raise UserError(f"--out {options.out} holds the input {path}: name another folder")


def _run(options: Options, database: duckdb.DuckDBPyConnection, work: Path, folder: Path) -> Schema:
    with tqdm(total=len(STAGES), desc="prepare", unit="stage", file=sys.stderr) as bar:

        def stage(name: str) -> None:
            bar.update(STAGES.index(name) - bar.n)
            bar.set_description(f"prepare: {name}")

        stage("read")
        source = options.register(database, work)
        stage("check")
        counts = reject_bad_rows(database, options.max_rejected)
        stage("split")
        notes = [*source.notes, *keep_frequent(database, source.minimum)]
        held_out = hold_out(database, source.split)
        notes += held_out.warnings
        stage("number")
        items = number_items(database, source, folder)
        users = number_users(database, source, folder)
        _number_interactions(database)
        stage("order")
        sequences = order_training(database, work, options.history_length, options.seed)
        histories = Histories(sequences, _category(database, source.category))
        stage("users")
        user_rows = write_users(
            database, users, histories, options.history_length, folder / "users.parquet"
        )
        item_rows = write_items(database, items, folder / "items.parquet")
        stage("test")
        write_seen(database, folder / "seen.parquet")
        tests = write_test(database, folder / "test.parquet")
        stage("examples")
        files = write_examples(database, users, items, histories, folder)
        bar.update()
    by_name = {feature.name: feature for feature in items}
    category_rows = by_name[source.category].rows
    history = Feature(HISTORY, "query", ITEM, by_name[ITEM].rows, multi_valued=True)
    categories = Feature(
        HISTORY_CATEGORY, "query", source.category, category_rows, multi_valued=True
    )
    return Schema(
        source=source.name,
        features=(*users, history, categories, *items),
        category=source.category,
        history_length=options.history_length,
        users=user_rows,
        items=item_rows,
        trained_items=by_name[ITEM].rows - 1,
        examples=sum(file.rows for file in files),
        tests=tests,
        example_files=files,
        split=f"{source.split.words}; {held_out}",
        rows_read=counts.interactions_read,
        rejected=counts.rejected,
        notes=tuple(notes),
        facts=source.facts,
    )


def _number_interactions(database: duckdb.DuckDBPyConnection) -> None:
    database.execute(
        "CREATE TABLE numbered_interactions AS SELECT user_row, item_index, time, is_test "
        "FROM interactions JOIN user_rows USING (user_id) JOIN item_rows USING (item_id); "
        "DROP TABLE interactions"
    )


def _category(
    database: duckdb.DuckDBPyConnection, category: str
) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """(items,) int32: the category's embedding row of each item_index."""
    query = f"SELECT {named(category)} AS category FROM item_rows ORDER BY item_index"
    column = database.sql(query).to_arrow_table()["category"]
    return np.asarray(column.to_numpy(), np.int32)


def _report(out: Path, schema: Schema) -> None:
    """Say on stderr what stands in the folder and what was left out."""
    lines = [
        f"{out}: {schema.examples} examples, {schema.tests} test interactions, "
        f"{schema.users} users, {schema.items} items ({schema.trained_items} trained)",
        *schema.notes,
    ]
    lines += [f"rejected: {count} rows: {kind}" for kind, count in schema.rejected.items()]
    print("\n".join(lines), file=sys.stderr)
