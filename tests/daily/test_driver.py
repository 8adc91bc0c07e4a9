"""``dat-rec daily`` on a planted log of days: against the commands by hand, kills and refusals."""

import json
import multiprocessing
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.daily.root import locked
from dat_rec.daily.table import read_rows, write_rows
from dat_rec.errors import UserError
from dat_rec.runs.figures import BLOCKS, CUTOFFS
from tests.cases import WHOLE
from tests.checkpoint.saved import saved_digests
from tests.daily.planted_days import (
    TRAIN,
    daily_words,
    log_options,
    read,
    rows_of,
    write_day,
    write_log,
)
from tests.end_to_end.cli import done
from tests.end_to_end.forked import _main, forked, forked_ranks

LIMIT_S = 400
FIRST, LAST = 1, 4
EMPTY = 3
"""A day of which the log has no partition."""
STEPS = ("score", "evaluate", "prepare", "train")


def walk(*words: str) -> subprocess.CompletedProcess[str]:
    """``dat-rec daily``, which takes longer than one command."""
    return forked_ranks(words, [{}], LIMIT_S)[0]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of the days 0 to 4, without that day."""
    folder = tmp_path_factory.mktemp("log")
    write_log(folder, LAST + 1)
    shutil.rmtree(folder / "log" / f"day={EMPTY}")
    return folder


@pytest.fixture(scope="module")
def walked(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The days, walked without a disturbance; ``said`` holds what was printed."""
    root = tmp_path_factory.mktemp("walked") / "root"
    said = done(walk(*daily_words(log, root, FIRST, LAST, "--no-export")))
    (root / "said").write_text(said)
    return root


def bits(root: Path) -> dict[str, Any]:
    """All that the days come to, but what time they took."""
    found: dict[str, Any] = {}
    for day in sorted(path for path in root.iterdir() if path.is_dir()):
        for name in ("score", "data"):
            if (day / name).exists():
                found[f"{day.name}/{name}"] = read(day / name / "sha256.json")
        if (day / "run").exists():
            found[f"{day.name}/run"] = saved_digests(checkpoints(day / "run")[-1][1])
        if (day / "export").exists():
            found[f"{day.name}/export"] = read(day / "export" / "export.json")["sha256"]
        if (day / "metrics.json").exists():
            found[f"{day.name}/metrics"] = without_place(read(day / "metrics.json"))
    return found


def without_place(metrics: dict[str, Any]) -> dict[str, Any]:
    metrics.get("matched", {}).pop("data", None)
    return metrics


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in row if not name.endswith("_s")} for row in rows]


def test_the_days_are_the_commands_by_hand(log: Path, walked: Path, tmp_path: Path) -> None:
    """The commands of docs/daily.md; --test-from in place of --split all."""
    before: Path | None = None
    for day in (1, 2, 4):
        here = tmp_path / str(day)
        prepare = ["prepare", "parquet", *log_options(log), "--to", f"{day}"]
        train = ["train", "--data", here / "data", "--out", here / "run", "--epochs", "1", *TRAIN]
        if before is not None:
            prepare += ["--from", f"{day}", "--after", f"{before / 'data'}"]
            train += ["--warm-start", before / "run"]
            start = ("--test-from", f"{day * 100}", "--out", f"{here / 'score'}")
            done(forked(*prepare, *start))
            asked = ("--run", before / "run", "--data", here / "score", "--no-fitted-baselines")
            done(forked("evaluate", *asked))
            shutil.copy(before / "run" / "metrics.json", here / "metrics.json")
        done(forked(*prepare, "--split", "none", "--out", f"{here / 'data'}"))
        done(forked(*train))
        before = here
    found, wanted = bits(walked), bits(tmp_path)
    # What the test is called stands in schema.json.
    for of in (found, wanted):
        for name in (name for name in of if name.endswith("score")):
            of[name].pop("schema.json")
    assert found.keys() == wanted.keys()
    for name, of in wanted.items():
        assert found[name] == of, name


