"""A small log whose users and items have features of every type, as a log has them.

Times are all different, and training ends at ``SPLIT``. Some users and items are in the test alone.
"""

import datetime
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.rows import copy_rows
from dat_rec.files import write_json
from dat_rec.retrieval.raw_inputs import INPUTS
from tests.data.sources.prepared import own
from tests.retrieval.world import write_run

USERS, ITEMS, ROWS, SPLIT, LATEST = 40, 36, 700, 600, 7
USER_FEATURES = (
    "segment",
    "zip",
    "vip",
    "born",
    "joined",
    "seen_at",
    "age",
    "spend",
    "langs",
    "codes",
    "face",
    "since",
)
ITEM_FEATURES = ("price", "stock", "tags", "added", "text", "weight")


@dataclass(frozen=True)
class RawLog:
    """The log's own tables, and the run of random weights that was made of them."""

    users: pa.Table
    items: pa.Table
    log: pa.Table
    dataset: Dataset
    run: Path

    def queries(self) -> pa.Table:
        """A row for each user, as the split has them: raw features, and the last items."""
        rows = self.log.to_pylist()
        history: dict[Any, list[Any]] = {}
        for row in sorted(rows, key=lambda row: row["time"]):
            if row["time"] < SPLIT:
                history.setdefault(row["user_id"], []).append(row["item_id"])
        lists = [history.get(user, []) for user in self.users["user_id"].to_pylist()]
        kind = pa.list_(self.items["item_id"].type)
        return self.users.append_column("history", pa.array(lists, kind))


def write_raw_log(folder: Path, *, text_ids: bool) -> RawLog:
    """Write the tables, prepare them, and make a run of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    item = rng.integers(0, ITEMS - 6, ROWS)
    user = rng.integers(0, USERS - 5, ROWS)
    item[SPLIT:], user[SPLIT:] = rng.integers(0, ITEMS, 100), rng.integers(0, USERS, 100)

    def ids(numbers: Any, letter: str) -> pa.Array:
        named = [f"{letter}{number:03}" for number in numbers]
        return pa.array(named if text_ids else [3 * int(number) + 1 for number in numbers])

    def some(values: Any, kind: pa.DataType, lack: int) -> pa.Array:
        return pa.array([None if n % lack == 1 else v for n, v in enumerate(values)], kind)

    time = rng.permutation(SPLIT).tolist() + list(range(SPLIT, ROWS))
    log = pa.table({"user_id": ids(user, "u"), "item_id": ids(item, "i"), "time": time})
    n, day = np.arange(USERS), datetime.date(2001, 2, 3)
    at = datetime.datetime(2026, 1, 2, 3, 4, 5)
    parts = datetime.timedelta(milliseconds=250)
    langs = [[*[None, "de", "en", "de", ""][: k % 6], f"l{k % 3}"] for k in n]
    users = pa.table(
        {
            "user_id": ids(n, "u"),
            "segment": some(np.where(n % 7 == 0, "", [f"s {k % 4}" for k in n]), pa.string(), 5),
            "zip": some(n % 6 - 2, pa.int32(), 9),
            "vip": some(n % 3 == 0, pa.bool_(), 4),
            "born": some([day + datetime.timedelta(int(k) % 5) for k in n], pa.date32(), 8),
            "joined": some([at + parts * (int(k) % 4) for k in n], pa.timestamp("us"), 6),
            "seen_at": some([at + parts * (int(k) % 3) for k in n], pa.timestamp("us", "UTC"), 7),
            "age": some(rng.integers(18, 80, USERS), pa.int64(), 10),
            "spend": some(np.where(n % 9 == 2, np.nan, rng.gamma(2, 10, USERS)), pa.float32(), 11),
            "langs": some(langs, pa.list_(pa.string()), 7),
            "codes": some([[int(k) % 5, 7, int(k) % 3] for k in n], pa.list_(pa.int64()), 6),
            "face": some(rng.normal(size=(USERS, 3)).tolist(), pa.list_(pa.float32()), 8),
            "since": some(1_700_000_000 + rng.integers(0, 1000, USERS), pa.int64(), 9),
        }
    )
    n = np.arange(ITEMS)
    items = pa.table(
        {
            "item_id": ids(n, "i"),
            "shelf": some([f"shelf {k % 5}" for k in n], pa.string(), 12),
            "price": some(rng.gamma(2, 10, ITEMS), pa.float64(), 10),
            "stock": some(rng.integers(0, 9, ITEMS), pa.int32(), 7),
            "tags": some([[f"t{k % 4}", f"t{k % 3}"] for k in n], pa.list_(pa.string()), 9),
            "added": some([day + datetime.timedelta(int(k) % 4) for k in n], pa.date32(), 8),
            "text": some(rng.normal(size=(ITEMS, 4)).tolist(), pa.list_(pa.float32()), 6),
            "weight": some(rng.gamma(2, 1, ITEMS), pa.float64(), 7),
        }
    )
    tables = {"log": log, "users": users, "items": items}
    paths = {name: folder / f"{name}.parquet" for name in tables}
    for name, one in tables.items():
        pq.write_table(one, paths[name])
    prepare(
        own(
            folder,
            users=paths["users"],
            items=paths["items"],
            category="shelf",
            user_features=USER_FEATURES,
            item_features=ITEM_FEATURES,
            numbers=("age", "stock"),
            dense=("face", "since", "text", "weight"),
            test_from=str(SPLIT),
            history_length=LATEST,
        )
    )
    run = write_run(folder / "run", folder / "out")
    dataset = Dataset.open(folder / "out")
    copy_rows(dataset.folder, run / "rows")
    dataset.schema.save(run)
    return RawLog(users, items, log, dataset, run)


def older(made: Path, folder: Path) -> Path:
    """A copy of an export as releases made it that knew of no raw inputs."""
    shutil.copytree(made, folder)
    manifest = json.loads((folder / "export.json").read_text())
    for name in list(manifest["sha256"]):
        if name in ("item_tower.pt2", INPUTS) or name.startswith("vocabularies/"):
            (folder / name).unlink()
            del manifest["sha256"][name]
    write_json(folder / "export.json", manifest)
    return folder
