"""A planted world: a log drawn from known preferences, so the best possible HR is known too.

The preferences are those of planted_world.py; categories, popularity and activity are skewed as
1/rank^s. Each interaction has a uniformly random time of a hundred days; the last tenth of the time
is the test, and a share of the time before it may be held out for validation. Nothing but the ids
and the item's category is handed on. The log is drawn in blocks, each from a random generator of
its own, so that neither threads nor a restart change it.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.database import threads_of
from dat_rec.data.prepare.options import Options
from dat_rec.data.prepare.validation import start_in_utc, words_of_start
from dat_rec.data.progress import Progress
from dat_rec.data.scan import scan_parquet
from dat_rec.data.source import Attribute, Source, Split, Validation, check_share
from dat_rec.data.sources.planted_world import World, best_hit_rates, make_world
from dat_rec.data.sources.tables import NO_PROBLEM
from dat_rec.errors import UserError
from dat_rec.files import whole_file

EPOCH_US = 1_577_836_800_000_000
"""1 January 2020."""
SPAN_US = 100 * 24 * 3600 * 1_000_000
TEST_SHARE = 0.1
TEST_FROM_US = EPOCH_US + round(SPAN_US * (1 - TEST_SHARE))
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

    users: int = 2_000
    """Number of users; each has at least one interaction."""
    items: int = 1_000
    """Number of items in the catalogue."""
    interactions: int = 40_000
    """Number of interactions, the test's included."""
    categories: int = 10
    """Number of item categories, which are of very uneven size."""
    dim: int = 16
    """Dimension of the planted vectors."""
    sharpness: float = 8.0
    """Weight of the user's taste in an interaction: 0 is popularity alone."""
    skew: float = 0.8
    """Exponent s of popularity, of the categories' sizes and of the users' activity."""
    world_seed: int = 0
    """Random seed of the world; --seed decides the order of its examples only."""

    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:
        """See Options."""
        self._check()
        world = self.world()
        files = write_log(world, self.interactions, work / "log", threads_of(database))
        items = {"item_id": np.arange(self.items), "category": world.category}
        pq.write_table(pa.table(items), work / "items.parquet")
        database.execute(
            f"CREATE VIEW raw_interactions AS SELECT user_id, item_id, time, {PLACE}, {NO_PROBLEM} "
            f"FROM {scan_parquet(files)}; "
            "CREATE VIEW raw_items AS SELECT item_id, 'category ' || category AS category, "
            f"format('item {{}} (category {{}})', item_id, category) AS title, {PLACE} "
            f"FROM {scan_parquet([work / 'items.parquet'])}; "
            f"CREATE VIEW raw_users AS SELECT range AS user_id, {PLACE} FROM range({self.users})"
        )
        validation, trained_until = self._validation(database)
        best = best_hit_rates(world, *_queries(world, files, trained_until), CUTOFFS)
        return Source(
            name="synthetic",
            category="category",
            attributes=(Attribute("category", "item"),),
            split=Split(
                f"time >= {TEST_FROM_US}", f"test: the last {TEST_SHARE:.0%} of the time span"
            ),
            validation=validation,
            notes=(f"planted world, world seed {self.world_seed}, sharpness {self.sharpness:g}",),
            facts={f"best HR@{cutoff}": share for cutoff, share in best.items()},
        )

    def world(self) -> World:
        """Draw the world that the options stand for."""
        return make_world(
            users=self.users,
            items=self.items,
            interactions=self.interactions,
            categories=self.categories,
            dim=self.dim,
            sharpness=self.sharpness,
            skew=self.skew,
            seed=self.world_seed,
        )

    def _validation(self, database: duckdb.DuckDBPyConnection) -> tuple[Validation | None, int]:
        """What is held out for validation, and the time up to which interactions are trained on."""
        if self.validation_from is not None:
            start = start_in_utc(database, self.validation_from)
            words = words_of_start(self.validation_from)
        elif (share := self.validation_share) is not None:
            check_share("--validation-share", share)
            start = EPOCH_US + round(SPAN_US * (1 - TEST_SHARE) * (1 - share))
            words = f"validation: the last {share * 100:g} % of the time span before it"
        else:
            return None, TEST_FROM_US
        return Validation(f"time >= {start}", words), min(start, TEST_FROM_US)

    def _check(self) -> None:
        for name, least in (
            ("users", 1),
            ("items", 2),
            ("categories", 1),
            ("dim", 1),
            ("interactions", self.users),
        ):
            if getattr(self, name) < least:
                raise UserError(
                    f"--{name} {getattr(self, name)}: must be at least {least}"
                    + (" (one for each user)" if name == "interactions" else "")
                )
        for name, most in (("sharpness", MOST_SHARPNESS), ("skew", MOST_SKEW)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"--{name} {getattr(self, name)}: must lie between 0 and {most}")
        if not 0 <= self.world_seed < 2**63:
            raise UserError(f"--world-seed {self.world_seed}: must lie between 0 and 2^63 − 1")


def write_log(world: World, interactions: int, folder: Path, threads: int) -> list[Path]:
    """Draw every interaction and its time: files with the columns of ``LOG_SCHEMA``.

    Args:
        world: what is planted.
        interactions: number of rows.
        folder: where the files go; those that are there stay.
        threads: maximum number of files that are written at a time.
    """
    folder.mkdir(exist_ok=True)
    blocks = range(-(-interactions // BLOCK))

    def write(number: int) -> Path:
        path = folder / f"part-{number:05}.parquet"
        if path.exists():
            return path
        with whole_file(path) as partial, pq.ParquetWriter(partial, LOG_SCHEMA) as writer:
            for block in blocks[number * FILE_BLOCKS : (number + 1) * FILE_BLOCKS]:
                user, item, time = world.draw(block, BLOCK)
                columns = [user, item, EPOCH_US + (time * SPAN_US).astype(np.int64)]
                writer.write_batch(pa.record_batch(columns, schema=LOG_SCHEMA))
                bar.add(len(user))
        return path

    with closing(Progress("prepare: draw", interactions)) as bar:
        return bar.in_threads(write, range(-(-len(blocks) // FILE_BLOCKS)), threads)


def _queries(
    world: World, log: Sequence[Path], trained_until: int
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
                        asked = (time >= TEST_FROM_US) & trained_users[user] & trained_items[item]
                        tastes = world.taste_of[user[asked]]
                        queries += np.bincount(tastes, minlength=len(queries))
    return queries, trained_items