def test_a_day_that_came_late_is_walked_and_what_was_begun_behind_it_is_not_kept(
    log: Path, tmp_path: Path
) -> None:
    """Day 4 was prepared behind day 2 when the driver was killed; then day 3 came."""
    late = tmp_path / "late"
    shutil.copytree(log, late)
    write_log(tmp_path / "all", LAST + 1)
    root, whole = tmp_path / "root", tmp_path / "whole"
    done(walk(*daily_words(late, root, FIRST, LAST, "--no-export")))
    rows = read_rows(root / "daily.parquet")
    write_rows(root / "daily.parquet", rows[:-1])
    for name in ("run", "data"):
        shutil.rmtree(root / f"{LAST}" / name)
    day = f"day={EMPTY}"
    shutil.copytree(tmp_path / "all" / "log" / day, late / "log" / day)
    done(walk(*daily_words(late, root, FIRST, LAST, "--no-export")))
    done(walk(*daily_words(late, whole, FIRST, LAST, "--no-export")))
    assert bits(root) == bits(whole)
    assert without_seconds(rows_of(root)) == without_seconds(rows_of(whole))


def test_what_was_removed_by_hand_is_told_with_what_brings_it_back(
    log: Path, walked: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(walked, root)
    table, words = root / "daily.parquet", daily_words(log, root, FIRST, LAST, "--no-export")
    rows = read_rows(table)
    write_rows(table, [row for row in rows if row["day"] in ("1", "2")])
    shutil.rmtree(root / f"{LAST}")

    def refused(message: str) -> None:
        result = walk(*words)
        assert result.returncode == 2, result.stderr
        (line,) = result.stderr.strip().splitlines()
        assert f"{message} and start again: it is made anew of the days' folders" in line, line

    for name in ("data", "run"):
        (root / "2" / name).rename(tmp_path / "aside")
        refused(
            f"{root / '2' / name}: is missing, and 3 goes on from it; {table} says that 2 is "
            "done: remove it"
        )
        (tmp_path / "aside").rename(root / "2" / name)
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"is no table of days .*: remove it and start again"):
        read_rows(table)
    # What is advised.
    for name in ("data", "run"):
        shutil.rmtree(root / "2" / name)
    table.unlink()
    done(walk(*words))
    assert bits(root) == bits(walked)
    assert without_seconds(rows_of(root)) == without_seconds(rows)


def test_a_picture_that_is_gone_is_drawn_anew(log: Path, walked: Path) -> None:
    picture = walked / "daily.png"
    before = picture.read_bytes()
    picture.unlink()
    assert done(walk(*daily_words(log, walked, FIRST, LAST, "--no-export"))) == ""
    assert picture.read_bytes() == before


