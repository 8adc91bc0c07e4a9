"""Lists that are restricted by files, as the commands write them; alone and on several ranks."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.cli import run_command
from dat_rec.errors import UserError
from dat_rec.files import sha256, write_json
from dat_rec.retrieval import answer
from dat_rec.retrieval.export import export
from dat_rec.retrieval.recommend import recommend
from dat_rec.retrieval.recommender import Recommender
from dat_rec.retrieval.restrictions import Restrictions
from dat_rec.retrieval.similar import similar
from tests.distributed.ranks import run_ranks
from tests.retrieval.world import ITEMS, USERS, write_dataset, write_run

SHADES = [None, "red", "dark blue", 'it\'s "odd"']


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a shop has: its users, its stock, what was bought since, and what may be shown."""
    folder = tmp_path_factory.mktemp("shop")
    users = [f"u{user}" for user in range(1, USERS)] + ["nobody"]
    write(folder / "users", who=users, region=["north", "south", None] * 10, who_else=users)
    ids = [1000 + item for item in range(ITEMS)]
    write(folder / "stock", item_id=ids, stock=[i % 3 for i in ids], region=["north", "east"] * 30)
    write(folder / "bought", who=["u1", "u1", "nobody"] * 2, item_id=[1001, 1002, 1003, 9, 9, 9])
    write(folder / "allowed", item_id=np.array([*ids[:40], 7], np.int32))
    return folder


def restricted(files: Path) -> Restrictions:
    return Restrictions(
        exclude_seen=True,
        exclude=files / "bought",
        filter="stock > 0",
        item_table=files / "stock",
        allow=files / "allowed",
        per_user_filter="item.region = user.region OR user.region IS NULL",
        quotas={"category": 3, "region": 4},
    )


def recommended(export: Path, files: Path, out: Path) -> tuple[int, ...]:
    answer.MOST_USERS = 4
    return recommend(
        export,
        8,
        out,
        files / "users",
        user_id="who",
        restrictions=restricted(files),
        vectors_out=out.with_name(f"{out.name}-vectors"),
    )


def test_files_say_what_tables_say_and_ranks_write_what_one_process_writes(
    exported: Path, files: Path, tmp_path: Path
) -> None:
    (alone,) = run_ranks(recommended, 1, exported, files, tmp_path / "alone")
    together = run_ranks(recommended, 2, exported, files, tmp_path / "two")
    assert together == [alone] * 2
    found = pq.read_table(tmp_path / "alone")
    assert pq.read_table(tmp_path / "two").equals(found)
    vectors = pq.read_table(tmp_path / "alone-vectors")
    assert pq.read_table(tmp_path / "two-vectors").equals(vectors)

    opened, given = Recommender.open(exported), restricted(files)
    users = pq.read_table(files / "users").rename_columns(["user_id", "region", "x"])
    bought = pq.read_table(files / "bought").rename_columns(["user_id", "item_id"])
    wanted = opened.top(
        users,
        8,
        exclude_seen=True,
        exclude=bought,
        filter=given.filter,
        item_table=pq.read_table(files / "stock"),
        available=pq.read_table(files / "allowed")["item_id"],
        per_user_filter=given.per_user_filter,
        quotas={"region": 4},
        per_category=3,
    )
    # Scores may differ in their last bits: who is encoded beside whom is another here.
    same = ["user_id", "rank", "item_id"]
    assert found.select(same).equals(wanted.select(same))
    assert found["score"].to_numpy() == pytest.approx(wanted["score"].to_numpy(), abs=1e-6)
    lengths = found["user_id"].value_counts().to_pylist()
    short = sum(row["counts"] < 8 for row in lengths) + USERS - len(lengths)
    assert 0 < short < USERS
    assert alone == (USERS, 1, short, 1, "")
    expected = opened.vectors(users["user_id"])
    assert vectors["user_id"].to_pylist() == expected["user_id"].to_pylist()
    np.testing.assert_allclose(
        np.array(vectors["vector"].to_pylist()), expected["vector"].to_pylist(), atol=1e-6
    )
    assert vectors["vector"].type == pa.list_(pa.float32(), 9)


def similar_of(export: Path, files: Path, out: Path) -> tuple[int, ...]:
    given = Restrictions(filter="stock > 0", item_table=files / "stock", quotas={"category": 2})
    return similar(export, 5, out, files / "allowed2", restrictions=given)


