"""Deltas applied: the full export, byte for byte, or a refusal and nothing, killed or not."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dat_rec.errors import UserError
from dat_rec.files import sha256
from dat_rec.retrieval.answer import load_export
from dat_rec.retrieval.delta.apply import apply
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.ranks import all_ranks
from dat_rec.retrieval.recommend import recommend
from dat_rec.storage.address import location
from dat_rec.storage.snapshot import local_copy
from tests.distributed.ranks import run_ranks
from tests.object_store import ObjectStore
from tests.retrieval.delta.chain import Chain, copied, day_run, small_parts
from tests.retrieval.raw_log import older


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


def ids_of(export: Path) -> tuple[set[int], set[str]]:
    """Items and users of an export."""
    items = pq.read_table(export / "items.parquet")["item_id"].to_pylist()
    return set(items), set(pq.read_table(export / "users")["user_id"].to_pylist())


def test_the_full_export_comes_out_byte_for_byte(chain: Chain, tmp_path: Path) -> None:
    for first in range(3):
        for last in range(first + 1, 4):
            out = tmp_path / f"{first}-{last}"
            root = chain.full[0].parent
            base = root / f"applied{first}" if first else chain.full[0]
            done = apply(base, chain.deltas[first:last], out)
            assert done.number == last
            made = contents(out)
            number = json.loads((out / "sequence.json").read_text())
            assert number == {"sequence": last, "export": made["export.json"]}
            del made["sequence.json"]
            assert made == contents(chain.full[last])
            assert len(made) > 12
    assert len(list(tmp_path.iterdir())) == 6


def test_a_delta_leads_from_an_older_releases_export_to_what_it_lacked(
    chain: Chain, tmp_path: Path
) -> None:
    base = older(chain.full[0], tmp_path / "base")
    with small_parts():
        export(chain.runs[1], tmp_path / "delta", since=base)
    assert (tmp_path / "delta" / "whole" / "inputs.json").exists()
    apply(base, [tmp_path / "delta"], tmp_path / "out")
    made = contents(tmp_path / "out")
    del made["sequence.json"]
    assert made == contents(chain.full[1])


def test_forgotten_ids_are_told_and_never_served(chain: Chain, tmp_path: Path) -> None:
    done = apply(chain.full[0], chain.deltas, tmp_path / "out")
    (old_items, old_users), (items, users) = ids_of(chain.full[0]), ids_of(tmp_path / "out")
    gone = old_items - items, old_users - users
    assert all(gone)
    told: list[set[Any]] = [set(), set()]
    for delta in chain.deltas:
        for number, (name, key) in enumerate([("items", "item_id"), ("users", "user_id")]):
            ids = pq.read_table(delta / "forgotten" / f"{name}.parquet")[key].to_pylist()
            told[number] |= set(ids)
    assert gone[0] <= told[0]
    assert gone[1] <= told[1]
    assert (done.forgotten.items, done.forgotten.users) == (len(told[0]), len(told[1]))
    loaded = load_export(tmp_path / "out")
    best = loaded.recommend(sorted(users), k=len(items))
    assert set(best.item_ids.ravel().tolist()) == items
    answers = loaded.recommend([*sorted(gone[1]), "nobody"], k=5)
    assert (answers.item_ids == answers.item_ids[-1]).all()


def test_a_delta_of_nothing_is_small_and_has_a_number_all_the_same(
    chain: Chain, tmp_path: Path
) -> None:
    with small_parts():
        made = export(chain.runs[0], tmp_path / "same", since=chain.full[0])
    assert made["base"] == made["result"]
    assert set(made["sha256"]) == {
        "result.json",
        "forgotten/items.parquet",
        "forgotten/users.parquet",
    }
    assert apply(chain.full[0], [tmp_path / "same"], tmp_path / "out").number == 1
    with pytest.raises(UserError, match=r"delta 1 cannot be applied to .*, number 1: it was app"):
        apply(tmp_path / "out", [tmp_path / "same"], tmp_path / "again")


def test_the_base_itself_may_be_replaced(chain: Chain, tmp_path: Path) -> None:
    live = copied(chain.full[0], tmp_path / "live")
    with pytest.raises(UserError, match="is already there"):
        apply(live, chain.deltas[:1], live)
    for day in (1, 2, 3):
        apply(live, [chain.deltas[day - 1]], live, overwrite=True)
        assert contents(live).items() > contents(chain.full[day]).items()
    assert [path.name for path in tmp_path.iterdir()] == ["live"]


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def signed(delta: Path, *names: str) -> None:
    """Write the digests of files anew, as somebody does who means to change them."""
    manifest = json.loads((delta / "delta.json").read_text())
    for name in names:
        manifest["sha256"][name] = sha256(delta / name)
    (delta / "delta.json").write_text(json.dumps(manifest))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def drop_last_row(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) - 1), path)


def another_row(delta: Path) -> None:
    """A delta that is whole, and gives another vector than the run has."""
    path = delta / "items" / "changed.parquet"
    table = pq.read_table(path)
    counts = table["train_count"].to_pylist()
    counts[0] += 1
    place = table.column_names.index("train_count")
    pq.write_table(table.set_column(place, table.schema.field(place), [counts]), path)
    signed(delta, "items/changed.parquet")


def fewer_forgotten(delta: Path) -> None:
    drop_last_row(delta / "forgotten" / "items.parquet")
    signed(delta, "forgotten/items.parquet")
    edit(delta / "delta.json", partial(count_forgotten, "items", -1))


def count_forgotten(kind: str, more: int, manifest: Any) -> None:
    manifest["forgotten"][kind] += more


def without_list(delta: Path) -> None:
    (delta / "forgotten" / "users.parquet").unlink()
    edit(delta / "delta.json", lambda v: v["sha256"].pop("forgotten/users.parquet"))


def name_outside(delta: Path) -> None:
    def change(value: Any) -> None:
        value["sha256"]["../evil.parquet"] = "0"

    edit(delta / "result.json", change)
    edit(delta / "delta.json", lambda v: v.update(result=sha256(delta / "result.json")))
    signed(delta, "result.json")


# What happens to a copy of day 0's export, and to copies of the three deltas.
HARMS: dict[str, tuple[Callable[[Path, list[Path]], Any], str]] = {
    "gap": (lambda _, d: d.pop(0), r"2 cannot be applied to .*, number 0: delta 1 must come first"),
    "gap inside": (lambda _, d: d.pop(1), r"3 cannot be applied to .*, number 1: delta 2 must c"),
    "repeat": (lambda _, d: d.insert(1, d[0]), r"delta 1 cannot be applied to .*, number 1: it wa"),
    "backwards": (lambda _, d: d.reverse(), r"delta 3 cannot be applied to .*, number 0: delta 1"),
    "last two exchanged": (lambda _, d: d.append(d.pop(1)), r"delta 3 cannot be applied"),
    "wrong base": (lambda b, d: d, r"delta 1 cannot .* number 0: it was made since another export"),
    "none": (lambda _, d: d.clear(), r"no delta is named"),
    "truncated": (lambda _, d: cut(d[1] / "users/changed.parquet"), r"changed\.parquet: damaged"),
    "bit of a row": (lambda _, d: flip(d[0] / "item_vectors/changed.parquet"), r"damaged"),
    "bit of the order": (lambda _, d: flip(d[2] / "items/order.parquet"), r"order.*: damaged"),
    "bit of result": (lambda _, d: flip(d[2] / "result.json"), r"result\.json: damaged"),
    "bit of tombstones": (lambda _, d: flip(d[0] / "forgotten/items.parquet"), r"damaged"),
    "file gone": (lambda _, d: (d[0] / "users/order.parquet").unlink(), r"order.*: is missing"),
    "file more": (lambda _, d: swap(d[0] / "x", d[0] / "delta.json"), r"x: delta\.json does not"),
    "another delta's file": (
        lambda _, d: swap(d[0] / "users/order.parquet", d[1] / "users/order.parquet"),
        r"order\.parquet: damaged",
    ),
    "truncated manifest": (
        lambda _, d: cut(d[1] / "delta.json"),
        r"delta\.json: .* not valid JSON",
    ),
    "manifest gone": (lambda _, d: (d[1] / "delta.json").unlink(), r"is no delta \(no delta\.json"),
    "field gone": (
        lambda _, d: edit(d[0] / "delta.json", lambda v: v.pop("base")),
        r"delta\.json: base is missing: fetch it anew",
    ),
    "tombstones not counted": (
        lambda _, d: edit(d[1] / "delta.json", lambda v: v["forgotten"].pop("users")),
        r"delta\.json: forgotten\.users is missing: fetch it anew",
    ),
    "other version": (
        lambda _, d: edit(d[0] / "delta.json", lambda v: v.update(version=2)),
        r"delta\.json: version 2, this program reads 1",
    ),
    "number changed": (
        lambda _, d: edit(d[0] / "delta.json", lambda v: v.update(sequence=2)),
        r"delta 2 cannot be applied .*: delta 1 must come first",
    ),
    "base changed": (
        lambda _, d: edit(d[1] / "delta.json", lambda v: v.update(base="0" * 64)),
        r"delta 2 cannot .*, number 1: it was made since another export",
    ),
    "result changed": (
        lambda _, d: edit(d[1] / "delta.json", lambda v: v.update(result="0" * 64)),
        r"result\.json is of another export",
    ),
    "row groups changed": (
        lambda _, d: edit(
            d[0] / "delta.json", lambda v: v["row_groups"].update({"items.parquet": [60]})
        ),
        r"gives another items\.parquet than its run's export",
    ),
    "row groups too many": (
        lambda _, d: edit(
            d[0] / "delta.json", lambda v: v["row_groups"].update({"items.parquet": [61]})
        ),
        r"items: has fewer rows than delta\.json says",
    ),
    "another pyarrow": (
        lambda _, d: edit(d[2] / "delta.json", lambda v: v.update(pyarrow="1.0.0")),
        r"was made with pyarrow 1\.0\.0, and here is .*: install that version",
    ),
    "row changed, and signed": (lambda _, d: another_row(d[0]), r"gives another items\.parquet"),
    "tombstone left out, and signed": (
        lambda _, d: fewer_forgotten(d[0]),
        r"forgotten/items\.parquet: holds other ids than the result lacks",
    ),
    "more tombstones counted": (
        lambda _, d: edit(d[1] / "delta.json", partial(count_forgotten, "users", 1)),
        r"delta\.json: forgotten\.users is \d+, and forgotten/users\.parquet has \d+ rows: fetch",
    ),
    "fewer tombstones counted": (
        lambda _, d: edit(d[0] / "delta.json", partial(count_forgotten, "items", -1)),
        r"delta\.json: forgotten\.items is \d+, and forgotten/items\.parquet has \d+ rows: fetch",
    ),
    "list of tombstones gone, and signed": (
        lambda _, d: without_list(d[0]),
        r"forgotten/users\.parquet: is no list of forgotten ids .*: fetch it anew",
    ),
    "a name outside, and signed": (lambda _, d: name_outside(d[0]), r"evil.* is no file of an exp"),
    "an export for a delta": (lambda b, d: d.insert(0, b), r"base is a full export \(no delta\.js"),
    "damaged base": (lambda b, _: flip(b / "index.faiss"), r"base/index\.faiss: damaged"),
    "base's part gone": (
        lambda b, _: (b / "users/part-00001.parquet").unlink(),
        r"part-00001\.parquet: No such file",
    ),
    "no base": (lambda b, _: (b / "export.json").unlink(), r"base is not an export"),
    "a delta for the base": (
        lambda b, d: [swap(b / "delta.json", d[0] / "delta.json"), (b / "export.json").unlink()],
        r"base is a delta: make a full export of it with `dat-rec apply`",
    ),
    "number of another export": (
        lambda b, _: (b / "sequence.json").write_text('{"sequence": 1, "export": "0"}'),
        r"sequence\.json: belongs to another export",
    ),
    "number that is none": (
        lambda b, _: (b / "sequence.json").write_text('{"sequence": 0, "export": "0"}'),
        r"sequence\.json: sequence is 0: it must be 1 or more",
    ),
}


@pytest.mark.parametrize("name", HARMS)
def test_what_is_broken_or_out_of_order_is_refused(chain: Chain, tmp_path: Path, name: str) -> None:
    harm, message = HARMS[name]
    day = 1 if name == "wrong base" else 0
    base = copied(chain.full[day], tmp_path / "base")
    deltas = [copied(delta, tmp_path / delta.name) for delta in chain.deltas]
    harm(base, deltas)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        apply(base, deltas, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_places_that_are_taken_are_refused(chain: Chain, tmp_path: Path) -> None:
    delta = copied(chain.deltas[0], tmp_path / "delta")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    for out, message in (
        (tmp_path / "mine", r"holds no export\.json"),
        (delta, "is a delta that is applied"),
        (delta / "within", "is a delta that is applied"),
        (delta.parent, "is a delta that is applied, or holds one"),
    ):
        with pytest.raises(UserError, match=message):
            apply(chain.full[0], [delta], out, overwrite=True)
    with pytest.raises(UserError, match=r"holds no delta\.json"):
        export(chain.runs[1], copied(chain.full[0], tmp_path / "full"), since=chain.full[0])
    with pytest.raises(UserError, match="is a delta: make a full export of it"):
        export(chain.runs[1], tmp_path / "out", since=delta)
    with pytest.raises(UserError, match="is a delta: make a full export of it"):
        recommend(delta, 3, tmp_path / "recs.parquet")
    assert contents(delta) == contents(chain.deltas[0])
    assert not (tmp_path / "out").exists()


def test_a_file_of_other_columns_than_are_compared_is_given_whole(tmp_path: Path) -> None:
    runs = [day_run(tmp_path / str(day), day) for day in (0, 1)]
    for day in (0, 1):
        path = tmp_path / str(day) / "data" / "items.parquet"
        table = pq.read_table(path)
        place = table.column_names.index("category_name")
        kinds = table["category_name"].dictionary_encode()
        pq.write_table(table.set_column(place, "category_name", kinds), path)
        export(runs[day], tmp_path / f"full{day}")
    made = export(runs[1], tmp_path / "delta", since=tmp_path / "full0")
    whole = [name for name in made["sha256"] if name.startswith("whole/")]
    assert whole == ["whole/golden.parquet", "whole/items.parquet"]
    apply(tmp_path / "full0", [tmp_path / "delta"], tmp_path / "out")
    assert contents(tmp_path / "out").items() > contents(tmp_path / "full1").items()


@pytest.mark.slow
def test_base_delta_and_result_may_lie_in_a_store(
    object_store: ObjectStore, chain: Chain, tmp_path: Path
) -> None:
    base, delta, out = (location(f"s3://open/chain/{name}") for name in ("base", "delta", "out"))
    with small_parts():
        export(chain.runs[0], base)
        export(chain.runs[1], delta, since=base)
    apply(base, [delta], out)
    with local_copy(out, "export.json") as copy:
        assert contents(copy).items() > contents(chain.full[1]).items()
    with pytest.raises(UserError, match=r"^s3://open/chain/out is already there"):
        apply(base, [delta], out)
    with pytest.raises(UserError, match=r"^s3://open/chain/delta: delta 1 cannot .*/out, number 1"):
        apply(out, [delta], tmp_path / "again")
    (key,) = (
        one for one in object_store.keys("chain/delta") if one.endswith("users/order.parquet")
    )
    object_store.put(key, object_store.get(key)[:-1])
    with pytest.raises(UserError, match=r"users/order\.parquet: is truncated, or was written anew"):
        apply(base, [delta], tmp_path / "again")
    assert list(tmp_path.iterdir()) == []


EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree", "shutil.copyfile"}


def die_at(moment: int, base: Path, deltas: list[Path], out: Path) -> None:
    """Apply, and be killed when a path that begins as ``out`` is touched for that time.

    With ``moment`` 0 nothing happens, but that the number of times is written down.
    """
    seen = 0

    def hook(event: str, arguments: Any) -> None:
        nonlocal seen
        if event in EVENTS and any(str(one).startswith(str(out)) for one in arguments):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    apply(base, deltas, out)
    out.with_name("moments").write_text(str(seen))


def forked(*arguments: Any) -> int | None:
    """The exit code of ``die_at``, in a process of its own."""
    process = multiprocessing.get_context("forkserver").Process(target=die_at, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def delta_of_ranks(run: Path, base: Path, out: Path) -> dict[str, str]:
    """Export a delta, as if the world were large."""
    with small_parts(), all_ranks():
        export(run, out, since=base)
    return contents(out)


def test_ranks_write_the_delta_of_one_process(chain: Chain, tmp_path: Path) -> None:
    written = run_ranks(delta_of_ranks, 2, chain.runs[1], chain.full[0], tmp_path / "delta")
    assert written == [contents(chain.deltas[0])] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["delta"]


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_nothing_that_passes_for_an_export(
    chain: Chain, tmp_path: Path
) -> None:
    given = (chain.full[0], chain.deltas[:2])
    assert forked(0, *given, tmp_path / "undisturbed") == 0
    moments, whole = int((tmp_path / "moments").read_text()), contents(chain.full[2])
    assert moments > 60
    for moment in [*range(1, moments - 9, 12), *range(moments - 9, moments + 1)]:
        out, partial = (tmp_path / f"{moment}{end}" for end in ("", ".partial"))
        assert forked(moment, *given, out) == -signal.SIGKILL
        if out.exists():
            assert contents(out).items() > whole.items()
        found = [path for path in (partial, *partial.rglob("*")) if path.is_dir()]
        for folder in found:
            if not contents(folder).items() >= whole.items():
                with pytest.raises(UserError, match=r"is not an export|not valid JSON"):
                    Export.open(folder)
        if not partial.exists() or (partial / ".unfinished").exists():
            apply(*given, out, overwrite=True)
            assert contents(out).items() > whole.items()
            assert not partial.exists()
