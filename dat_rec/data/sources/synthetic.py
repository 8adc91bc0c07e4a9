"""A planted world: a log drawn from known preferences, so the best possible HR is known too.

The preferences are those of planted_world.py; categories, popularity and activity are skewed as
1/rank^s. Each interaction has a uniformly random time of a hundred days; the last tenth of the time
is the test, and a share of the time before it may be held out for validation. Nothing is handed on
but the ids, the item's category, and, if it is asked for, a part of the item's vector. The log is
drawn in blocks, each from a random generator of its own, so that neither threads nor a restart
change it.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.database import threads_of
from dat_rec.data.prepare.bounds import given_bounds, read_bounds
from dat_rec.data.prepare.options import Options
from dat_rec.data.prepare.validation import moment_in_utc, words_of_start
from dat_rec.data.progress import Progress
from dat_rec.data.scan import scan_parquet
from dat_rec.data.source import Attribute, Bounds, Source, Split, Validation, check_share
from dat_rec.data.sources.best_rankings import Log, best_hit_rates, is_affordable
from dat_rec.data.sources.planted_world import World, groups_of, make_world, most_tastes
from dat_rec.data.sources.tables import NO_PROBLEM
from dat_rec.data.sources.taste_oracle import taste_hit_rates
from dat_rec.data.sources.unseen_oracle import unseen_hit_rates
from dat_rec.data.sources.world_shapes import SHAPES, ShapeName, WorldShape
from dat_rec.errors import UserError
from dat_rec.files import whole_file

EPOCH_US = 1_577_836_800_000_000
"""1 January 2020."""
SPAN_US = 100 * 24 * 3600 * 1_000_000
TEST_SHARE = 0.1
TEST_FROM_US = EPOCH_US + round(SPAN_US * (1 - TEST_SHARE))
MOST_UNSEEN = 0.9
MOST_SHARPNESS, MOST_SKEW = 1000, 10
"""Beyond these, weights vanish in float64."""
BLOCK = 1 << 18
"""Interactions that are drawn at a time; another number draws another log."""
FILE_BLOCKS = 16
"""Blocks in a file of the log; a thread writes one, and a restart keeps those that are whole."""
CUTOFFS = (50, 100)
PLACE = "'' AS file, 0::BIGINT AS row"
"""No row of ours is bad, and none needs to be found."""
LOG_SCHEMA = pa.schema([(name, pa.int64()) for name in ("user_id", "item_id", "time")])


@dataclass(frozen=True, kw_only=True)
class Synthetic(Options):
    """Make a planted world, whose best possible HR is known, for tests and benchmarks."""

    shape: ShapeName = "plain"
    """Which numbers to begin with. dense: many interactions of each user. sparse: five to a dozen,
    and many items. ids: no category, no times. repeats: half of the interactions repeat an earlier
    one of the user. skewed: categories of very uneven size, each as sharply preferred, with a few
    popular items."""
    users: int | None = None
    """Number of users; by default 2,000, or the shape's, as for what follows."""
    items: int | None = None
    """Number of items in the catalogue; by default 1,000."""
    interactions: int | None = None
    """Number of interactions, the test's included; by default 40,000."""
    categories: int | None = None
    """Number of item categories, which are of uneven size; by default 10."""
    dim: int | None = None
    """Dimension of the planted vectors; by default 16."""
    tastes: int | None = None
    """Number of tastes that users share; by default each user has one, in a world of up to 4,096
    users and 1,024 items."""
    sharpness: float | None = None
    """Weight of the user's taste in an interaction: 0 is popularity alone; by default 8."""
    repeats: float | None = None
    """Chance that an interaction repeats one of the user's earlier ones; by default 0."""
    skew: float | None = None
    """Exponent s of popularity, of the categories' sizes and of the users' activity; by default .8,
    and in some shapes one of them has its own."""
    content: float | None = None
    """Share of the coordinates of an item's planted vector that the item has as a dense feature,
    its content: .5 tells half of who likes it; by default 0, no such feature."""
    unseen: float | None = None
    """Share of the items, at random, that occur in the test only; by default 0."""
    world_seed: int = 0
    """Random seed of the world; --seed decides the order of its examples only."""

    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:
        """See Options."""
        shape = self.numbers()
        self._check(shape)
        world = make_world(shape, self.world_seed)
        files = write_log(world, work / "log", threads_of(database))
        items = {"item_id": np.arange(shape.items), "category": world.category}
        attributes, content = [Attribute("category", "item")], ""
        if width := coordinates(shape):
            vectors = world.group[world.group_of, :width].astype(np.float32)
            items["content"] = pa.FixedSizeListArray.from_arrays(vectors.ravel(), width)
            attributes.append(Attribute("content", "item", "dense", width))
            content = "content::FLOAT[] AS content, "
        pq.write_table(pa.table(items), work / "items.parquet")
        validation, trained_until = self._validation(database)
        bounds = self._bounds(database)
        time, category, title = "time", "'category ' || category", "item {} (category {})"
        if shape.ids_only:
            # A number says whether an interaction trains, validates or tests.
            time = f"(time >= {trained_until})::BIGINT + (time >= {TEST_FROM_US})::BIGINT"
            category, title = "NULL::VARCHAR", "item {}"
        database.execute(
            f"CREATE VIEW raw_interactions AS SELECT user_id, item_id, {time} AS time, {PLACE}, "
            f"{NO_PROBLEM} FROM {scan_parquet(files)}; "
            f"CREATE VIEW raw_items AS SELECT item_id, {category} AS category, {content}"
            f"format('{title}', item_id, category) AS title, {PLACE} "
            f"FROM {scan_parquet([work / 'items.parquet'])}; "
            f"CREATE VIEW raw_users AS SELECT range AS user_id, {PLACE} FROM range({shape.users})"
        )
        how = f"the last {TEST_SHARE:.0%} of the time span"
        test = Split(f"time >= {TEST_FROM_US}", f"test: {how}")
        if shape.ids_only:
            test = Split("time = 2", f"test: a random {TEST_SHARE:.0%} of interactions")
        return Source(
            name="synthetic",
            category="category",
            attributes=tuple(attributes),
            split=test,
            validation=validation,
            bounds=bounds,
            notes=(self._note(shape),),
            facts=_facts(world, files, trained_until, bounds.test_until),
        )

    def numbers(self) -> WorldShape:
        """The shape, with the options that were given in place of its own."""
        shape = SHAPES[self.shape]
        names = {field.name for field in fields(shape)} & {field.name for field in fields(self)}
        given = {name: getattr(self, name) for name in names}
        return replace(shape, **{n: value for n, value in given.items() if value is not None})

    def world(self) -> World:
        """Draw the world that the options stand for."""
        return make_world(self.numbers(), self.world_seed)

    def _note(self, shape: WorldShape) -> str:
        words = [f"world seed {self.world_seed}, sharpness {shape.sharpness:g}"]
        if self.shape != "plain":
            words.insert(0, f"shape {self.shape}")
        if width := coordinates(shape):
            words.append(f"{width} of {shape.dim} coordinates of the items' vectors as content")
        if shape.unseen:
            words.append(f"{shape.unseen * 100:g} % of the items in the test only")
        return f"planted world, {', '.join(words)}"

    def _validation(self, database: duckdb.DuckDBPyConnection) -> tuple[Validation | None, int]:
        """What is held out for validation, and the time up to which interactions are trained on."""
        ids_only = SHAPES[self.shape].ids_only
        share = self.validation_share
        if self.validation_from is not None:
            if ids_only:
                raise UserError(
                    f"--validation-from {self.validation_from}: the shape {self.shape} has no "
                    "times: pass --validation-share"
                )
            start = moment_in_utc(database, "--validation-from", self.validation_from)
            words = words_of_start(self.validation_from)
        elif share is not None:
            check_share("--validation-share", share)
            start = EPOCH_US + round(SPAN_US * (1 - TEST_SHARE) * (1 - share))
            words = f"validation: the last {share * 100:g} % of the time span before it"
        else:
            return None, TEST_FROM_US
        if ids_only and share is not None:
            words = f"validation: a random {share * 100:g} % of the others"
            return Validation("time = 1", words), start
        return Validation(f"time >= {start}", words), min(start, TEST_FROM_US)

    def _bounds(self, database: duckdb.DuckDBPyConnection) -> Bounds:
        """Where the examples begin, and the log ends."""
        if SHAPES[self.shape].ids_only:
            for name, text in given_bounds(self).items():
                raise UserError(f"{name} {text}: the shape {self.shape} has no times: leave it out")
        return read_bounds(self, partial(moment_in_utc, database))

    def _check(self, shape: WorldShape) -> None:
        groups = groups_of(max(shape.items, 1), max(shape.categories, 1))
        for name, least, why in (
            ("users", 1, ""),
            ("items", 2, ""),
            ("categories", 1, ""),
            ("dim", 1, ""),
            ("interactions", shape.least * shape.users, _of_each_user(shape.least)),
        ):
            if getattr(shape, name) < least:
                raise UserError(f"--{name} {getattr(shape, name)}: must be at least {least}{why}")
        limits: list[tuple[str, float, float]] = []
        limits += [("sharpness", 0, MOST_SHARPNESS), ("skew", 0, MOST_SKEW), ("repeats", 0, 1)]
        limits += [("content", 0, 1), ("unseen", 0, MOST_UNSEEN)]
        if shape.tastes is not None:
            limits.append(("tastes", 1, most_tastes(shape.users, groups)))
        for name, low, most in limits:
            if not low <= getattr(shape, name) <= most:
                raise UserError(
                    f"--{name} {getattr(shape, name)}: must lie between {low} and {most}"
                )
        if shape.unseen and shape.repeats:
            raise UserError(
                f"--unseen {shape.unseen}: in a world with repeats the test repeats what training "
                "has: pass --repeats 0, or leave --unseen out"
            )
        if not 0 <= self.world_seed < 2**63:
            raise UserError(f"--world-seed {self.world_seed}: must lie between 0 and 2^63 − 1")


