"""Columns of users and items in, their attributes and the SQL that reads them out.

A feature has the name of its column, unless users and items both have a feature of that name:
country makes the features user_country and item_country.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dat_rec.data.schema import DenseFeature, Side
from dat_rec.data.source import Attribute, named
from dat_rec.data.sources.dense_columns import dense_column
from dat_rec.data.sources.feature_kinds import kind_of
from dat_rec.data.sources.separators import OPTION, Separators, note_of, split_sql
from dat_rec.data.sources.tables import Relation
from dat_rec.errors import UserError

PREFIX: dict[Side, str] = {"query": "user_", "item": "item_"}


@dataclass(frozen=True)
class Features:
    """The features of one side."""

    attributes: tuple[Attribute, ...]
    sql: str
    """SQL to stand in a SELECT behind other columns: `, … AS name` for each."""
    notes: tuple[str, ...] = ()
    split_everywhere: bool = False
    """Whether the separator that names no column splits one."""


@dataclass(frozen=True)
class Reading:
    """How columns become features."""

    both: frozenset[str]
    """Names that both sides have, in small letters: to DuckDB, ``Country`` is ``country``."""
    numbers: tuple[str, ...]
    """Columns, or features, to cut into buckets."""
    separators: Separators
    dense: tuple[str, ...] = ()
    """Columns, or features, to read as they are."""
    before: tuple[DenseFeature, ...] = ()
    """Dense features of the dataset that is gone on from."""

    @staticmethod
    def of(
        query: Sequence[str],
        item: Sequence[str],
        numbers: tuple[str, ...],
        separators: Sequence[str],
        dense: tuple[str, ...] = (),
        before: tuple[DenseFeature, ...] = (),
    ) -> "Reading":
        """Of the columns of both sides, and the options that say more of some.

        Raises:
            UserError: a separator is malformed, or a column is to be a bucket and dense.
        """
        sides = [{name.lower() for name in names} for names in (query, item)]
        if twice := sorted(set(dense) & set(numbers)):
            raise UserError(
                f"--dense {twice[0]}: --numbers cuts it into buckets: name it in one of the two"
            )
        both = frozenset(sides[0] & sides[1])
        return Reading(both, numbers, Separators.parse(separators), dense, before)

    @property
    def notes(self) -> tuple[str, ...]:
        """What schema.json says of names that both sides have."""
        return tuple(
            f"{name}: users and items have a feature of that name: they are user_{name} and "
            f"item_{name}"
            for name in sorted(self.both)
        )

    def name(self, column: str, side: Side) -> str:
        """The name of a column's feature."""
        return (PREFIX[side] if column.lower() in self.both else "") + column

    def features(
        self, table: Relation, side: Side, columns: Sequence[str], category: str | None = None
    ) -> Features:
        """The features of a table's columns.

        Args:
            table: holds the columns.
            side: whose it is.
            columns: names of those that become features.
            category: the one among them that has to be of one value.

        Raises:
            UserError: a column's type is that of no feature, or not what an option says of it.
        """
        attributes, sql, notes, everywhere = [], "", [], False
        for column in columns:
            name, type_ = self.name(column, side), table.types[column]
            separator = self.separators.of(column, name, type_, table.where)
            if column == category:
                self._refuse_for_category(column, name)
                separator = None
            if {column, name} & set(self.dense):
                if column == category or separator is not None:
                    of = "the category" if column == category else f"text that {OPTION} parts"
                    raise UserError(f"--dense {column}: is {of}, and no number: remove it")
                before = next((one for one in self.before if one.name == name), None)
                attribute, value = dense_column(table, column, name, side, before)
            elif separator is None:
                numbers = [column] if {column, name} & set(self.numbers) else []
                attribute = Attribute(name, side, kind_of(column, type_, numbers, table.where))
                value = named(column)
            else:
                attribute = Attribute(name, side, "tags")
                value = split_sql(column, separator)
                notes.append(note_of(table, column, separator))
                everywhere |= not {column, name} & self.separators.own.keys()
            attributes.append(attribute)
            sql += f", {value} AS {named(name)}"
        return Features(tuple(attributes), sql, tuple(notes), everywhere)

    def _refuse_for_category(self, column: str, name: str) -> None:
        if {column, name} & self.separators.own.keys():
            raise UserError(
                f"{OPTION} {column}=…: is the category, which has one value: write that into a "
                "column of its own"
            )

    def refuse_unused(self, columns: Sequence[str], sides: Sequence[Features]) -> None:
        """Refuse what an option says of no feature.

        Args:
            columns: of both sides.
            sides: their features.

        Raises:
            UserError: names the option and its value.
        """
        known = {*columns, *(one.name for side in sides for one in side.attributes)}
        for option, given in (("--numbers", self.numbers), ("--dense", self.dense)):
            unknown = sorted(set(given) - known)
            if unknown:
                raise UserError(f"{option} {unknown[0]}: is not among the features: name it there")
        used = any(side.split_everywhere for side in sides)
        self.separators.refuse_unused(known, everywhere_used=used)
