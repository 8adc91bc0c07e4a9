"""``--separator`` in, which columns of text hold several values, and the SQL that splits them, out.

``Comedy | Drama`` at ``|`` is the list of Comedy and Drama: what stands between two separators,
without the white space around it. Where nothing stands, there is no value.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from dat_rec.data.source import named, quoted
from dat_rec.data.sources.tables import Relation
from dat_rec.errors import UserError

OPTION = "--separator"


@dataclass(frozen=True)
class Separators:
    """What stands between the values of a column of text."""

    everywhere: str | None = None
    """Of every column of text among the features; None: of those that ``own`` names alone."""
    own: dict[str, str] = field(default_factory=dict)
    """By the name of a column, or feature."""

    @staticmethod
    def parse(given: Sequence[str]) -> "Separators":
        """Read the option's values: ``|``, or ``genres=|``.

        Raises:
            UserError: a separator is empty, or a column has two.
        """
        everywhere: str | None = None
        own: dict[str, str] = {}
        for text in given:
            name, _, separator = text.partition("=")
            if not name or "=" not in text:  # "=" itself may be one
                name, separator = "", text
            if not separator:
                raise UserError(
                    f"{OPTION} {text!r}: the separator is empty: write what stands between two "
                    "values, e.g. '|'"
                )
            if name in own or (not name and everywhere is not None):
                raise UserError(f"{OPTION} {text!r}: there is one already: leave one out")
            if name:
                own[name] = separator
            else:
                everywhere = separator
        return Separators(everywhere, own)

    def of(self, column: str, feature: str, type_: str, where: str) -> str | None:
        """The separator of a column that becomes a feature; None: it has none.

        Raises:
            UserError: one is named for it, and it is no text.
        """
        own = self.own.get(feature, self.own.get(column))
        if own is not None and type_ != "VARCHAR":
            kind = "a list already" if type_.endswith("[]") else type_
            raise UserError(
                f"{OPTION} {column}={own}: {where}: the column is {kind}: name a column of text"
            )
        return own if type_ != "VARCHAR" or own is not None else self.everywhere

    def refuse_unused(self, names: Set[str], *, everywhere_used: bool) -> None:
        """Refuse a separator that none of the features has.

        Args:
            names: of all features, and of their columns.
            everywhere_used: whether a feature has the separator that names no column.

        Raises:
            UserError: names it.
        """
        unknown = sorted(self.own.keys() - names)
        if unknown:
            raise UserError(
                f"{OPTION} {unknown[0]}={self.own[unknown[0]]}: {unknown[0]!r} is not among the "
                "features: name it there"
            )
        if self.everywhere is None:
            return
        if self.everywhere in names:
            raise UserError(
                f"{OPTION} {self.everywhere}: names a column and no separator: write e.g. "
                f"{self.everywhere}='|'"
            )
        if not everywhere_used:
            raise UserError(
                f"{OPTION} {self.everywhere!r}: no feature without one of its own is a column of "
                "text: leave it out"
            )


def split_sql(column: str, separator: str) -> str:
    """SQL: the list of the column's values; NULL where it is NULL."""
    parts = f"string_split({named(column)}, {quoted(separator)})"
    stripped = f"list_transform({parts}, lambda part: regexp_replace(part, '^\\s+|\\s+$', '', 'g'))"
    return f"list_filter({stripped}, lambda part: part <> '')"


def note_of(table: Relation, column: str, separator: str) -> str:
    """What schema.json says of a column that is split: a warning where none of its rows is."""
    test = f"contains({named(column)}, {quoted(separator)})"
    if table.first(test, "1") is None:
        return (
            f"warning: {OPTION}: no row of {column!r} holds {separator!r}: each text is one value"
        )
    return f"{column}: several values, split at {separator!r}"
