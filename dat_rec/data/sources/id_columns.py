"""The columns that make an id in, SQL of the id out: of one its values, of several a JSON array."""

from collections.abc import Sequence
from dataclasses import dataclass

from dat_rec.data.composite_ids import array_sql
from dat_rec.data.sources.ids import id_sql
from dat_rec.data.sources.problems import Problem, kind_sql, value_sql
from dat_rec.data.sources.tables import Relation
from dat_rec.errors import UserError


@dataclass(frozen=True)
class Id:
    """An id of a table's rows."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    """BIGINT or VARCHAR, of each column as it is read."""
    sql: str
    """SQL: BIGINT or VARCHAR; NULL where it, or a part of it, is missing."""
    problems: tuple[Problem, ...] = ()
    """What may be wrong with a part; nothing for one column, which the checks look at."""

    @property
    def problem_columns(self) -> str:
        """SQL to stand in a SELECT behind other columns: ``problem`` and ``value``, if any."""
        if not self.problems:
            return ""
        return f", {kind_sql(self.problems)} AS problem, {value_sql(self.problems)} AS value"

    def refuse_other(self, other: "Id", where: str, other_where: str) -> None:
        """Refuse the id of another table that could never be this one.

        Raises:
            UserError: their columns differ in number or type.
        """
        if len(self.columns) == len(other.columns) == 1:
            return
        # Both are text: the checks would not tell 7 of the one from "7" of the other.
        for name, type_, found in zip(self.columns, self.types, other.types, strict=False):
            if type_ != found:
                raise UserError(
                    f"id column {name!r} is {type_} in {where} and {found} in {other_where}: "
                    "write both with the same type"
                )
        if len(self.columns) != len(other.columns):
            raise UserError(
                f"the id is of the columns {', '.join(self.columns)} in {where} and of "
                f"{', '.join(other.columns)} in {other_where}: name the same columns in both"
            )


def id_of(table: Relation, name: str, columns: Sequence[str], *, as_text: bool = False) -> Id:
    """The id of the table's rows.

    Args:
        table: holds the columns.
        name: ``user_id`` or ``item_id``, for the problems.
        columns: one, or several that make one id together.
        as_text: integers become text.

    Raises:
        UserError: a column's values are no ids (see ids.py).
    """
    parts = [id_sql(table, column, as_text=as_text) for column in columns]
    whole = [table.types[column] not in ("VARCHAR", "UUID") and not as_text for column in columns]
    types = tuple("BIGINT" if one else "VARCHAR" for one in whole)
    if len(columns) == 1:
        return Id(tuple(columns), types, parts[0])
    missing = " OR ".join(
        f"({part}) IS NULL" + ("" if one else f" OR ({part}) = ''")
        for part, one in zip(parts, whole, strict=True)
    )
    negative = " OR ".join(
        [f"({part}) < 0" for part, one in zip(parts, whole, strict=True) if one] or ["false"]
    )
    array = array_sql(parts)
    problems = (
        Problem(missing, f"missing {name}", array),
        Problem(negative, f"negative {name}", array),
    )
    sql = f"CASE WHEN NOT ({missing} OR {negative}) THEN {array} END"
    return Id(tuple(columns), types, sql, problems)
