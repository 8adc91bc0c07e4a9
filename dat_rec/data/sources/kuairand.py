"""KuaiRand-Pure: short-video exposures of 27 thousand users (Gao et al., CIKM 2022).

Two layouts: the folder with interactions.parquet, items.parquet and users.parquet, or the original
download (log_standard_*.csv, user_features_pure.csv, video_features_basic_pure.csv, possibly
below ``data/``). A positive is a video watched for long.
"""

from dataclasses import dataclass
from pathlib import Path

import duckdb

from dat_rec.data.prepare.options import Options
from dat_rec.data.source import Attribute, Source, Split
from dat_rec.data.sources.tables import (
    OWN_PLACE,
    PLACE,
    Relation,
    at_least,
    delimited,
    integer,
    microseconds,
    number,
    parquet,
    problem,
)
from dat_rec.errors import UserError

LOGS = ("log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv")
USERS, VIDEOS = "user_features_pure.csv", "video_features_basic_pure.csv"
USER_ATTRIBUTES = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{number}" for number in range(18)),
)
ITEM_ATTRIBUTES = ("author_id", "video_type", "upload_dt", "upload_type", "music_type")
VIDEO = ("tag", "video_duration", *ITEM_ATTRIBUTES)
TEST_FROM = 20220501


@dataclass(frozen=True, kw_only=True)
class KuaiRand(Options):
    """Make a dataset of KuaiRand-Pure: positives are long watches, the test is 1 to 8 May 2022.

    --validation-from 2022-04-25 holds out the days that the authors call validation.
    """

    path: Path
    """Folder with interactions.parquet, items.parquet and users.parquet, or the original CSVs."""

    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:  # noqa: ARG002
        """See Options."""
        folder = self.path / "data" if (self.path / "data" / LOGS[0]).exists() else self.path
        if (folder / "interactions.parquet").exists():
            timed = {"--train-from": self.train_from, "--after": self.after}
            for name, value in timed.items():
                if value is not None:
                    raise UserError(
                        f"{name} {value}: {folder / 'interactions.parquet'} has no times of "
                        "training rows, only their order: name the folder of the CSV files"
                    )
            split = _register_parquet(database, folder)
            common_time = False
        elif (folder / LOGS[0]).exists():
            split = _register_csv(database, folder)
            common_time = True
        else:
            raise UserError(
                f"{self.path}: holds neither interactions.parquet nor {LOGS[0]}: "
                "name the folder of KuaiRand-Pure"
            )
        attributes = [Attribute(name, "query") for name in USER_ATTRIBUTES]
        attributes += [Attribute("category", "item"), Attribute("tag", "item", "tags")]
        attributes += [Attribute(name, "item") for name in ITEM_ATTRIBUTES]
        attributes += [Attribute("duration", "item", "number")]
        return Source(
            name="kuairand",
            category="category",
            attributes=tuple(attributes),
            split=split,
            common_time=common_time,
            notes=("positives: exposures watched for long; the others are left out",),
        )


def _register_parquet(database: duckdb.DuckDBPyConnection, folder: Path) -> Split:
    """Training rows have no time but an order within the user; validation rows follow by time."""
    columns = ("user_id", "item_id", "long_watch", "order", "ts", "split")
    log = parquet(database, folder / "interactions.parquet", columns)
    unknown = "NOT coalesce(isfinite(long_watch::DOUBLE), false)"
    known = "coalesce(split IN ('train', 'val', 'test'), false)"
    database.execute(
        "CREATE VIEW raw_interactions AS SELECT try_cast(user_id AS BIGINT) AS user_id, "
        "try_cast(item_id AS BIGINT) AS item_id, "
        "CASE WHEN split = 'train' THEN try_cast(\"order\" AS BIGINT) "
        f"ELSE {microseconds('try_cast(ts AS BIGINT)', 1_000_000)} END AS time, "
        f"split = 'test' AS held_out, {PLACE}, "
        f"CASE WHEN {unknown} THEN 'missing long_watch' "
        f"WHEN NOT {known} THEN 'split is not train, val or test' END AS problem, "
        f"CASE WHEN {unknown} THEN long_watch::VARCHAR WHEN NOT {known} THEN split "
        "WHEN split = 'train' THEN \"order\"::VARCHAR ELSE ts::VARCHAR END AS value "
        f"FROM {log} WHERE {at_least('long_watch::DOUBLE', 1)}"
    )
    _register_videos(parquet(database, folder / "items.parquet", ("item_id", *VIDEO)), "item_id")
    _register_users(parquet(database, folder / "users.parquet", ("user_id", *USER_ATTRIBUTES)))
    return Split("held_out", "test: 1 to 8 May 2022 (split = test); the others are all before")


