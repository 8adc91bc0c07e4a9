"""Deltas of trained runs: days of them, and how large they are."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources import Synthetic
from dat_rec.files import sha256, write_json
from dat_rec.retrieval.delta.apply import apply
from dat_rec.retrieval.export import export
from tests.cases import WHOLE
from tests.end_to_end.cli import done
from tests.end_to_end.days import write_day
from tests.end_to_end.forked import forked
from tests.retrieval.delta.test_apply import contents, ids_of

FLAGS = (
    *("--epochs", "1", "--batch-size", "256"),
    *("--model.embedding-dim", "8", "--model.hidden", "16", "--model.output-dim", "8"),
)
DAYS = 12 if WHOLE else 6
SHARE = 0.05
TABLES = ("user", "item", "augmented_user", "augmented_item")


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_days_of_training_on_come_out_byte_for_byte(tmp_path: Path) -> None:
    seen: list[tuple[set[int], set[str]]] = []
    for day in range(DAYS + 1):
        today, run = tmp_path / f"full{day}", tmp_path / f"run{day}"
        users, items = range(6 * day, 6 * day + 80), range(4 * day, 4 * day + 60)
        data = write_day(tmp_path / f"day{day}", users, items, text=True, seed=day, rows=1500)
        warm = ("--warm-start", tmp_path / f"run{day - 1}") if day else ()
        done(forked("train", "--data", data, "--out", run, *FLAGS, *warm))
        export(run, today)
        seen.append(ids_of(today))
        if day == 0:
            continue
        base, delta = tmp_path / f"applied{day - 1}", tmp_path / f"delta{day}"
        base = base if day > 1 else tmp_path / "full0"
        out = tmp_path / f"applied{day}"
        if day == 1:
            said = done(forked("export", "--run", run, "--out", delta, "--since", base))
            assert (
                f"{delta}: delta 1, {size(delta) - (delta / 'delta.json').stat().st_size:,} b"
                in said
            )
            said = done(forked("apply", "--base", base, "--delta", delta, "--out", out))
            assert f"{out}: number 1 of its chain" in said
        else:
            assert export(run, delta, since=base)["sequence"] == day
            assert apply(base, [delta], out).number == day
        made = contents(out)
        del made["sequence.json"]
        assert made == contents(today)
        # The log draws each day: some ids go that come back.
        assert seen[day - 1][0] - seen[day][0]
        assert seen[day][0] - seen[day - 1][0]
        assert seen[day - 1][1] - seen[day][1]
    deltas = [tmp_path / f"delta{day}" for day in range(1, DAYS + 1)]
    apply(tmp_path / "full0", deltas, tmp_path / "chain")
    assert contents(tmp_path / "chain").items() > contents(tmp_path / f"full{DAYS}").items()


def change_rows(run: Path, share: float, seed: int) -> None:
    """Change a share of the rows of a run's large tables: of an item both rows, or none."""
    (checkpoint,) = (run / "checkpoints").iterdir()
    (path,) = checkpoint.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    found = []
    for name, entry in json.loads(content[8:begin]).items():
        table = name.partition("/weight@")[0].rpartition(".")[2]
        if name.startswith("tables/") and "/weight@" in name and table in TABLES:
            found.append(table)
            first, last = entry["data_offsets"]
            numbers = np.frombuffer(content, np.float32, (last - first) // 4, begin + first)
            rows = numbers.reshape(entry["shape"])
            rng = np.random.default_rng([seed, len(rows)])
            # The unknown row is every user's or item's that was not trained.
            rows[1 + rng.permutation(len(rows) - 1)[: int(share * len(rows))]] += 0.01
    assert sorted(found) == sorted(TABLES)
    path.write_bytes(content)
    digests = json.loads((checkpoint / "sha256.json").read_text())
    write_json(checkpoint / "sha256.json", digests | {path.name: sha256(path)})


def change_histories(data: Path, share: float) -> None:
    """Turn the histories of a share of the users round."""
    path = data / "users.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("history")
    lists = table["history"].to_pylist()
    for user in np.random.default_rng(0).permutation(len(lists))[: int(share * len(lists))]:
        lists[user] = [(item % 7) + 1 for item in reversed(lists[user])]
    kind = table.schema.field(place)
    pq.write_table(table.set_column(place, kind, pa.array(lists, kind.type)), path)


def share_of_changed(folder: Path) -> float:
    """Of a table's rows."""
    rows = [pq.ParquetFile(folder / f"{name}.parquet") for name in ("changed", "order")]
    return float(rows[0].metadata.num_rows / rows[1].metadata.num_rows)


@pytest.mark.slow
def test_a_day_that_changes_a_twentieth_is_a_tenth_at_most(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    source = Synthetic(out=tmp_path / "data", users=6_000, items=4_000, interactions=100_000)
    prepare(source)
    done(forked("train", "--data", source.out, "--out", tmp_path / "run", "--epochs", "1"))
    export(tmp_path / "run", tmp_path / "yesterday")
    run = Path(shutil.copytree(tmp_path / "run", tmp_path / "changed"))
    data = Path(shutil.copytree(source.out, tmp_path / "today"))
    change_rows(run, SHARE, seed=1)
    change_histories(data, SHARE)
    export(run, tmp_path / "full", data)
    export(run, tmp_path / "delta", data, since=tmp_path / "yesterday")
    share = size(tmp_path / "delta") / size(tmp_path / "full")
    changed = {
        path.parent.relative_to(tmp_path / "delta").as_posix(): share_of_changed(path.parent)
        for path in (tmp_path / "delta").rglob("changed.parquet")
    }
    # What stays as it is: the categories' table, and in the item tower the unknown rows, too.
    unchanged = sorted(name.partition("/")[0] for name, one in changed.items() if one == 0)
    assert unchanged == ["item_tower"] * 3 + ["query_tower"]
    assert {"item_vectors", "users"} <= changed.keys()
    assert sum(0.04 < one < 0.06 for one in changed.values()) == len(changed) - 4 == 5
    assert share < 0.1
    record_property("figure", f"delta of {SHARE:.0%} changed rows: {share:.3f} of the full export")
    apply(tmp_path / "yesterday", [tmp_path / "delta"], tmp_path / "applied")
    assert contents(tmp_path / "applied").items() > contents(tmp_path / "full").items()