def test_exports_of_deltas_are_the_exports(log: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    done(walk(*daily_words(log, root, 2, LAST, "--deltas")))
    days = [root / f"{day}" for day in (2, 4)]
    assert [(day / "delta").exists() for day in days] == [False, True]
    assert [row["apply_s"] is None for row in rows_of(root)] == [True, True, False]
    full = tmp_path / "full"
    done(forked("export", "--run", days[1] / "run", "--data", days[1] / "data", "--out", full))
    files = {path.name for path in full.rglob("*") if path.is_file()}
    assert {path.name for path in (days[1] / "export").rglob("*") if path.is_file()} == {
        *files,
        "sequence.json",
    }
    for path in (path for path in full.rglob("*") if path.is_file()):
        made = days[1] / "export" / path.relative_to(full)
        assert made.read_bytes() == path.read_bytes(), path.name


def test_a_row_has_the_figures_of_metrics_json_and_counts_of_its_own(
    log: Path, walked: Path
) -> None:
    rows = {int(row["day"]): row for row in rows_of(walked)}
    assert list(rows) == [1, 2, 3, 4]
    had: dict[str, set[Any]] = {"user_id": set(), "item_id": set()}
    for day, row in rows.items():
        if day == EMPTY:
            assert {name for name, value in row.items() if value is not None} == {"day", "examples"}
            assert row["examples"] == 0
            continue
        parts = [0, 1] if day == 1 else [day]
        of_day = pq.read_table([log / f"log/day={n}/part.parquet" for n in parts])
        assert row["examples"] == len(of_day)
        for column, (count, new) in {
            "user_id": ("users", "new_users"),
            "item_id": ("items", "new_items"),
        }.items():
            seen = set(of_day[column].to_pylist())
            assert row[new] == len(seen - had[column]) > 0
            had[column] |= seen
            assert row[count] == len(had[column])
        assert row["prepare_s"] > 0
        assert row["train_s"] > 0
        assert row["export_s"] is None
        if day > 1:
            metrics = read(walked / f"{day}" / "metrics.json")
            for block in BLOCKS:
                for name in (*CUTOFFS, "queries"):
                    assert row[f"{block}/{name}"] == metrics[block][name]
            assert row["all/queries"] + metrics["all"]["unanswerable"] == len(of_day)
            assert row["score_s"] > 0
    assert rows[1]["all/HR@100"] is None


def test_a_line_for_each_day_and_a_picture(walked: Path) -> None:
    said = (walked / "said").read_text().splitlines()
    rows = rows_of(walked)
    assert [line.partition(":")[0] for line in said] == [row["day"] for row in rows]
    assert said[2] == "3: no rows: the model of 2 stays"
    found = f"warm HR@50 {rows[1]['warm/HR@50']:.4f}, HR@100 {rows[1]['warm/HR@100']:.4f}"
    assert found in said[1]
    assert f"{rows[3]['new_items']} new items; all pairs HR@50" in said[3]
    assert (walked / "daily.png").read_bytes().startswith(b"\x89PNG")
    assert not (walked / f"{EMPTY}").exists()


def test_done_days_are_passed_over_and_a_last_empty_one_is_walked_again(
    log: Path, walked: Path, tmp_path: Path
) -> None:
    """Day 3 comes late: after a walk to it, and before one to day 4."""
    late = tmp_path / "late"
    shutil.copytree(log, late)
    root = tmp_path / "root"
    said = done(walk(*daily_words(late, root, 1, EMPTY, "--no-export", "--keep", "1")))
    assert said.splitlines()[-1] == "3: no rows: the model of 2 stays"
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["2"]
    assert bits(root).items() <= bits(walked).items()
    write_log(tmp_path / "again", LAST + 1)
    (tmp_path / "again/log/day=3").rename(late / "log/day=3")
    said = done(walk(*daily_words(late, root, 1, LAST, "--no-export", "--keep", "1")))
    assert [line[:10] for line in said.splitlines()] == ["3: 300 exa", "4: 300 exa"]
    rows = rows_of(root)
    assert [row["examples"] for row in rows] == [600, 300, 300, 300]
    assert without_seconds(rows[:2]) == without_seconds(rows_of(walked)[:2])
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["4"]
    assert done(walk(*daily_words(late, root, 1, LAST, "--no-export", "--keep", "1"))) == ""


def walk_with_kills(words: list[str], root: Path, kills: int, longest_s: float, seed: int) -> None:
    """Walk to the end, killed so many times, at random moments of an undisturbed walk's time.

    A walk that ends before it is begun anew, with earlier moments.
    """
    rng = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    struck = missed = 0
    while True:
        with tempfile.TemporaryDirectory() as place:
            for name in ("out", "err"):
                Path(place, name).touch()
            process = context.Process(target=_main, args=(words, Path(place), {}))
            process.start()
            process.join(rng.uniform(0, longest_s) if struck < kills else LIMIT_S)
            if process.is_alive():
                assert struck < kills, "hangs"
                process.kill()
                process.join()
                struck += 1
                continue
            assert process.exitcode == 0, Path(place, "err").read_text()
            if struck == kills:
                return
            missed += 1
            assert missed <= kills, "hardly any walk is killed before its end"
            shutil.rmtree(root)
            longest_s *= 0.7


@pytest.mark.parametrize(
    ("kills", "export"),
    [(3, False), pytest.param(20 if WHOLE else 8, True, marks=pytest.mark.slow)],
)
def test_killed_at_random_moments_the_days_end_with_the_same_bits(
    kills: int, export: bool, log: Path, walked: Path, tmp_path: Path
) -> None:
    """SIGKILL to the driver alone: the steps' processes go with it."""
    flags = () if export else ("--no-export",)
    undisturbed, root = walked, tmp_path / "root"
    begin = time.monotonic()
    last = LAST if export else 2
    if export:
        undisturbed = tmp_path / "undisturbed"
        done(walk(*daily_words(log, undisturbed, FIRST, last)))
        longest_s = (time.monotonic() - begin) / (6 if WHOLE else 4)
    else:
        took = rows_of(walked)[:2]
        longest_s = sum(row[f"{step}_s"] or 0.0 for row in took for step in STEPS) / 2
    words = daily_words(log, root, FIRST, last, *flags)
    walk_with_kills(words, root, kills, longest_s, seed=kills)
    found, wanted = bits(root), bits(undisturbed)
    wanted = {name: of for name, of in wanted.items() if int(name.partition("/")[0]) <= last}
    if not export:
        wanted.pop("4/score", None)
    assert found.keys() == wanted.keys()
    for name, of in wanted.items():
        assert found[name] == of, name
    rows = without_seconds(rows_of(undisturbed))[: last - FIRST + 1]
    assert without_seconds(rows_of(root)) == rows
    assert not list(root.rglob("*.partial"))


def test_a_day_whose_rows_all_wait_is_read_again_with_the_next(tmp_path: Path) -> None:
    """Day 2 has one new user with one new item, who come again on day 4."""
    days = write_log(tmp_path, 5)
    new = {**days[2][0], "user_id": 900, "item_id": 901}
    for name, number in (("user", 900), ("item", 901)):
        rows = pq.read_table(tmp_path / f"{name}s.parquet").to_pylist()
        rows.append({**rows[0], f"{name}_id": number})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}s.parquet")
    again = [[new], [{**new, "time": 350}], [*days[4], {**new, "time": 450}]]
    for day, rows in enumerate(again, 2):
        shutil.rmtree(tmp_path / "log" / f"day={day}")
        write_day(tmp_path, day, rows)
    root, flags = tmp_path / "root", ("--no-export", "--admit-after", "3")
    said = done(walk(*daily_words(tmp_path, root, 1, 4, *flags)))
    waiting = "all rows wait (--admit-after): the model of 1 stays"
    assert said.splitlines()[1:3] == [f"2: {waiting}", f"3: {waiting}"]
    assert [bool(row["examples"]) for row in rows_of(root)] == [True, False, False, True]
    prepare = ["prepare", "parquet", *log_options(tmp_path), "--split", "none"]
    after = ("--after", f"{root / '1' / 'data'}", "--from", "2", "--to", "4")
    done(forked(*prepare, *after, "--out", f"{tmp_path / 'hand'}"))
    assert read(root / "4" / "data" / "sha256.json") == read(tmp_path / "hand" / "sha256.json")
    users = pq.read_table(root / "4" / "data" / "users.parquet", columns=["user_id", "trained"])
    assert {"user_id": 900, "trained": True} in users.to_pylist()
    assert done(walk(*daily_words(tmp_path, root, 1, 4, *flags))) == ""


