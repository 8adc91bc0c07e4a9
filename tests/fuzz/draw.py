"""A seed and a number in, one case out: a small log with its files, and options for every command.

Sizes are small and often at an edge (one user, one item, one category, one row of a shard), since
that is where programs break; every option that changes what is computed is drawn now and then.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DENSE = 2**32
YEAR_US = 1_767_225_600_000_000
"""1 January 2026."""
DAY_US = 86_400_000_000
TYPES = (
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid_shard",
    "data_parallel",
)


@dataclass(frozen=True)
class Case:
    """One walk from a log to recommendations."""

    number: int
    world: int
    """Ranks of the training."""
    resumed_world: int
    """Ranks on which it goes on from its first checkpoint."""
    batch_size: int
    """Examples a batch on each of them."""
    prepare: tuple[str, ...]
    """Arguments of ``dat-rec prepare``, --out left out."""
    train: tuple[str, ...]
    """Arguments of ``dat-rec train``, --data, --out and --batch-size left out."""
    k: int
    """Of ``dat-rec recommend``."""
    exact: bool
    """Whether other numbers of ranks should give the same losses but for rounding in float64."""
    tolerance: float
    """Of a score that is computed twice."""

    def text(self) -> str:
        """The case as somebody would type it."""
        train = " ".join((*self.train, "--batch-size", str(self.batch_size)))
        return (
            f"{self.world} ranks, then {self.resumed_world}: prepare {' '.join(self.prepare)}; "
            f"train {train}; k {self.k}"
        )


def draw(seed: int, number: int, folder: Path) -> Case:
    """Case ``number`` of the walk that ``seed`` decides; its input files go into ``folder``."""
    rng = np.random.Generator(np.random.Philox(key=[seed, number]))
    folder.mkdir(parents=True, exist_ok=True)
    if rng.random() < 0.25:
        prepare, items = _synthetic(rng)
    else:
        prepare, items = _log(rng, folder)
        # Of random numbers of its own, so that all else is what it was before there were any.
        prepare += _dense(
            np.random.Generator(np.random.Philox(key=[seed, DENSE + number])), prepare
        )
    train, exact, tolerance = _train(rng)
    world = int(rng.choice([1, 2, 2, 3, 3]))
    case = Case(
        number=number,
        world=world,
        resumed_world=world if rng.random() < 0.7 else int(rng.integers(1, 4)),
        batch_size=int(rng.choice([2, 7, 16, 64, 128])),
        prepare=tuple(prepare),
        train=tuple(train),
        k=int(rng.integers(1, items + 1)),
        exact=exact,
        tolerance=tolerance,
    )
    return replace(case, train=(*case.train, *_losses(rng, case.train)))


def _synthetic(rng: np.random.Generator) -> tuple[list[str], int]:
    users, items = int(rng.integers(1, 80)), int(rng.integers(2, 120))
    interactions = users + int(rng.integers(0, 1500))
    sizes = {
        "users": users,
        "items": items,
        "interactions": interactions,
        "categories": int(rng.integers(1, min(8, items) + 1)),
        "history-length": int(rng.choice([1, 5, 50])),
        "world-seed": int(rng.integers(1000)),
    }
    return ["synthetic", *(f"--{name}={value}" for name, value in sizes.items())], items


def _ids(rng: np.random.Generator, count: int) -> list[int] | list[str]:
    """Different ids, as integers from 0, as large ones, or as text."""
    kind = rng.integers(3)
    if kind == 0:
        return list(range(count))
    if kind == 1:
        spread = rng.choice(2**40, count, replace=False)
        return [int(2**60 + value) for value in spread]
    return [f"{number:03d}" for number in range(count)]


def _log(rng: np.random.Generator, folder: Path) -> tuple[list[str], int]:
    users, items = (int(rng.choice([1, 2, 3, 12, 60])) for _ in range(2))
    rows = int(rng.choice([4, 30, 200, 900]))
    user_ids, item_ids = _ids(rng, users), _ids(rng, items)
    user = rng.integers(0, users, rows)
    item = (user * 5 + rng.geometric(0.3, rows)) % items
    days = rng.choice([3, 400])
    time = YEAR_US + np.sort(rng.integers(0, days, rows)) * DAY_US
    if rng.random() < 0.3:
        rng.shuffle(time)
    times = (
        pa.array(time // 1_000_000)
        if rng.random() < 0.4
        else pa.array(time, pa.timestamp("us", "UTC"))
    )
    log = {
        "user_id": [user_ids[number] for number in user],
        "item_id": [item_ids[number] for number in item],
        "time": times,
    }
    command = ["parquet", "--interactions", str(folder / "log.parquet")]
    if rng.random() < 0.3:
        log["stars"] = rng.integers(1, 6, rows)
        command += ["--label", "stars", "--min-label", "2"]
    pq.write_table(pa.table(log), folder / "log.parquet")
    if rng.random() < 0.6:
        command += _items(rng, folder / "items.parquet", item_ids)
    if rng.random() < 0.5:
        flags = [bool(number % 3 == 0) for number in range(users)]
        pq.write_table(pa.table({"user_id": user_ids, "vip": flags}), folder / "users.parquet")
        command += ["--users", str(folder / "users.parquet"), "--user-features", "vip"]
    command += [f"--test-share={rng.choice([0.1, 0.3])}"]
    command += [f"--history-length={rng.choice([1, 4, 50])}"]
    return command, items


def _items(rng: np.random.Generator, path: Path, ids: list[int] | list[str]) -> list[str]:
    count = len(ids)
    shelves = rng.integers(0, rng.choice([1, 2, 40]), count)
    tags = [[f"tag {tag}" for tag in range(number % 3)] for number in range(count)]
    columns = {
        "item_id": ids,
        "shelf": pa.array(
            [None if number % 11 == 10 else f"shelf {number}" for number in shelves], pa.string()
        ),
        "tags": pa.array(tags, pa.list_(pa.string())),
        "price": rng.random(count) * 100,
        "empty": pa.array([None] * count, pa.string()),
    }
    pq.write_table(pa.table(columns), path)
    chosen = [name for name in ("tags", "price", "empty") if rng.random() < 0.4]
    command = ["--items", str(path)]
    if rng.random() < 0.8:
        command += ["--category", "shelf"]
    return [*command, *(["--item-features", *chosen] if chosen else [])]


def _dense(rng: np.random.Generator, prepare: list[str]) -> list[str]:
    """Let some features be numbers and vectors as they are; changes the files and the options."""
    dense = []
    for side, key, chance in (("items", "item_id", 0.5), ("users", "user_id", 0.5)):
        if f"--{side}" not in prepare or rng.random() > chance:
            continue
        path = Path(prepare[prepare.index(f"--{side}") + 1])
        table = pq.read_table(path)
        rows, name = table.num_rows, f"{key[:4]}_vector"
        vectors = [None if n % 5 == 4 else rng.normal(size=3).tolist() for n in range(rows)]
        table = table.append_column(name, pa.array(vectors, pa.list_(pa.float32())))
        weight = [None if n % 4 == 3 else 1.5 + n / 100 for n in range(rows)]
        table = table.append_column(f"{key[:4]}_weight", pa.array(weight))
        pq.write_table(table, path)
        option = f"--{key[:4]}-features"
        at = prepare.index(option) + 1 if option in prepare else len(prepare)
        prepare[at:at] = [*([] if option in prepare else [option]), name, f"{key[:4]}_weight"]
        dense += [name, f"{key[:4]}_weight"]
    return ["--dense", *dense] if dense else []


def _train(rng: np.random.Generator) -> tuple[list[str], bool, float]:
    """Options, whether they are exact in float64, and what a score may differ by."""

    def now_and_then(chance: float, *words: str) -> list[str]:
        return list(words) if rng.random() < chance else []

    preset = str(rng.choice(["modern", "modern", "paper", "two-tower"]))
    precision = str(rng.choice(["float32", "float64", "float64", "bfloat16"]))
    options = ["--preset", preset, "--model.precision", precision]
    widths = rng.choice([4, 8, 12]), rng.choice([4, 8])
    options += [f"--model.embedding-dim={widths[0]}", f"--model.output-dim={widths[1]}"]
    options += ["--model.hidden", *rng.choice(["4", "8", "16"], rng.integers(1, 3))]
    options += [f"--epochs={rng.integers(1, 4)}", f"--seed={rng.integers(1000)}"]
    options += [f"--checkpoint-every={rng.choice([1, 3, 8])}", "--keep-checkpoints", "1000"]
    options += [f"--log-every={rng.choice([1, 7])}", f"--optimizer.warmup-steps={rng.integers(9)}"]
    options += now_and_then(0.4, "--optimizer.table", "adagrad")
    options += now_and_then(0.2, "--examples.skip-repeats")
    options += now_and_then(0.3, "--examples.id-dropout", "0.3")
    options += now_and_then(0.2, "--loss.alignment", "0")
    options += now_and_then(0.2, "--loss.negative-power", "0.75")
    options += now_and_then(0.2, "--no-background-saves")
    options += now_and_then(0.5, "--no-preflight")
    if preset != "paper":
        options += now_and_then(0.3, "--loss.shared-negatives", str(rng.integers(1, 20)))
    types = [str(kind) for kind in rng.choice(TYPES, rng.integers(1, 4), replace=False)]
    options += now_and_then(0.4, "--sharding-types", *types)
    options += now_and_then(0.3, "--pin", f"item={rng.choice(TYPES)},min_partition:4")
    half = now_and_then(0.15, "--comms", "fp16") + now_and_then(0.15, "--model.fp16-tables", "*")
    options += now_and_then(0.4, "--model.pooling", "sqrt")
    options += now_and_then(0.4, "--model.linear")
    if widths[0] == widths[1]:
        options += now_and_then(0.6, "--model.residual")
    tolerance = {"float32": 1e-5, "float64": 1e-5, "bfloat16": 3e-2}[precision]
    return options + half, precision == "float64" and not half, tolerance


def _losses(rng: np.random.Generator, train: tuple[str, ...]) -> list[str]:
    """Another main loss than the preset's, and what it may have."""
    if "paper" in train:
        return []
    main = str(rng.choice(["softmax", "softmax", "contrastive", "bpr"]))
    options = ["--loss.main", main]
    options += ["--loss.queue", str(rng.integers(1, 4))] if rng.random() < 0.3 else []
    if main != "contrastive" and rng.random() < 0.3:
        options.append("--loss.learn-temperature")
    if main == "softmax" and rng.random() < 0.3:
        options.append("--loss.no-own-log-q")
    return options