def coordinates(shape: WorldShape) -> int:
    """How many of a planted vector's coordinates are content."""
    return max(1, round(shape.content * shape.dim)) if shape.content else 0


def _of_each_user(least: int) -> str:
    return " (one for each user)" if least == 1 else f" ({least} for each user)"


def write_log(world: World, folder: Path, threads: int) -> list[Path]:
    """Draw every interaction and its time: files with the columns of ``LOG_SCHEMA``.

    Args:
        world: what is planted.
        folder: where the files go; those that are there stay.
        threads: maximum number of files that are written at a time.
    """
    folder.mkdir(exist_ok=True)
    interactions = int(world.first[-1])
    blocks = range(-(-interactions // BLOCK))

    def write(number: int) -> Path:
        path = folder / f"part-{number:05}.parquet"
        if path.exists():
            return path
        with whole_file(path) as partial, pq.ParquetWriter(partial, LOG_SCHEMA) as writer:
            for block in blocks[number * FILE_BLOCKS : (number + 1) * FILE_BLOCKS]:
                user, item, time = world.draw(block, BLOCK, 1 - TEST_SHARE)
                columns = [user, item, EPOCH_US + (time * SPAN_US).astype(np.int64)]
                writer.write_batch(pa.record_batch(columns, schema=LOG_SCHEMA))
                bar.add(len(user))
        return path

    with closing(Progress("prepare: draw", interactions)) as bar:
        return bar.in_threads(write, range(-(-len(blocks) // FILE_BLOCKS)), threads)


def _facts(
    world: World, files: Sequence[Path], trained_until: int, test_until: int | None
) -> dict[str, float]:
    """The best hit rates, as far as the world's size lets them be known."""
    tests_until = EPOCH_US + SPAN_US if test_until is None else test_until
    if is_affordable(world):
        parts = [pq.read_table(path) for path in files]
        user, item, time = (
            np.concatenate([part[name].to_numpy() for part in parts]) for name in LOG_SCHEMA.names
        )
        tested = (time >= TEST_FROM_US) & (time < tests_until)
        log = Log(user, item, time < trained_until, tested)
        facts = best_hit_rates(world, log, CUTOFFS)
        if world.unseen.any():
            facts |= _unseen_facts(world, log)
        return facts
    if world.repeats:
        return {}
    queries = _queries(world, files, trained_until, tests_until)
    best = taste_hit_rates(world, *queries, CUTOFFS)
    return {f"best HR@{cutoff}": share for cutoff, share in best.items()}


def _unseen_facts(world: World, log: Log) -> dict[str, float]:
    """The taste's oracle's hit rates for items without a training interaction."""
    trained_users = np.isin(np.arange(len(world.taste_of)), log.user[log.trained])
    unseen = ~np.isin(np.arange(len(world.group_of)), log.item[log.trained])
    asked = log.tested & trained_users[log.user] & unseen[log.item]
    tastes = world.taste_of[log.user[asked]]
    queries = np.bincount(tastes, minlength=len(world.taste)).astype(np.int64)
    return unseen_hit_rates(world, queries, unseen, CUTOFFS)


def _queries(
    world: World, log: Sequence[Path], trained_until: int, tests_until: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(T,) answerable test interactions of each taste; (items,) which items are trained."""
    trained_users = np.zeros(len(world.taste_of), np.bool_)
    trained_items = np.zeros(len(world.group_of), np.bool_)
    queries = np.zeros(len(world.taste), np.int64)
    for counting in (False, True):
        for path in log:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BLOCK):
                    user, item, time = (column.to_numpy() for column in batch.columns)
                    if not counting:
                        trained = time < trained_until
                        trained_users[user[trained]] = True
                        trained_items[item[trained]] = True
                    else:
                        tested = (time >= TEST_FROM_US) & (time < tests_until)
                        asked = tested & trained_users[user] & trained_items[item]
                        tastes = world.taste_of[user[asked]]
                        queries += np.bincount(tastes, minlength=len(queries))
    return queries, trained_items
