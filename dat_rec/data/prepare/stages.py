"""The stages of ``dat-rec prepare``: raw relations in, the files of a dataset out.

    check     raw relations → clean ones                                        checks.py
    split     what is held out                                                  split.py
    forget    the dataset before without the ids that leave, and with those     forget.py,
              that are admitted, if there are such rules                        admit.py, left.py
    number    ids and values → embedding rows; interactions by ranges of users  vocabulary.py,
              after a dataset                                                   grown.py
    users     each range: order, histories, pairs                               user_ranges.py
    examples  users.parquet, seen.parquet, the shuffled examples                write.py

Up to ``number`` DuckDB does the work within a memory limit, and spills into the unfinished folder;
after it threads work on a range or a file each. What a stage has found is kept in a journal, so
that a ``prepare`` that was killed goes on from there.
"""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.database import connect, count_rows, drop_tables, tables_of, threads_of
from dat_rec.data.prepare import write
from dat_rec.data.prepare.admit import admission_of, words_of_waiting
from dat_rec.data.prepare.audience import write_pairs
from dat_rec.data.prepare.base import (
    ITEMS,
    Base,
    check_unit,
    moments_of,
    register_base,
)
from dat_rec.data.prepare.bounds import bounds_of, cut_log, words_of_bounds
from dat_rec.data.prepare.checks import reject_bad_rows
from dat_rec.data.prepare.dense import dense_features, dense_names
from dat_rec.data.prepare.follows import check_source
from dat_rec.data.prepare.forget import Forgotten, forget
from dat_rec.data.prepare.grown import grow_items, grow_users
from dat_rec.data.prepare.interactions import (
    find_ranges,
    has_sequence,
    is_unordered,
    write_held_out,
    write_training,
)
from dat_rec.data.prepare.journal import Journal
from dat_rec.data.prepare.left import left_of
from dat_rec.data.prepare.options import Options
from dat_rec.data.prepare.pairs_before import PairsBefore
from dat_rec.data.prepare.parts import part_names, take_over_all, write_past
from dat_rec.data.prepare.shuffle import file_cuts
from dat_rec.data.prepare.split import hold_out, keep_frequent
from dat_rec.data.prepare.stage_results import Checked, Marked, Numbered, Ordered, Written
from dat_rec.data.prepare.trend import add_recent, carry_recent
from dat_rec.data.prepare.user_histories import UserHistories
from dat_rec.data.prepare.user_ranges import (
    ITEMS_IN_ORDER,
    Shared,
    count_ties,
    make_folders,
    write_range,
)
from dat_rec.data.prepare.validation import validation_of
from dat_rec.data.prepare.vocabulary import number_items, number_users
from dat_rec.data.progress import Progress
from dat_rec.data.schema import (
    AUDIENCE,
    HISTORY,
    HISTORY_CATEGORY,
    ITEM,
    SIDES,
    USER,
    ExampleFile,
    Feature,
    Schema,
)
from dat_rec.data.source import (
    SEQUENCE,
    columns_of,
)

UNORDERED = (
    "no user has training interactions of two times: each one's history holds the user's other "
    "items, in no order"
)


