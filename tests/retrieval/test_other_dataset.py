"""A run scored on another dataset: its vectors by id and value, and nothing of the other's numbers.

Two days of a log with their own numbering (``days.py``). Of today's users and items some are
yesterday's, some new, and some of yesterday's have no training today. What is expected is computed
from the days' files and the saved weights by plain lookups.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from dat_rec.config import LossConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.rows import copy_rows
from dat_rec.data.schema import Schema
from dat_rec.errors import UserError
from dat_rec.files import sha256
from dat_rec.retrieval import encode, fit_blend, ranking
from dat_rec.retrieval.evaluate import evaluate
from dat_rec.retrieval.evaluation_text import text
from dat_rec.retrieval.export import export
from dat_rec.retrieval.feature_rows import FeatureRows
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranks import all_ranks
from dat_rec.retrieval.trained import load_model
from dat_rec.runs.figures import metrics_words, read_metrics
from tests.checkpoint.saved import saved_tensors
from tests.distributed.ranks import run_ranks
from tests.end_to_end.days import meanings, write_day
from tests.retrieval import brute_force
from tests.retrieval.world import write_run

LOSS = LossConfig(popularity=0.6)
ID = {"users": "user_id", "items": "item_id"}


def made_run(folder: Path, data: Path) -> Path:
    """A run that keeps its rows, as a training does."""
    run = write_run(folder, data, loss=LOSS)
    copy_rows(data, run / "rows")
    Schema.load(data).save(run)
    return run


class World(NamedTuple):
    yesterday: Path
    today: Path
    run: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("days")
    yesterday = write_day(root / "1", range(80), range(60), text=False, seed=1)
    days = (range(30, 110), range(20, 80))
    today = write_day(root / "2", *days, text=True, seed=2, rows=350, test_share=0.4)
    return World(yesterday, today, made_run(root / "run", yesterday))


@pytest.fixture
def run(world: World, tmp_path: Path) -> Path:
    """A copy, to write in."""
    return Path(shutil.copytree(world.run, tmp_path / "run"))


def ids_of(data: Path, name: str) -> list[str]:
    return [str(one) for one in pq.read_table(data / f"{name}.parquet")[ID[name]].to_pylist()]


def rows_by_hand(world: World, name: str) -> dict[str, list[list[int]]]:
    """By feature, the run's rows that each of today's users or items looks up."""
    table = pq.read_table(world.today / f"{name}.parquet").to_pylist()
    found: dict[str, list[list[int]]] = {}
    for feature in Schema.load(world.yesterday).side("query" if name == "users" else "item"):
        before = meanings(world.yesterday, feature.table)
        if feature.name in ("user", "item"):
            found[feature.name] = [[before.get(str(row[ID[name]]), 0)] for row in table]
            continue
        value_of = {row: value for value, row in meanings(world.today, feature.table).items()}
        found[feature.name] = [
            [before.get(value_of[number], 0) for number in numbers]
            for row in table
            for numbers in [row[feature.name] if feature.multi_valued else [row[feature.name]]]
        ]
    return found


def vectors_by_hand(world: World, name: str) -> NDArray[np.float64]:
    """(users or items, 8): the towers' of the run, fed with its saved rows."""
    (checkpoint,) = (world.run / "checkpoints").iterdir()
    saved = saved_tensors(checkpoint)
    rows = rows_by_hand(world, name)
    inputs = []
    for feature in Schema.load(world.yesterday).side("query" if name == "users" else "item"):
        weight = saved[f"tables/dat.embeddings.{feature.table}/weight"]
        bags = [weight[one].mean(dim=0) if one else torch.zeros(8) for one in rows[feature.name]]
        inputs.append(torch.stack(bags))
    own = name[:-1]
    augmented = saved[f"tables/dat.augmented.augmented_{own}/weight"]
    inputs.append(torch.stack([augmented[row] for (row,) in rows[own]]))
    model = load_model(world.run).model
    tower = model.query_tower if name == "users" else model.item_tower
    with torch.no_grad():
        return tower(torch.cat(inputs, dim=1)).double().numpy()


