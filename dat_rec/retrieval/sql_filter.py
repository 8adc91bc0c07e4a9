"""An SQL expression of a user and tables of columns in, which items pass out; DuckDB computes.

The database is in memory and closed: expressions reach no file, no network, no variable of Python
and no setting. DuckDB's ``SQLExpression`` takes one expression, and no statement.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.retrieval.sql_text import KIND, ROW, quoted, refuse_costly, refuse_unsteady

if TYPE_CHECKING:
    import duckdb

Flags = NDArray[np.bool_]
PAIRS = 2**17
"""Number of users' kinds and items that are taken from DuckDB at a time."""
CACHE_BYTES = 256 * 2**20
"""Maximum bytes of answers that are kept for users with the same columns."""
NO_MORE: Mapping[str, str] = {}
LIMITED = {"memory_limit": "1GB", "temp_directory": ""}
"""Settings of a database that somebody who is not trusted may ask: it writes no file either."""


def passing_items(
    items: pa.Table,
    expression: str,
    known: Sequence[str],
    limit_s: float | None = None,
    *,
    option: str = "--filter",
) -> Flags:
    """(N,) whether each item passes; one for which the expression is null does not.

    Args:
        items: N rows of the columns that the expression may use.
        expression: of SQL, that is true or false.
        known: names of all columns of items, for messages.
        limit_s: maximum seconds, of an expression by somebody who is not trusted; then it must be
            a plain condition, too (``refuse_costly``).
        option: that gave it, for messages.

    Raises:
        UserError: it is no such expression, or cannot be computed.
    """
    with _saying(option, expression, f"items have {', '.join(known)}"):
        database = _closed({} if limit_s is None else LIMITED)
        if limit_s is not None:
            refuse_costly(database, expression, option)
        with _at_most(database, limit_s):
            relation = _relation(database, items, ROW, "item")
            rows, passes = _values(database, relation, expression, option)
    if not np.array_equal(rows, np.arange(len(items))):
        raise UserError(
            f"{quoted(option, expression)}: has not one value for each item: write a condition"
        )
    return passes


class PerUserFilter:
    """A condition on columns of users and of items, as ``item.region = user.region``.

    Args:
        items: N rows of the columns that the expression may use.
        users: B rows, likewise.
        expression: of SQL, that is true or false.
        known: names of all columns of items, and of users, for messages.

    Raises:
        UserError: it is no such expression.
    """

    def __init__(
        self,
        items: pa.Table,
        users: pa.Table,
        expression: str,
        known: tuple[Sequence[str], Sequence[str]],
    ) -> None:
        self.items = len(items)
        self._expression = expression
        self._known = f"item has {', '.join(known[0])}; user has {', '.join(known[1])}"
        self._answers: dict[int, NDArray[np.uint8]] = {}
        self._kinds = np.zeros(len(users), np.int64)
        with self._saying():
            self._database = _closed()
            self._items = _relation(self._database, items, ROW, "item")
            if len(users):
                # Users with the same values are asked about once.
                order = ", ".join(map(_quoted, users.column_names))
                kind = f"dense_rank() OVER (ORDER BY {order}) - 1 AS {KIND}"
                found = _relation(self._database, users, ROW, "user").select(f"{ROW}, {kind}")
                numbers = found.fetchnumpy()
                self._kinds[numbers[ROW]] = numbers[KIND]
            _, first = np.unique(self._kinds, return_index=True)
            kinds = pa.array(np.arange(len(first)))
            self._users = users.take(pa.array(first)).append_column(KIND, kinds)
            # What is wrong with the expression itself is said at once.
            pairs = self._pairs(self._users.slice(0, 0))
            _values(self._database, pairs, expression, "--per-user-filter")

    def of(self, users: Sequence[int]) -> list[Flags]:
        """(N,) whether each item passes, for each of some users.

        Raises:
            UserError: the expression cannot be computed of these rows.
        """
        kinds = self._kinds[np.asarray(users, np.int64)].tolist()
        if lacking := sorted(set(kinds) - self._answers.keys()):
            if (len(self._answers) + len(lacking)) * self.items // 8 > CACHE_BYTES:
                self._answers.clear()
                lacking = sorted(set(kinds))
            self._ask(lacking)
        answers = {
            kind: np.unpackbits(self._answers[kind], count=self.items).view(np.bool_)
            for kind in set(kinds)
        }
        return [answers[kind] for kind in kinds]

    def _ask(self, kinds: list[int]) -> None:
        passes = np.zeros((len(kinds), self.items), np.bool_)
        with self._saying():
            pairs = self._pairs(self._users.take(pa.array(kinds)))
            found = pairs.filter(_expression(self._expression)).select(KIND, ROW)
            # All pairs together would take 16 times the bytes of their flags.
            for part in found.to_arrow_reader(PAIRS):
                kind, row = (part[name].to_numpy() for name in (KIND, ROW))
                passes[np.searchsorted(kinds, kind), row] = True
        for kind, flags in zip(kinds, passes, strict=True):
            self._answers[kind] = np.packbits(flags)

    def _pairs(self, users: pa.Table) -> "duckdb.DuckDBPyRelation":
        return self._database.from_arrow(users).set_alias("user").cross(self._items)

    def _saying(self) -> Any:
        return _saying("--per-user-filter", self._expression, self._known)