class Stages:
    """The stages, each after those that it needs.

    Args:
        options: the source and its options.
        folder: the unfinished dataset.
        journal: knows which stages are finished.
        base: the dataset that is gone on from; None: there is none.
    """

    def __init__(
        self, options: Options, folder: Path, journal: Journal, base: Base | None = None
    ) -> None:
        self._options = options
        self._base = base
        self._admit_after = admission_of(options, base)
        self._waited = base is not None and base.schema.waiting > 0
        self._folder = folder
        self._work = folder / "work"
        self._journal = journal

    def run(self) -> Schema:
        """Do what is not done yet, and return what the dataset holds."""
        options = self._options
        with connect(self._work, options.memory_limit, options.threads) as database:
            threads = threads_of(database)
            checked = self._journal.stage("check", Checked, lambda: self._check(database))
            marked = self._journal.stage("split", Marked, lambda: self._split(database, checked))
            marked = self._forget(database, checked, marked)
            numbered = self._journal.stage(
                "number", Numbered, lambda: self._number(database, checked, marked)
            )
        drop_tables(self._work, "check", "split", "forget", "number")
        ordered = self._journal.stage(
            "users", Ordered, lambda: self._users(checked, numbered, threads)
        )
        written = self._journal.stage(
            "examples", Written, lambda: self._examples(checked, numbered, threads)
        )
        return self._schema(checked, marked, numbered, ordered, written.files)

    def _items(self, numbered: Numbered) -> pa.RecordBatch:
        """The item features, a row for each item_index."""
        names = write.names_of(numbered.item_features)
        table = pq.read_table(self._folder / "items.parquet", columns=names)
        return table.combine_chunks().to_batches()[0]

    def _check(self, database: duckdb.DuckDBPyConnection) -> Checked:
        with tables_of(database, self._work, "check"):
            options, later = self._options, 0
            source = options.register(database, self._work)
            validation = validation_of(database, source, options)
            split, bounds = source.split, bounds_of(database, source, options)
            begin = None
            if (base := self._base) is not None:
                sequence = SEQUENCE in columns_of(database, "raw_interactions")
                check_source(base, source, sequence=sequence)
                register_base(database, base, source)
                train_from, begin = moments_of(database, base)
                check_unit(base, begin, source.day)
                bounds = replace(bounds, train_from=train_from)
            # How many rows there are, nobody knows before they are read.
            with (
                closing(Progress("prepare: check", 100, unit="%")) as bar,
                bar.of_statements(database),
                source.unchanged(),
            ):
                if bounds.test_until is not None:
                    later = cut_log(database, bounds.test_until, f"{options.test_until}")
                    cure = f"name a later time than --test-until {options.test_until}"
                    split = replace(split, if_none=f"{cure}, or hold out more")
                counts = reject_bad_rows(
                    database, options.max_rejected, ITEMS if base else None, begin
                )
        return Checked(
            counts=counts,
            source=source.name,
            category=source.category,
            attributes=source.attributes,
            split=split,
            validation=validation,
            bounds=bounds,
            day=source.day,
            later=later,
            minimum=source.minimum,
            common_time=source.common_time,
            notes=source.notes,
            facts=source.facts,
            table=source.table if bounds.test_until is None else None,
            example_weights=source.example_weights,
        )

    def _split(self, database: duckdb.DuckDBPyConnection, checked: Checked) -> Marked:
        rows = checked.counts.interactions_read
        with (
            _bar("split", rows) as bar,
            bar.of_statements(database),
            tables_of(database, self._work, "split", "check"),
        ):
            notes = keep_frequent(database, checked.minimum)
            after = self._base is not None
            held_out = hold_out(
                database,
                checked.split,
                checked.validation,
                after=after,
                admit_after=self._admit_after,
            )
            waiting = () if after else words_of_waiting(database, self._admit_after)
            bounded = words_of_bounds(
                database, checked.bounds, self._options, checked.later, self._base
            )
        words = [checked.split.words, str(held_out[0])]
        if checked.validation is not None:
            words += [checked.validation.words, str(held_out[1])]
        warnings = (line for one in held_out for line in one.warnings)
        words += bounded
        return Marked("; ".join(words), (*notes, *warnings, *waiting), held_out[0].of)

    @property
    def _forgets(self) -> list[str]:
        """The stage that forgets and admits, if there is one."""
        if self._base is None:
            return []
        rules = (self._options.forget_after, self._options.capacity)
        waits = self._admit_after > 1 or self._waited
        return [] if rules == (None, None) and not waits else ["forget"]

    def _forget(
        self, database: duckdb.DuckDBPyConnection, checked: Checked, marked: Marked
    ) -> Marked:
        """Go on from what is left of the dataset, and say what is not."""
        base, folder = self._base, self._work / "base"
        if not self._forgets or base is None:
            return marked

        def work() -> Forgotten:
            with (
                _bar("forget", base.schema.training) as bar,
                bar.of_statements(database),
                tables_of(database, self._work, "forget", "split", "check"),
            ):
                return forget(database, base, self._options, self._admit_after, checked.day, folder)

        found = self._journal.stage("forget", Forgotten, work)
        if found.anew:
            self._base = left_of(base, found.left, folder)
        return replace(marked, notes=(*marked.notes, *found.notes))

    def _number(
        self, database: duckdb.DuckDBPyConnection, checked: Checked, marked: Marked
    ) -> Numbered:
        folder, attributes = self._folder, checked.attributes
        with (
            _bar("number", marked.rows) as bar,
            bar.of_statements(database),
            tables_of(database, self._work, "number", *self._forgets, "split", "check"),
        ):
            base = self._base
            if base is None:
                items = number_items(database, attributes, checked.category, folder)
                users = number_users(database, attributes, folder)
            else:
                items = grow_items(database, attributes, checked.category, folder, base)
                users = grow_users(database, attributes, folder, base)
            trend = None
            if self._options.trend and base is not None and base.schema.trend is not None:
                trend = carry_recent(database, base.schema.trend)
            elif self._options.trend and base is None and checked.common_time:
                trend = add_recent(database, checked.day)
            ranges = find_ranges(database, checked.bounds.train_from)
            training = self._work / "training"
            write_training(database, training)
            unordered = base is None and is_unordered(database, training)
            pairs = None
            catalogue = tuple(items)
            if unordered and self._options.audience_length:
                pairs = self._work / "pairs.parquet"
                write_pairs(database, training, self._options.seed, pairs)
                items.append(Feature(AUDIENCE, "item", USER, users[0].rows, multi_valued=True))
            dense = {side: dense_names(attributes, side) for side in SIDES}
            user_file, item_file = self._work / "user_rows.parquet", folder / "items.parquet"
            user_count = write.write_user_rows(database, users, user_file, dense["query"])
            item_count = write.write_items(
                database,
                catalogue,
                item_file,
                pairs,
                self._options.audience_length,
                dense["item"],
                recent=trend is not None,
            )
            return Numbered(
                query_features=tuple(users),
                item_features=tuple(items),
                dense=(
                    *dense_features(attributes, "query", user_file, users[0].rows - 1),
                    *dense_features(attributes, "item", item_file, items[0].rows - 1),
                ),
                ranges=ranges,
                users=user_count,
                items=item_count,
                tests=write_held_out(database, "test", folder / "test.parquet"),
                validation=write_held_out(database, "validation", folder / "validation.parquet")
                if checked.validation
                else 0,
                waiting=self._write_waiting(database),
                has_sequence=has_sequence(database),
                unordered=unordered,
                before=base.schema.training if base else None,
                trend=trend,
            )

    def _write_waiting(self, database: duckdb.DuckDBPyConnection) -> int:
        """Write waiting.parquet, if any interaction waits; return how many do."""
        if not count_rows(database, "marked_interactions WHERE part = 'waiting'"):
            return 0
        return write_held_out(database, "waiting", self._folder / "waiting.parquet")

    def _users(self, checked: Checked, numbered: Numbered, threads: int) -> Ordered:
        base = self._base
        make_folders(self._work)
        shared = Shared(
            work=self._work,
            cuts=file_cuts(numbered.examples, self._options.seed, write.FILE_ROWS),
            seed=self._options.seed,
            history_length=self._options.history_length,
            train_from=checked.bounds.train_from,
            features=tuple(write.names_of(numbered.query_features)),
            row_group=write.ROW_GROUP,
            has_sequence=numbered.has_sequence,
            unordered=numbered.unordered,
            weighted=checked.example_weights is not None,
            before=UserHistories(base.folder / "users.parquet", base.trained_users)
            if base
            else None,
            pairs_before=PairsBefore([base.folder / path for path in base.schema.seen_paths])
            if base
            else None,
        )
        with _bar("users", numbered.rows) as bar:

            def work(number: int) -> None:
                write_range(numbered.ranges[number], shared, bar.add)

            bar.in_threads(work, range(len(numbered.ranges)), threads)
        return Ordered(count_ties(self._work))

    def _examples(self, checked: Checked, numbered: Numbered, threads: int) -> Written:
        files = {name: f"{name}.parquet" for name in ("users", "seen")}
        if self._base is not None:
            files = self._take_over(self._base, numbered)
        elif numbered.past:
            files["past"] = "past.parquet"
        tables = list(files)
        pieces = {
            name: [self._work / name / f"{found.number}.arrow" for found in numbered.ranges]
            for name in (*tables, "examples")
        }
        writer = write.ExampleWriter(
            pieces["examples"],
            np.memmap(self._work / ITEMS_IN_ORDER, np.int32, "r"),
            self._items(numbered),
            checked.category,
            write.names_of(numbered.query_features),
            has_sequence=numbered.has_sequence,
            weighted=checked.example_weights is not None,
        )
        names = [
            f"examples/part-{number:05}.parquet"
            for number in range(max(1, -(-numbered.examples // write.FILE_ROWS)))
        ]
        with _bar("examples", numbered.examples) as bar:

            def work(number: int) -> int:
                if number >= 0:
                    return writer.write(number, self._folder / names[number], bar.add)
                name = tables[number]
                path = self._folder / files[name]
                if name == "users":
                    return write.write_pieces(pieces[name], path, writer.with_histories)
                return write.write_pieces(pieces[name], path)

            rows = bar.in_threads(work, range(-len(tables), len(names)), threads)
        of_files = zip(names, rows[len(tables) :], strict=True)
        return Written(tuple(ExampleFile(name, count) for name, count in of_files))

    def _take_over(self, base: Base, numbered: Numbered) -> dict[str, str]:
        """Take the dataset's parts over, add its examples to the past, and name what is left."""
        take_over_all(base, self._folder)
        if base.schema.examples:
            write_past(base, self._folder / self._past_files()[-1])
        files = {"users": "users.parquet"}
        return files | ({"seen": self._seen_files(numbered)[-1]} if numbered.examples else {})

    def _seen_files(self, numbered: Numbered) -> tuple[str, ...]:
        """The parts of the pairs, where a dataset is gone on from: its own, and what is new."""
        if self._base is None:
            return ()
        return part_names("seen", len(self._base.schema.seen_paths) + bool(numbered.examples))

    def _past_files(self) -> tuple[str, ...]:
        """The parts of the past: the dataset's own, and its examples."""
        if self._base is None:
            return ()
        schema = self._base.schema
        return part_names("past", len(schema.past_paths) + bool(schema.examples))

    def _schema(
        self,
        checked: Checked,
        marked: Marked,
        numbered: Numbered,
        ordered: Ordered,
        files: tuple[ExampleFile, ...],
    ) -> Schema:
        by_name = {feature.name: feature for feature in numbered.item_features}
        rows = by_name[checked.category].rows
        history = Feature(HISTORY, "query", ITEM, by_name[ITEM].rows, multi_valued=True)
        categories = Feature(HISTORY_CATEGORY, "query", checked.category, rows, multi_valued=True)
        return Schema(
            source=checked.source,
            features=(*numbered.query_features, history, categories, *numbered.item_features),
            category=checked.category,
            dense=numbered.dense,
            history_length=self._options.history_length,
            users=numbered.users,
            items=numbered.items,
            trained_items=by_name[ITEM].rows - 1,
            examples=sum(file.rows for file in files),
            tests=numbered.tests,
            validation=numbered.validation,
            past=numbered.past,
            admit_after=self._admit_after,
            waiting=numbered.waiting,
            seen_files=self._seen_files(numbered),
            past_files=self._past_files(),
            train_from=checked.bounds.train_from,
            test_until=checked.bounds.test_until,
            histories="others" if numbered.unordered else "earlier",
            example_files=files,
            split=marked.split,
            rows_read=checked.counts.interactions_read,
            rejected=checked.counts.rejected,
            notes=(
                *checked.notes,
                *marked.notes,
                *((UNORDERED,) if numbered.unordered else ordered.notes(numbered.read)),
            ),
            table=checked.table,
            trend=numbered.trend,
            example_weights=checked.example_weights,
            facts=checked.facts,
        )


def _bar(stage: str, rows: int) -> "closing[Progress]":
    return closing(Progress(f"prepare: {stage}", rows))