def scores_by_hand(world: World) -> NDArray[np.float64]:
    """(users, items)"""
    counts = dict(
        zip(
            ids_of(world.yesterday, "items"),
            pq.read_table(world.yesterday / "items.parquet")["train_count"].to_pylist(),
            strict=True,
        )
    )
    # What is unknown is as popular as what was trained is in the geometric mean.
    typical = np.exp(np.log([count for count in counts.values() if count]).mean())
    taken = np.array([counts.get(one) or typical for one in ids_of(world.today, "items")])
    popular = LOSS.temperature * 0.6 * np.log(taken / max(counts.values()))
    return vectors_by_hand(world, "users") @ vectors_by_hand(world, "items").T + popular


def known_rows(world: World, name: str) -> set[int]:
    before = meanings(world.yesterday, name[:-1])
    return {row for row, one in enumerate(ids_of(world.today, name)) if one in before}


def known_values(world: World, table: str) -> dict[str, int]:
    before, now = (meanings(day, table).keys() for day in (world.yesterday, world.today))
    return {"known": len(now & before), "unknown": len(now - before)}


def test_the_days_differ_as_they_must(world: World) -> None:
    """Otherwise what follows would show nothing."""
    protocol = Protocol.read(Dataset.open(world.today))
    asked = {"users": protocol.user_row, "items": protocol.item_index}
    trained = {"users": protocol.user_trained, "items": protocol.train_count > 0}
    for name, rows in asked.items():
        known = np.isin(rows, list(known_rows(world, name)))
        for is_known in (True, False):
            for is_trained in (True, False):
                kind = (known == is_known) & (trained[name][rows] == is_trained)
                assert kind.any(), (name, is_known, is_trained)
        before, now = (meanings(day, name[:-1]) for day in (world.yesterday, world.today))
        assert any(before[one] != now[one] for one in before.keys() & now.keys())


def test_metrics_are_those_of_the_runs_vectors_by_id(world: World, run: Path) -> None:
    evaluate(run, world.today)
    found = json.loads((run / "metrics.json").read_text("utf-8"))
    scores = scores_by_hand(world).round(6)
    known = known_rows(world, "users"), known_rows(world, "items")
    protocol = Protocol.read(Dataset.open(world.today))
    expected = brute_force.metrics(
        protocol, lambda user, item: scores[user, item], (20, 50, 100), known
    )
    assert expected["warm"]["queries"] > 5 < expected["cold"]["queries"]
    assert found.pop("dataset") == "parquet"
    assert found.pop("checkpoint") == 12
    assert found.pop("asked") == found.pop("tests") == len(protocol.user_row)
    assert found.pop("matched") == {
        "data": str(world.today),
        "row_digest": Dataset.open(world.today).row_digest(),
        "users": {"known": len(known[0]), "unknown": protocol.user_trained.size - len(known[0])},
        "items": {"known": len(known[1]), "unknown": protocol.train_count.size - len(known[1])},
        "values": {table: known_values(world, table) for table in ("city", "genre", "price")},
    }
    baselines = found.pop("baselines")
    assert found.pop("baselines_left_out") == {}
    assert brute_force.approximately(found) == brute_force.approximately(expected)
    # The baselines are today's, and their rows have the model's queries.
    popular = brute_force.metrics(
        protocol, lambda _, item: int(protocol.train_count[item]), (20, 50, 100), known
    )
    del popular["by_category"], popular["all"]["unanswerable"]
    assert brute_force.approximately(baselines["MostPop"]) == brute_force.approximately(popular)
    for name, blocks in baselines.items():
        for block in ("all", "warm", "cold"):
            assert blocks[block]["queries"] == found[block]["queries"], name