def test_similar_items_of_a_file_of_words_and_on_ranks(
    exported: Path, files: Path, tmp_path: Path
) -> None:
    write(files / "allowed2", item_id=[1000, 1003, 1059])
    (alone,) = run_ranks(similar_of, 1, exported, files, tmp_path / "alone")
    assert run_ranks(similar_of, 2, exported, files, tmp_path / "two") == [alone] * 2
    found = pq.read_table(tmp_path / "alone")
    assert pq.read_table(tmp_path / "two").equals(found)
    options = {"filter": "stock > 0", "item_table": files / "stock", "per_category": 2}
    assert found.equals(Recommender.open(exported).similar([1000, 1003, 1059], 5, **options))
    assert alone == (3, 0, 0, "")
    words = ["--items", "1000", "1003", "1059", "--k", "5", "--filter", "stock > 0"]
    words += ["--item-table", str(files / "stock"), "--quota", "category=2"]
    out = str(tmp_path / "words")
    run_command("similar", ["--export", str(exported), "--out", out, *words])
    assert pq.read_table(out).equals(found)


def test_the_command_takes_all_of_it_and_says_who_got_fewer(
    exported: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (wanted,) = run_ranks(recommended, 1, exported, files, tmp_path / "wanted")
    given, out = restricted(files), str(tmp_path / "out")
    words = ["--export", str(exported), "--out", out, "--k", "8", "--show", "2"]
    words += ["--queries", str(files / "users"), "--user-id", "who", "--exclude-seen"]
    words += ["--exclude", str(files / "bought"), "--filter", "stock > 0"]
    words += ["--item-table", str(files / "stock"), "--allow", str(files / "allowed")]
    words += ["--per-user-filter", str(given.per_user_filter)]
    words += ["--quota", "category=3", "region=4", "--vectors-out", f"{out}-vectors"]
    run_command("recommend", words)
    found = pq.read_table(out).drop_columns("score")
    assert found.equals(pq.read_table(tmp_path / "wanted").drop_columns("score"))
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        f"{out}: up to 8 items for each of 30 users, 1 of them unknown",
        f"{files / 'allowed'}: the export does not know 1 of these items",
        f"{wanted[2]} users have fewer than 8 items: no more may be shown",
        f"{out}-vectors: the vectors of these users",
    ]
    assert said[4].startswith("user u1")