def _register_csv(database: duckdb.DuckDBPyConnection, folder: Path) -> Split:
    columns = ("user_id", "video_id", "time_ms", "long_view", "date")
    logs = " UNION ALL ".join(f"FROM {delimited(database, folder / n, columns)}" for n in LOGS)
    integers = ("user_id", "video_id", "date", "time_ms")
    checked = problem(*integers, time="time_ms", numbers=("long_view",), needed=("date",))
    database.execute(
        f"CREATE VIEW raw_interactions AS SELECT {integer('user_id')} AS user_id, "
        f"{integer('video_id')} AS item_id, {microseconds(integer('time_ms'), 1000)} AS time, "
        f"({integer('date')}) >= {TEST_FROM} AS held_out, {PLACE}, "
        f"{checked} FROM ({logs}) WHERE {at_least(number('long_view'), 1)}"
    )
    _register_videos(delimited(database, folder / VIDEOS, ("video_id", *VIDEO)), "video_id")
    _register_users(delimited(database, folder / USERS, ("user_id", *USER_ATTRIBUTES)))
    return Split("held_out", "test: from 1 May 2022, by the log's date")


def _number_as_text(name: str, types: dict[str, str]) -> str:
    """SQL: 9.0 and 9 as '9', so that both layouts give the same values; NaN as NULL."""
    if types[name] == "VARCHAR":
        whole = f"try_cast(try_cast({name} AS DOUBLE) AS BIGINT)::VARCHAR"
        return f"coalesce({whole}, {name}) AS {name}"
    return f"try_cast({name} AS BIGINT)::VARCHAR AS {name}"


def _id(name: str, types: dict[str, str]) -> str:
    return integer(name) if types[name] == "VARCHAR" else f"try_cast({name} AS BIGINT)"


def _register_videos(videos: Relation, key: str) -> None:
    """A video's category is its first tag."""
    attributes = ", ".join(
        _number_as_text(name, videos.types)
        if name == "music_type"
        else f"{name}::VARCHAR AS {name}"
        for name in ITEM_ATTRIBUTES
    )
    videos.database.execute(
        "CREATE VIEW raw_items AS SELECT item_id, tag, tag[1] AS category, "
        "concat('video ', item_id, coalesce(' (category ' || tag[1] || ')', '')) AS title, "
        f"duration, {', '.join(ITEM_ATTRIBUTES)}, {PLACE} FROM (SELECT "
        f"{_id(key, videos.types)} AS item_id, "
        "list_filter(list_transform(string_split(tag, ','), lambda x: trim(x)), "
        "lambda x: x <> '') AS tag, "
        f"try_cast(video_duration AS DOUBLE) AS duration, {attributes}, {OWN_PLACE} FROM {videos})"
    )


def _register_users(users: Relation) -> None:
    attributes = ", ".join(
        name
        if users.types[name] == "VARCHAR" and not name.startswith("onehot")
        else _number_as_text(name, users.types)
        for name in USER_ATTRIBUTES
    )
    users.database.execute(
        f"CREATE VIEW raw_users AS SELECT {_id('user_id', users.types)} AS user_id, "
        f"{attributes}, {PLACE} FROM {users}"
    )
