"""A planted world: a log drawn from known preferences, so the best possible HR is known too.

Users and items are unit vectors u, v; items gather around their category's centre, categories
and popularity are skewed as 1/rank^s. Each interaction of a user is drawn from

    p(v | u) ∝ exp(sharpness · ⟨u, v⟩ + log popularity(v))

at a uniformly random time of a hundred days; the last tenth of the time is the test. Nothing but
the ids and the item's category is handed on, and the world is made in batches of users.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.prepare import Options
from dat_rec.data.scan import scan_parquet
from dat_rec.data.source import Attribute, Source, Split
from dat_rec.data.sources.tables import NO_PROBLEM, PLACE, parquet
from dat_rec.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EPOCH_US = 1_577_836_800_000_000
"""1 January 2020."""
SPAN_US = 100 * 24 * 3600 * 1_000_000
TEST_SHARE = 0.1
TEST_FROM_US = EPOCH_US + round(SPAN_US * (1 - TEST_SHARE))
CLUSTER_NOISE = 0.8
"""Length of the noise that is added to a unit category centre, for items and users alike."""
MOST_SHARPNESS, MOST_SKEW = 1000, 10
"""Beyond these, weights vanish in float64."""
SCORES_IN_MEMORY = 1 << 22
CUTOFFS = (50, 100)


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
        world = make_world(self)
        log = work / "interactions.parquet"
        _write_log(self, world, log)
        pq.write_table(pa.table({"user_id": np.arange(self.users)}), work / "users.parquet")
        items = {"item_id": np.arange(self.items), "category": world.category}
        pq.write_table(pa.table(items), work / "items.parquet")
        database.execute(
            f"CREATE VIEW raw_interactions AS SELECT user_id, item_id, time, {PLACE}, "
            f"{NO_PROBLEM} FROM {parquet(database, log, ('user_id', 'item_id', 'time'))}; "
            "CREATE VIEW raw_items AS SELECT item_id, 'category ' || category AS category, "
            f"format('item {{}} (category {{}})', item_id, category) AS title, {PLACE} "
            f"FROM {parquet(database, work / 'items.parquet', tuple(items))}; "
            f"CREATE VIEW raw_users AS SELECT user_id, {PLACE} "
            f"FROM {parquet(database, work / 'users.parquet', ('user_id',))}"
        )
        return Source(
            name="synthetic",
            category="category",
            attributes=(Attribute("category", "item"),),
            split=Split(
                f"time >= {TEST_FROM_US}", f"test: the last {TEST_SHARE:.0%} of the time span"
            ),
            notes=(f"planted world, world seed {self.world_seed}, sharpness {self.sharpness:g}",),
            facts=best_hit_rates(self, world, *_test_queries(self, database, log)),
        )

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


@dataclass(frozen=True)
class World:
    """The planted vectors, popularity and activity."""

    user: Floats
    """(users, dim): unit vectors."""
    item: Floats
    """(items, dim): unit vectors."""
    category: Ints
    """(items,)"""
    log_popularity: Floats
    """(items,)"""
    counts: Ints
    """(users,): interactions of each user, ≥ 1."""

    def probabilities(self, users: slice, sharpness: float) -> Floats:
        """(users, items): p(v | u)."""
        logits = sharpness * (self.user[users] @ self.item.T) + self.log_popularity
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(weights / weights.sum(1, keepdims=True))


def make_world(options: Synthetic) -> World:
    """Draw the world that ``options`` stand for."""
    generator = np.random.Generator(np.random.Philox(key=[options.world_seed, 0]))
    share = _zipf(options.categories, options.skew)
    centre = _unit(generator.standard_normal((options.categories, options.dim)))
    category = generator.choice(options.categories, options.items, p=share)
    taste = generator.choice(options.categories, options.users, p=share)
    popularity = generator.permutation(_zipf(options.items, options.skew))
    activity = generator.permutation(_zipf(options.users, options.skew))
    counts = 1 + generator.multinomial(options.interactions - options.users, activity)
    return World(
        user=_around(centre[taste], generator),
        item=_around(centre[category], generator),
        category=category.astype(np.int64),
        log_popularity=np.log(popularity),
        counts=counts.astype(np.int64),
    )


def _zipf(size: int, exponent: float) -> Floats:
    weights = np.arange(1, size + 1) ** -exponent
    return np.asarray(weights / weights.sum())


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _around(centre: Floats, generator: np.random.Generator) -> Floats:
    noise = generator.standard_normal(centre.shape) / np.sqrt(centre.shape[1])
    return _unit(centre + CLUSTER_NOISE * noise)


def _user_batches(options: Synthetic) -> Iterator[slice]:
    """Users whose scores against all items fit into memory together."""
    size = max(1, SCORES_IN_MEMORY // options.items)
    for start in range(0, options.users, size):
        yield slice(start, min(start + size, options.users))


def _write_log(options: Synthetic, world: World, path: Path) -> None:
    """Draw every interaction and its time: columns user_id, item_id, time."""
    generator = np.random.Generator(np.random.Philox(key=[options.world_seed, 1]))
    schema = pa.schema([(name, pa.int64()) for name in ("user_id", "item_id", "time")])
    with pq.ParquetWriter(path, schema) as writer:
        for users in _user_batches(options):
            cumulative = world.probabilities(users, options.sharpness).cumsum(1)
            for position, user in enumerate(range(users.start, users.stop)):
                draws = generator.random((2, world.counts[user]))
                item = np.searchsorted(
                    cumulative[position] / cumulative[position, -1], draws[0], "right"
                )
                time = EPOCH_US + (draws[1] * SPAN_US).astype(np.int64)
                columns = [np.full(len(item), user), item, time]
                writer.write_batch(pa.record_batch([pa.array(c) for c in columns], schema=schema))


def _test_queries(
    options: Synthetic, database: duckdb.DuckDBPyConnection, log: Path
) -> tuple[Ints, NDArray[np.bool_]]:
    """(users,) answerable test interactions of each user; (items,) which items are trained."""
    database.execute(
        "CREATE TEMP VIEW planted AS SELECT user_id, item_id, "
        f"time >= {TEST_FROM_US} AS is_test FROM {scan_parquet([log])}"
    )
    trained = np.zeros(options.items, np.bool_)
    rows = database.execute("SELECT DISTINCT item_id FROM planted WHERE NOT is_test").fetchnumpy()
    trained[rows["item_id"]] = True
    queries = np.zeros(options.users, np.int64)
    rows = database.execute(
        "SELECT user_id, count(*) AS queries FROM planted WHERE is_test "
        "AND user_id IN (SELECT user_id FROM planted WHERE NOT is_test) "
        "AND item_id IN (SELECT item_id FROM planted WHERE NOT is_test) GROUP BY user_id"
    ).fetchnumpy()
    queries[rows["user_id"]] = rows["queries"]
    database.execute("DROP VIEW planted")
    return queries, trained


def best_hit_rates(
    options: Synthetic, world: World, queries: Ints, trained: NDArray[np.bool_]
) -> dict[str, float]:
    """The expected HR@K of ranking by the true p(v | u) over the trained items.

    A test item of user u is one of u's K most probable trained items with probability
    Σ_{top K} p(v | u) / Σ_{trained} p(v | u); the mean over the answerable test interactions is
    the best any model can expect.

    Args:
        options: the world's sizes.
        world: what is planted.
        queries: (users,) answerable test interactions of each user.
        trained: (items,) items with a training interaction.
    """
    hits = dict.fromkeys(CUTOFFS, 0.0)
    for users in _user_batches(options):
        weights = queries[users]
        if not weights.any():
            continue
        known = world.probabilities(users, options.sharpness)[:, trained]
        known = -np.sort(-known, axis=1) / known.sum(1, keepdims=True)
        for cutoff in CUTOFFS:
            hits[cutoff] += float(weights @ known[:, :cutoff].sum(1))
    total = max(1, int(queries.sum()))
    return {f"best HR@{cutoff}": hit / total for cutoff, hit in hits.items()}