def test_lists_that_are_empty_show_nothing(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    words = ["--export", str(exported), "--out", out, "--k", "8", "--show", "2"]
    run_command("recommend", [*words, "--filter", "false"])
    assert capsys.readouterr().out == (
        f"{out}: up to 8 items for each of {USERS} users\n"
        f"{USERS} users have fewer than 8 items: no more may be shown\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quota", "category"], "--quota category: write COLUMN=N, as category=10"),
        (["--quota", "category=-1"], "--quota category=-1: write COLUMN=N"),
        (["--quota", "a=1", "a=2"], "--quota a=2: a stands there twice"),
        (["--quota", "a=1", "--quota", "b=1"], "--quota is given twice"),
        (["--quota", "a=1"], "--quota a=1: items have no such column: they have item_id, title"),
        (["--filter", "a = 1"], "--filter 'a = 1': Referenced column"),
        (["--allow", "absent"], "absent: cannot be read as Parquet"),
        (["--exclude", "absent"], "absent"),
        (["--item-table", "absent"], "absent: cannot be read as Parquet"),
    ],
)
@pytest.mark.parametrize("command", ["recommend", "similar"])
def test_bad_words_are_refused_and_nothing_is_written(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if command == "similar" and words[0] == "--exclude":
        words, message = ["--items", "x"], "--items x: no file, and the export's item_id is int64"
    with pytest.raises(UserError, match=re.escape(message)) as error:
        run_command(command, ["--export", str(exported), "--out", "out", "--k", "3", *words])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_places_are_not_mixed_up(exported: Path, files: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    out = tmp_path / "out"
    for vectors_out, message in [
        (tmp_path / "mine", "mine is already there"),
        (out, "--vectors-out .*: a folder, or part of the input"),
        (out / "below", "--vectors-out .*: a folder, or part of the input"),
    ]:
        with pytest.raises(UserError, match=message):
            recommend(exported, 3, out, vectors_out=vectors_out)
    with pytest.raises(UserError, match=r"--vectors-out .*new: a folder, or part of"):
        recommend(exported, 3, tmp_path / "new" / "out", vectors_out=tmp_path / "new")
    # Without a disk's room, or below a file, it cannot be written: the option is told.
    for given, option in [({"out": "mine/a"}, "--out"), ({"vectors_out": "mine/a"}, "--vectors-")]:
        places = {"out": out} | {name: tmp_path / one for name, one in given.items()}
        with pytest.raises(UserError, match=f"^{option}.*mine/a: cannot be written") as error:
            recommend(exported, 3, **places)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
    stock = Restrictions(item_table=files / "stock")
    with pytest.raises(UserError, match="part of the input"):
        recommend(exported, 3, files / "stock", restrictions=stock, overwrite=True)
    assert (tmp_path / "mine").read_text() == "keep"
    assert not out.exists()


def test_an_export_of_before_says_what_it_lacks(
    exported: Path, files: Path, tmp_path: Path
) -> None:
    """It holds neither what users had nor what features stand for; all else works."""
    old = Path(shutil.copytree(exported, tmp_path / "old"))
    shutil.rmtree(old / "seen")
    manifest = json.loads((old / "export.json").read_text())
    manifest["sha256"] = {k: v for k, v in manifest["sha256"].items() if not k.startswith("seen")}
    write_json(old / "export.json", manifest)
    with pytest.raises(UserError, match=r"old does not hold what users had.*--exclude") as error:
        recommend(old, 3, tmp_path / "out", restrictions=Restrictions(exclude_seen=True))
    assert "\n" not in str(error.value)
    some = {"filter": "category = 'toys'", "exclude": files / "bought"}
    with pytest.raises(UserError, match="column 'user_id' is missing"):
        Recommender.open(old).top(k=3, **some)
    assert len(Recommender.open(old).top(k=3, filter="category = 'toys'")) == 3 * USERS


def described(folder: Path) -> Path:
    """A dataset whose items have a shade, tags and a price."""
    data = write_dataset(folder)
    items, rng = pq.read_table(data / "items.parquet"), np.random.default_rng(3)
    columns = {
        "shade": pa.array(rng.integers(0, 4, ITEMS)),
        "tags": pa.array(
            [list(rng.integers(0, 4, i % 3)) for i in range(ITEMS)], pa.list_(pa.int64())
        ),
        "price": pa.array([None if i % 7 == 0 else i / 8 for i in range(ITEMS)]),
    }
    for name, column in columns.items():
        items = items.append_column(name, column)
    pq.write_table(items, data / "items.parquet", row_group_size=17)
    (data / "vocabularies").mkdir()
    words = {"index": [0, 1, 2, 3], "value": SHADES}
    pq.write_table(pa.table(words), data / "vocabularies" / "shade.parquet")
    schema = json.loads((data / "schema.json").read_text())
    shade = {"side": "item", "table": "shade", "rows": 4}
    schema["features"] += [
        {"name": "shade", **shade, "multi_valued": False},
        {"name": "tags", **shade, "multi_valued": True},
    ]
    price = {"name": "price", "side": "item", "kind": "number", "width": 1}
    schema["dense"] = [price | {"mean": 3.0, "scale": 2.0}]
    write_json(data / "schema.json", schema)
    return data


def test_the_export_holds_what_features_stand_for_and_what_users_had(tmp_path: Path) -> None:
    data = described(tmp_path / "data")
    run = write_run(tmp_path / "run", data)
    export(run, tmp_path / "export")
    rows = pq.read_table(data / "items.parquet").to_pylist()
    found = pq.read_table(tmp_path / "export" / "items.parquet")
    names = ["item_id", "title", "category_name", "train_count", "shade", "tags", "price"]
    assert found.column_names == names
    assert found.to_pylist() == [
        {name: row[name] for name in names}
        | {"shade": SHADES[row["shade"]], "tags": [SHADES[tag] for tag in row["tags"]]}
        for row in rows
    ]
    had: dict[str, set[int]] = {f"u{user}": set() for user in range(USERS)}
    for pair in pq.read_table(data / "seen.parquet").to_pylist():
        had[f"u{pair['user_row']}"].add(pair["item_index"])
    seen = pq.read_table(tmp_path / "export" / "seen").to_pylist()
    assert [row["user_id"] for row in seen] == list(had)
    assert [row["item_index"] for row in seen] == [sorted(items) for items in had.values()]
    top = Recommender.open(tmp_path / "export").top
    odd = [row["item_id"] for row in rows if SHADES[row["shade"]] == SHADES[3]]
    for sql in ("shade = 'it''s \"odd\"'", "price < 3 AND list_contains(tags, 'red')"):
        listed = set(top(["u1"], ITEMS, filter=sql)["item_id"].to_pylist())
        assert listed == (
            set(odd)
            if "odd" in sql
            else {
                row["item_id"]
                for row in rows
                if row["price"] is not None and row["price"] < 3 and 1 in row["tags"]
            }
        )
    with pytest.raises(UserError, match=r"--quota tags=2: tags is .*list.*: name a column with"):
        top(["u1"], 3, quotas={"tags": 2})
    # The same bytes come of yesterday's export and a delta.
    export(run, tmp_path / "delta", since=tmp_path / "export")
    assert (
        sha256(tmp_path / "export" / "export.json")
        == json.loads((tmp_path / "delta" / "delta.json").read_text())["result"]
    )


def test_pairs_that_name_no_item_are_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    table = pq.read_table(data / "seen.parquet")
    items = table["item_index"].to_numpy().copy()
    items[5] = ITEMS
    pq.write_table(table.set_column(1, "item_index", pa.array(items)), data / "seen.parquet")
    run = write_run(tmp_path / "run", data)
    with pytest.raises(UserError, match=r"seen\.parquet: item_index 60 is outside 0 … 59"):
        export(run, tmp_path / "export")
    assert not (tmp_path / "export").exists()