def test_every_feature_reads_the_runs_row_or_the_unknown_one(world: World) -> None:
    """Of the catalogue and the users, whole and by row groups."""
    dataset = load_model(world.run, world.today, match=True).dataset
    for name, whole in (("users", dataset.user_columns()), ("items", dataset.item_columns())):
        expected = rows_by_hand(world, name)
        source = FeatureRows(dataset, name)  # type: ignore[arg-type]
        every_third = np.arange(0, source.rows, 3)
        for columns, rows in (
            (whole, np.arange(source.rows)),
            (source.take(every_third), every_third),
        ):
            assert columns.keys() == expected.keys()
            for feature, column in columns.items():
                ends = np.cumsum(column.lengths())[:-1]
                bags = [bag.tolist() for bag in np.split(column.values, ends)]
                assert bags == [expected[feature][row] for row in rows], feature
        own = expected[name[:-1]]
        assert sum(row == [0] for row in own) == len(own) - len(known_rows(world, name))
    history = rows_by_hand(world, "users")["history"]
    assert any(0 in bag for bag in history)
    assert any(any(bag) for bag in history)


class Renumbered:
    """A dataset with the same content, whose rows are numbered anew."""

    def __init__(self, data: Path, seed: int) -> None:
        self._data, self._rng = data, np.random.default_rng(seed)
        schema = Schema.load(data)
        self._table = {feature.name: feature.table for feature in schema.features}
        trained = pq.read_table(data / "users.parquet")["trained"].to_numpy()
        self._order = {
            "users": self._shuffled(int(trained.sum()), schema.users),
            "items": self._shuffled(schema.trained_items, schema.items),
        }
        self._new = {
            name: np.argsort(order) for name, order in self._order.items()
        }  # by old place, the new one
        rows = {feature.table: feature.rows for feature in schema.features}
        self._rows = {
            table: np.append(0, 1 + self._rng.permutation(number - 1))
            for table, number in rows.items()
        }
        for table, name in (("user", "users"), ("item", "items")):
            self._rows[table] = np.append(0, 1 + self._new[name][: rows[table] - 1])

    def _shuffled(self, trained: int, all_rows: int) -> NDArray[np.int64]:
        """Old places in their new order: what is trained stays in front."""
        rest = trained + self._rng.permutation(all_rows - trained)
        return np.append(self._rng.permutation(trained), rest)

    def _mapped(self, table: pa.Table) -> pa.Table:
        for at, name in enumerate(table.column_names):
            column = table[name].combine_chunks()
            if name in self._table:
                new = pa.array(self._rows[self._table[name]])
                if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
                    values = new.take(column.values).cast(column.type.value_type)
                    column = type(column).from_arrays(column.offsets, values)
                else:
                    column = new.take(column)
            elif name in ("user_row", "item_index"):
                column = pa.array(self._new["users" if name == "user_row" else "items"]).take(
                    column
                )
            table = table.set_column(at, name, column)
        return table

    def write(self, out: Path) -> Path:
        shutil.copytree(self._data, out, ignore=shutil.ignore_patterns("sha256.json", ".*"))
        for path in sorted(out.rglob("*.parquet")):
            table = pq.read_table(path)
            path.unlink()
            if path.parent.name == "vocabularies":
                new = pa.array(self._rows[path.stem]).take(table["index"].combine_chunks())
                table = table.set_column(table.column_names.index("index"), "index", new)
                table = table.sort_by("index")
            else:
                table = self._mapped(table)
            if path.stem in self._order:
                table = table.take(pa.array(self._order[path.stem]))
            if path.stem == "seen":
                table = table.sort_by([("user_row", "ascending"), ("item_index", "ascending")])
            pq.write_table(table, path)
        return out