def test_weights_of_labels_hold_for_every_day(log: Path, tmp_path: Path) -> None:
    """Day 1 has no purchases; the options of later starts must name the same weights."""
    root = tmp_path / "root"
    weights = ("--label", "event", "--label-weights")
    flags = ("--no-export", *weights, "click=1,cart=3,purchase=4.5")
    done(walk(*daily_words(log, root, 0, 1, *flags)))
    for day in (0, 1):
        found = pq.read_table(root / f"{day}" / "data" / "examples")["example_weight"]
        assert set(found.to_pylist()) == {1.0, 3.0, *([] if day else [4.5])}
    refused = walk(*daily_words(log, root, 0, 2, *flags[:-1], "click=1,cart=2,purchase=4.5"))
    assert refused.returncode == 2
    assert "was begun with --label-weights click=1,cart=3,purchase=4.5, and" in refused.stderr


def test_the_second_driver_on_a_root_is_refused(log: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with locked(root):
        refused = walk(*daily_words(log, root, 1, 2))
    assert refused.returncode == 2
    assert f"{root}: another `dat-rec daily` is at work here" in refused.stderr
    assert [path.name for path in root.iterdir()] == [".lock"]


NEW = ("--root", "ROOT", "--from", "1", "--to", "2")
OLD = ("--root", "WALKED", "--from", "1", "--to", "4", "--no-export")
REFUSED: list[tuple[tuple[str, ...], str]] = [
    ((*OLD, "LOG", "--history-length", "7"), "WALKED: was begun with --history-length 50, and th"),
    (
        (*OLD, "LOG", "--", "TRAIN", "--seed", "1"),
        "WALKED: was begun with train's options --epochs",
    ),
    (("--root", "WALKED", "--from", "2", "--to", "4", "LOG", "--", "TRAIN"), "--from 1, and this"),
    (("--root", "HELD", "--from", "1", "--to", "2", "LOG"), "HELD: holds a file and no daily.json"),
    ((*NEW, "LOG", "--split", "none"), "--split: is what each day decides: leave it out"),
    ((*NEW, "LOG", "--out", "x"), "--out: is what each day decides"),
    ((*NEW, "LOG", "--test_from=3"), "--test-from: is what each day decides"),
    ((*NEW, "LOG", "--", "--warm-start", "x"), "--warm-start behind --: is what each day decides"),
    ((*NEW, "LOG", "--", "--no-resume"), "--no-resume behind --: is what each day decides"),
    ((*NEW, "LOG", "--", "--validate-every", "2"), "--validate-every behind --: is what each"),
    (("--root", "ROOT", "--from", "1", "--to", "99999999999", "LOG"), "are more than 100000 days"),
    ((*NEW, "LOG", "--", "--epochs", "0"), "--epochs is 0: it must be 1 or more"),
    ((*NEW, "LOG", "--keep", "-1"), "--keep -1: must be at least 0"),
    ((*NEW, "LOG", "--deltas", "--no-export"), "--deltas and --no-export: there is nothing to"),
    (("--root", "ROOT", "--from", "2", "--to", "1", "LOG"), "the last day lies before the first"),
    (("--root", "ROOT", "--from", "a", "--to", "1", "LOG"), "--from a: is no day"),
    (("--root", "s3://b/x", "--from", "1", "--to", "2", "LOG"), "s3://b/x: s3 is no local disk"),
    ((*NEW, "--interactions", "nowhere"), "1: prepare: nowhere: no such file"),
    (("--root", "ROOT", "--from", "-9", "--to", "2", "LOG"), "-9: prepare: --to -9: "),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_is_refused_in_one_line(
    words: tuple[str, ...], message: str, log: Path, walked: Path, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.mkdir()
    (held / "a file").touch()
    places = {"ROOT": f"{tmp_path / 'root'}", "WALKED": f"{walked}", "HELD": f"{held}"}
    lists = {"LOG": log_options(log), "TRAIN": TRAIN}
    given = [one for word in words for one in lists.get(word, (places.get(word, word),))]
    before = json.dumps(bits(walked), sort_keys=True), (walked / "daily.parquet").read_bytes()
    refused = walk("daily", *given)
    assert refused.returncode == 2, refused.stderr
    lines = refused.stderr.strip().splitlines()
    assert len(lines) == 1, refused.stderr
    for place, path in places.items():
        message = message.replace(place, path)
    assert lines[0].startswith("dat-rec: error: ")
    assert message in lines[0]
    after = json.dumps(bits(walked), sort_keys=True), (walked / "daily.parquet").read_bytes()
    assert before == after