@contextmanager
def _at_most(database: "duckdb.DuckDBPyConnection", limit_s: float | None) -> Iterator[None]:
    """Interrupt what takes longer."""
    import duckdb

    if limit_s is None:
        yield
        return
    timer = threading.Timer(limit_s, database.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except duckdb.InterruptException as error:
        raise duckdb.InterruptException(f"INTERRUPT: takes longer than {limit_s} s") from error
    finally:
        timer.cancel()


def _closed(more: Mapping[str, str] = NO_MORE) -> "duckdb.DuckDBPyConnection":
    """A database in memory that reaches nothing outside it.

    Args:
        more: settings.
    """
    import duckdb

    return duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "python_enable_replacements": "false",
            "threads": str(torch.get_num_threads()),
            "lock_configuration": "true",
            **more,
        },
    )


def _relation(
    database: "duckdb.DuckDBPyConnection", table: pa.Table, number: str, name: str
) -> "duckdb.DuckDBPyRelation":
    """The table as SQL knows it, with its rows' numbers."""
    numbered = table.append_column(number, pa.array(np.arange(len(table))))
    return database.from_arrow(numbered).set_alias(name)


def _expression(text: str) -> "duckdb.Expression":
    import duckdb

    return duckdb.SQLExpression(text)


def _values(
    database: "duckdb.DuckDBPyConnection",
    relation: "duckdb.DuckDBPyRelation",
    text: str,
    option: str,
) -> tuple[NDArray[np.int64], Flags]:
    """An expression's values, null as false, and the numbers of their rows."""
    import duckdb

    values = relation.select(duckdb.ColumnExpression(ROW), _expression(text).alias("passes"))
    _, *kinds = map(str, values.types)
    if len(kinds) != 1:
        raise UserError(f"{quoted(option, text)}: gives {len(kinds)} columns: write one condition")
    if kinds != ["BOOLEAN"]:
        raise UserError(
            f"{quoted(option, text)}: is {kinds[0]}, and not true or false: write a condition, as "
            "price < 20"
        )
    refuse_unsteady(database, text, option)
    found = values.to_arrow_table()
    passes = found["passes"].fill_null(False).to_numpy().astype(np.bool_)
    return found[ROW].to_numpy(), passes


@contextmanager
def _saying(option: str, expression: str, known: str) -> Iterator[None]:
    """Say in one line what DuckDB does not take."""
    import duckdb

    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        what = str(error).splitlines()[0].partition(": ")[2] or str(error).splitlines()[0]
        raise UserError(f"{quoted(option, expression)}: {what}: {known}") from error


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