def test_the_same_content_in_other_rows_has_the_same_figures(
    world: World, run: Path, tmp_path: Path
) -> None:
    """Of equal scores none is among trained items, so that lists are the same too."""
    other = Renumbered(world.yesterday, 3).write(tmp_path / "other")
    assert Dataset.open(other).row_digest() != Dataset.open(world.yesterday).row_digest()
    own = evaluate(run, world.yesterday, fitted_baselines=False, blend_history=True)
    assert "matched" not in own
    found = evaluate(run, other, fitted_baselines=False, blend_history=True)
    matched = found.pop("matched")
    # Who has no training stands in no row of the run, here or there.
    for name in ("users", "items"):
        assert matched[name]["known"] == len(meanings(world.yesterday, name[:-1]))
    assert found["blend"]["settings"] == own["blend"]["settings"]
    assert brute_force.approximately(found) == brute_force.approximately(own)


def in_small_blocks_evaluated(run: Path, data: Path) -> str:
    """As if the days were large; the SHA-256 of metrics.json."""
    encode.ROWS, encode.TOWER_ROWS, ranking.COLUMNS, fit_blend.CUTOFF = 7, 3, 5, 20
    with all_ranks():
        evaluate(run, data, fitted_baselines=False, blend_history=True)
    return sha256(run / "metrics.json")


def test_two_ranks_write_what_one_writes(world: World, run: Path) -> None:
    (alone,) = run_ranks(in_small_blocks_evaluated, 1, run, world.today)
    (run / "metrics.json").unlink()
    assert set(run_ranks(in_small_blocks_evaluated, 2, run, world.today)) == {alone}


def test_the_text_and_the_status_say_on_which_dataset(world: World, run: Path) -> None:
    metrics = evaluate(run, world.today, fitted_baselines=False)
    users, items = (len(known_rows(world, name)) for name in ("users", "items"))
    values = known_values(world, "city")
    (line,) = (line for line in text(metrics).splitlines() if "matched by id" in line)
    assert line.startswith(
        f"on {world.today}, its rows matched by id: the run knows {users} of 80 users, {items} of "
        f"60 items, {values['known']} of {sum(values.values())} values of city, "
    )
    read = read_metrics(run)
    assert read is not None
    assert metrics_words(read).startswith(f"step 12 on {world.today}: all pairs HR@50 ")


def with_other_counts(data: Path, out: Path) -> Path:
    """The same rows; what was popular is not."""
    shutil.copytree(data, out)
    path = out / "items.parquet"
    table = pq.read_table(path)
    trained = Schema.load(data).trained_items
    counts = table["train_count"].to_numpy()
    counts = np.append(counts[:trained][::-1], counts[trained:])
    assert (counts != table["train_count"].to_numpy()).any()
    at = table.column_names.index("train_count")
    pq.write_table(table.set_column(at, "train_count", pa.array(counts)), path)
    return out


def test_popularity_is_the_runs_own_whatever_the_dataset_counts(
    world: World, run: Path, tmp_path: Path
) -> None:
    """A run of a release that kept no counts has those of the dataset with its rows alone."""
    new = with_other_counts(world.yesterday, tmp_path / "new")
    wanted = load_model(run).model.popularity_R
    assert wanted is not None
    found = load_model(run, new).model.popularity_R
    assert found is not None
    assert torch.equal(found, wanted)
    matched = load_model(run, world.today, match=True).model.popularity_R
    assert matched is not None
    assert torch.equal(matched, wanted)
    older(run)
    old = load_model(run).model.popularity_R
    assert old is not None
    assert torch.equal(old, wanted)
    theirs = load_model(run, new).model.popularity_R
    assert theirs is not None
    assert not torch.equal(theirs, wanted)


def older(run: Path) -> None:
    """As the releases before kept the items' rows."""
    path = run / "rows/items.parquet"
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(table.drop_columns(["train_count"]), path)


