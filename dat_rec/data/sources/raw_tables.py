"""The tables that a ``ParquetLog`` names in, the raw relations of source.py out."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import duckdb
import pyarrow as pa

from dat_rec.data.composite_ids import columns_of_id
from dat_rec.data.schema import EXAMPLE_WEIGHT
from dat_rec.data.source import Attribute, columns_of, named
from dat_rec.data.sources.features import Features, Reading
from dat_rec.data.sources.id_columns import Id, id_of
from dat_rec.data.sources.label_weights import labels_weighted, read_weights
from dat_rec.data.sources.labels import Positives, labels_among, labels_from
from dat_rec.data.sources.log_split import TIME
from dat_rec.data.sources.named_tables import Table
from dat_rec.data.sources.odd_times import spoilt_times
from dat_rec.data.sources.problems import Problem, kind_sql, value_sql
from dat_rec.data.sources.sequence import sequence_sql
from dat_rec.data.sources.snapshots import Snapshot
from dat_rec.data.sources.split_columns import SplitColumn, groups, said_parts
from dat_rec.data.sources.tables import NO_USERS, PLACE, Relation, parquet
from dat_rec.data.sources.times import OTHER_FORM, Times, no_moment, times_of
from dat_rec.errors import UserError

if TYPE_CHECKING:
    from dat_rec.data.sources.parquet_log import ParquetLog

NO_CATEGORY = "category"


class RawTables:
    """Makes the raw relations, the interactions first.

    Args:
        options: name the columns.
        database: gets the relations.
        reading: how columns become features.
    """

    def __init__(
        self, options: "ParquetLog", database: duckdb.DuckDBPyConnection, reading: Reading
    ) -> None:
        self._options = options
        self._database = database
        self._reading = reading
        self._ids: dict[str, tuple[Id, str]] = {}
        """Those of the interactions, by name, and the log."""
        self.says_validation = False
        """Whether the split's column says of an interaction that it validates."""
        self.example_weights: dict[str, float] | None = None
        """What interactions weigh as examples, by their labels; None: they have no weights."""
        self.label_note = ""
        """How many rows of each label there are, where they have weights."""

    def interactions(self, parts: Table) -> Times | None:
        """Make raw_interactions; return how its times are read, None for none.

        ``place`` counts its rows, where their order matters: for the last one of equal times that
        no sequence orders, or because there are no times.

        Raises:
            UserError: a column is missing, or its values are none of those that it must hold.
        """
        options = self._options
        ids = {name: self._id_columns(name, parts) for name in ("user_id", "item_id")}
        log, timed = self._log(parts, [column for columns in ids.values() for column in columns])
        placed = not timed and not options.unordered
        if placed and (options.sequence is not None or isinstance(parts, Snapshot)):
            raise UserError(
                f"{parts.where}: has no column {options.time!r}, and the rows are in no order: "
                f"name one that orders them: --time {options.sequence or 'COLUMN'}"
            )
        place = ""
        if (options.split == "last" and options.sequence is None) or placed:
            # A table: the view is read several times, and would sort the whole log each time.
            self._database.execute(
                "CREATE TABLE placed_log AS SELECT *, "
                f"row_number() OVER (ORDER BY _source_file, _source_row) AS _place FROM {log}"
            )
            log = replace(log, sql="placed_log")
            place = ", _place AS place"
        where, problems = "", []
        if options.label is not None:
            (where, missing), weight = self._positives(log, options.label)
            place += weight
            problems.append(Problem(missing, "missing label", named(options.label)))
        times, time, value = None, "_place" if placed else "0::BIGINT", "NULL"
        if timed:
            times, value = self._times(log, parts), named(options.time)
            time = times.micros(value)
            other = f"{times.other(value)} OR {spoilt_times(log, options.time, options.sequence)}"
            problems.append(Problem(other, OTHER_FORM, value))
        if options.sequence is not None:
            place += f", {sequence_sql(log, options.sequence)} AS sequence"
            problems.append(
                Problem(f"{named(options.sequence)} IS NULL", "missing sequence", value)
            )
        if (dividing := self._dividing(log)) is not None:
            place += dividing.sql
            problems.append(dividing.problem)
        chosen = ""
        for name, columns in ids.items():
            found = id_of(log, name, columns, as_text=options.text_ids)
            self._ids[name] = found, log.where
            problems += found.problems
            chosen += f"{found.sql} AS {name}, "
        self._database.execute(
            f"CREATE VIEW raw_interactions AS SELECT {chosen}{time} AS time, "
            f"{kind_sql(problems)} AS problem, {value_sql(problems, value)} AS value, "
            f"{PLACE}{place} FROM {log} {where}"
        )
        return times

    def _positives(self, log: Relation, label: str) -> tuple[Positives, str]:
        """Which rows are positives; and their weights as a column more, if they have some."""
        options = self._options
        # A day may lack a kind of event; which there are, the dataset before it says.
        may_lack = options.after is not None
        if options.label_weights is not None:
            weights = read_weights(options.label_weights)
            found = labels_weighted(log, label, weights, may_lack=may_lack)
            self.example_weights, self.label_note = found.weights, found.note
            return found.positives, f", {found.weight} AS {EXAMPLE_WEIGHT}"
        if options.positive_labels:
            return labels_among(log, label, options.positive_labels, may_lack=may_lack), ""
        return labels_from(log, label, options.least()), ""

    def _id_columns(self, name: Literal["user_id", "item_id"], parts: Table) -> tuple[str, ...]:
        option = "--" + name.replace("_", "-")
        return columns_of_id(option, getattr(self._options, name), parts.has)

    def _log(self, parts: Table, ids: list[str]) -> tuple[Relation, bool]:
        """The log with the columns that are asked for, and whether it has a time."""
        options = self._options
        more = (options.label, options.sequence, options.split_column, self._group())
        columns = [*ids, *(name for name in more if name is not None)]
        timed = not options.unordered and (options.time != TIME or parts.has(TIME))
        by_time = options.split in ("time", "none", "all") and options.split_column is None
        wanted = [*columns, options.time] if timed or by_time else columns
        try:
            return parquet(self._database, parts, wanted, width_of=options.label), timed
        except UserError as error:
            if timed or not by_time:
                raise
            raise UserError(
                f"{error}; of a log without times, pass --split last or --split random"
            ) from error

    def _group(self) -> str | None:
        """The column of the groups of a split, if it is none of the ids."""
        group = self._options.split_group
        return None if group in (self._options.user_id, self._options.item_id) else group

    def _dividing(self, log: Relation) -> SplitColumn | None:
        """The column of the log that its split reads, if any."""
        if self._options.split_column is not None:
            found = said_parts(log, self._options.split_column)
            self.says_validation = found.says_validation
            return found
        group = self._group()
        return None if group is None else groups(log, group)

    def _times(self, log: Relation, parts: Table) -> Times:
        # Parquet has no type for it: to DuckDB, it is an integer.
        if pa.types.is_duration(parts.type_of(self._options.time) or pa.null()):
            raise no_moment(log.where, self._options.time, "a duration")
        return times_of(log, self._options.time, self._options.time_format)

    def _id(self, table: Relation, name: str, columns: tuple[str, ...]) -> Id:
        """The id of a table of items or users, which must be able to be one of the log's."""
        found = id_of(table, name, columns, as_text=self._options.text_ids)
        of_log, where = self._ids[name]
        found.refuse_other(of_log, table.where, where)
        return found

    def items(self, parts: Table | None) -> Features:
        """Make raw_items, of the interactions where there is no table; return its features.

        Raises:
            UserError: a column is missing, or its values are none of an id or feature.
        """
        options = self._options
        no_category = self._reading.name(NO_CATEGORY, "item")
        if parts is None:
            # Ids that no catalogue can list are left to the checks of the interactions.
            type_ = columns_of(self._database, "raw_interactions")["item_id"]
            listed = {"BIGINT": " AND item_id >= 0", "VARCHAR": " AND item_id <> ''"}.get(type_, "")
            self._database.execute(
                "CREATE VIEW raw_items AS SELECT item_id, item_id::VARCHAR AS title, "
                f"NULL::VARCHAR AS {named(no_category)}, min(file) AS file, min(row) AS row "
                f"FROM raw_interactions WHERE item_id IS NOT NULL{listed} GROUP BY item_id"
            )
            return Features((Attribute(no_category, "item"),), "")
        names, columns = options.item_columns(), self._id_columns("item_id", parts)
        needed = [*columns, *names, *([options.title] if options.title else [])]
        table = parquet(self._database, parts, needed)
        found = self._reading.features(table, "item", names, options.category)
        if not options.category:
            attributes = (Attribute(no_category, "item"), *found.attributes)
            sql = f", NULL::VARCHAR AS {named(no_category)}{found.sql}"
            found = replace(found, attributes=attributes, sql=sql)
        elif found.attributes[0].kind != "category":
            raise UserError(
                f"{table.where}: category {options.category!r} is "
                f"{table.types[options.category]}: name a column of text or integers"
            )
        item = self._id(table, "item_id", columns)
        title = (
            named(options.title or columns[0]) if options.title or len(columns) == 1 else item.sql
        )
        self._database.execute(
            f"CREATE VIEW raw_items AS SELECT {item.sql} AS item_id, {title}::VARCHAR AS title"
            f"{found.sql}, {PLACE}{item.problem_columns} FROM {table}"
        )
        return found

    def users(self, parts: Table | None) -> Features:
        """Make raw_users; return its features.

        Raises:
            UserError: as ``items``.
        """
        if parts is None:
            self._database.execute(NO_USERS)
            return Features((), "")
        features, columns = self._options.user_features, self._id_columns("user_id", parts)
        table = parquet(self._database, parts, [*columns, *features])
        found = self._reading.features(table, "query", features)
        user = self._id(table, "user_id", columns)
        self._database.execute(
            f"CREATE VIEW raw_users AS SELECT {user.sql} AS user_id{found.sql}, "
            f"{PLACE}{user.problem_columns} FROM {table}"
        )
        return found