def test_an_older_run_without_popularity_is_scored(world: World, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", world.yesterday, loss=LossConfig(main="bpr"))
    copy_rows(world.yesterday, run / "rows")
    Schema.load(world.yesterday).save(run)
    older(run)
    assert evaluate(run, world.today, fitted_baselines=False)["matched"]["users"]["known"]


def edited(data: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy with another schema.json."""
    shutil.copytree(data, out)
    schema = json.loads((out / "schema.json").read_text())
    change(schema)
    (out / "schema.json").write_text(json.dumps(schema))
    return out


def feature(schema: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (one for one in schema["features"] if one["name"] == name)
    return dict(found)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    def change(schema: dict[str, Any]) -> None:
        schema["features"] = [one for one in schema["features"] if one["name"] != name]

    return change


def with_feature(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(schema: dict[str, Any]) -> None:
        schema["features"] = [
            one | changes if one["name"] == name else one for one in schema["features"]
        ]

    return change


def cut_vocabulary(run: Path) -> None:
    path = run / "rows/vocabularies/city.parquet"
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(table.filter(pc.less(table["index"], 3)), path)


def nothing(_: Any) -> None:
    pass


REFUSED: dict[str, tuple[Callable[[Path], None], Callable[[dict[str, Any]], None], str]] = {
    "no rows": (
        lambda run: shutil.rmtree(run / "rows"),
        nothing,
        "RUN: does not say what its rows stand for (no rows/), and DATA has other ones",
    ),
    "no counts": (older, nothing, "RUN: does not say how often its items were trained on"),
    "rows cut short": (
        cut_vocabulary,
        nothing,
        "RUN/rows tells what 3 rows of city stand for, and the table has 6",
    ),
    "no feature": (
        nothing,
        without("city"),
        "DATA: has no feature 'city', which the towers of RUN take",
    ),
    "another side": (
        nothing,
        with_feature("price", side="query"),
        "DATA: feature 'price' is one value of table 'price' for the query tower, and was one "
        "value of table 'price' for the item tower when RUN was trained",
    ),
    "lists": (
        nothing,
        with_feature("city", multi_valued=True),
        "DATA: feature 'city' is lists of values of table 'city' for the query tower, and was one",
    ),
    "another history": (
        nothing,
        lambda schema: schema.update(history_length=20),
        "DATA: history_length is 20, and was 50 when RUN was trained: prepare it with the options",
    ),
    "another kind of history": (
        nothing,
        lambda schema: schema.update(histories="others"),
        "DATA: histories is others, and was earlier when RUN was trained",
    ),
}


@pytest.mark.parametrize(("spoil", "change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_matched_is_refused_in_a_line(
    spoil: Callable[[Path], None],
    change: Callable[[dict[str, Any]], None],
    words: str,
    world: World,
    run: Path,
    tmp_path: Path,
) -> None:
    spoil(run)
    data = edited(world.today, tmp_path / "data", change)
    with pytest.raises(UserError) as error:
        evaluate(run, data)
    said = str(error.value)
    assert said.startswith(words.replace("RUN", str(run)).replace("DATA", str(data)))
    assert "\n" not in said
    assert "--warm-start" not in said
    assert not (run / "metrics.json").exists()


def test_features_that_the_towers_do_not_take_are_passed_over(world: World, tmp_path: Path) -> None:
    """A run of a day without cities, on a day that has them, and in another order."""
    plain = edited(world.yesterday, tmp_path / "plain", without("city"))
    run = made_run(tmp_path / "run", plain)
    first = evaluate(run, world.today, fitted_baselines=False)

    def turned(schema: dict[str, Any]) -> None:
        schema["features"] = schema["features"][::-1]

    other = edited(world.today, tmp_path / "other", turned)
    second = evaluate(run, other, fitted_baselines=False)
    assert {**first, "matched": None} == {**second, "matched": None}


def test_without_data_and_in_export_other_rows_are_refused(
    world: World, run: Path, tmp_path: Path
) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data": str(world.today)}))
    words = "stand in other embedding rows"
    with pytest.raises(UserError, match=words):
        evaluate(run)
    with pytest.raises(UserError, match=words):
        export(run, tmp_path / "out", world.today)
    assert not (tmp_path / "out").exists()
