"""Each store answers as exact search does, and readers never see a half-filled one."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.publish.catalogue import Catalogue
from dat_rec.publish.publish import Published, publish
from dat_rec.retrieval.recommender import Recommender
from tests.publish.stores import Place, open_store
from tests.publish.world import CATEGORIES, ITEMS, assert_best, read_catalogue

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]


def put(place: Place, export: Path, **options: object) -> Published:
    with place.open() as store:
        return publish(export, store, "items", **options)  # type: ignore[arg-type]


def serves(place: Place) -> str | None:
    with place.open() as store:
        return store.serving()


def collections(place: Place) -> set[str]:
    with place.open() as store:
        return {name for name in store.collections() if name != "items"}


def test_top_10_of_10_000_items_are_those_of_exact_search(
    place: Place, exported: Path, queries: NDArray[np.float32]
) -> None:
    done = put(place, exported)
    assert (done.items, done.queries, done.k, done.recall) == (ITEMS, 31, 100, 1)
    for query in queries[[0, 4]]:
        assert_best(place.top(query, 10), exported, query, 10)
        assert_best(place.top(query, 100), exported, query, 100)
    # Users of the export, as `dat-rec recommend` answers them.
    recommended = Recommender.open(exported).top(["u1"], 10)
    ours = dict(zip(*(recommended[name].to_pylist() for name in ("item_id", "score")), strict=True))
    theirs = place.top(queries[0], 10)
    np.testing.assert_allclose([score for _, score in theirs], list(ours.values()), atol=1e-5)


def test_a_filter_gives_the_best_of_those_that_pass(
    place: Place, exported: Path, queries: NDArray[np.float32]
) -> None:
    put(place, exported)
    for category in CATEGORIES:
        assert_best(place.top(queries[0], 50, category), exported, queries[0], 50, category)


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_an_index_gives_all_k_with_true_scores(
    place: Place, exported: Path, queries: NDArray[np.float32], index: str
) -> None:
    if place.kind == "qdrant":
        if index == "ivf":
            with pytest.raises(UserError, match="--index ivf: this store has none, hnsw"):
                put(place, exported, index="ivf")
        return
    done = put(place, exported, index=index)
    assert done.recall >= 0.9
    ids, vectors, _ = read_catalogue(exported)
    scores = dict(zip(ids, vectors @ queries[1].astype(np.float64), strict=True))
    for category in (None, CATEGORIES[1]):
        found = place.top(queries[1], 100, category)
        assert len({item for item, _ in found}) == 100
        np.testing.assert_allclose(
            [score for _, score in found], [scores[item] for item, _ in found], atol=1e-5
        )
    best = sorted(scores.values(), reverse=True)[99] - 1e-5
    plain = place.top(queries[1], 100)
    assert np.mean([scores[item] >= best for item, _ in plain]) >= 0.9


def test_the_next_export_takes_the_place_of_the_last(
    place: Place, today: Path, tomorrow: Path, queries: NDArray[np.float32]
) -> None:
    first = put(place, tomorrow)
    assert first.collection.startswith("items_0001_")
    assert not first.dropped
    assert_best(place.top(queries[0], 100), tomorrow, queries[0], 100)
    assert put(place, tomorrow) == first._replace(queries=0)
    second = put(place, today)
    assert second.collection.startswith("items_0002_")
    assert not second.dropped
    assert_best(place.top(queries[0], 10), today, queries[0], 10)
    third = put(place, tomorrow)
    assert third.collection == first.collection.replace("0001", "0003")
    assert third.dropped == (first.collection,)
    assert_best(place.top(queries[0], 100), tomorrow, queries[0], 100)
    assert collections(place) == {second.collection, third.collection}
    assert put(place, tomorrow, keep=0).dropped == (second.collection,)
    assert collections(place) == {third.collection}


def test_what_a_failure_leaves_is_the_old_one(
    place: Place, today: Path, tomorrow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(place, tomorrow)
    batches = Catalogue.batches

    def cut(catalogue: Catalogue) -> Iterator[pa.RecordBatch]:
        yield next(batches(catalogue))
        raise UserError("no more")

    monkeypatch.setattr(Catalogue, "batches", cut)
    with pytest.raises(UserError, match="no more"):
        put(place, today)
    assert serves(place) == first.collection
    assert collections(place) == {first.collection}


def test_a_store_that_gives_other_items_is_not_switched_to(
    place: Place, today: Path, tomorrow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(place, tomorrow)
    batches = Catalogue.batches

    def swapped(catalogue: Catalogue) -> Iterator[pa.RecordBatch]:
        for batch in batches(catalogue):
            place_of = batch.schema.get_field_index("vector")
            vector = batch.column(place_of)
            turned = vector.take(pa.array(np.roll(np.arange(len(vector)), 1)))
            yield batch.set_column(place_of, batch.schema.field(place_of), turned)

    monkeypatch.setattr(Catalogue, "batches", swapped)
    with pytest.raises(UserError, match=r"exact search: query 1 of 31: item .* has the score"):
        put(place, today)
    assert serves(place) == first.collection
    assert collections(place) == {first.collection}


POINTS = {"postgres": ("batches", "switch", "drop")}
"""Where a publication is killed: amid filling, before the switch, and after it."""


def publish_and_die(kind: str, at: Path, export: Path, point: str, variables: dict) -> None:
    """In a process of its own."""
    os.environ.update(variables)
    store = open_store(kind, at)

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "batches":
        batches = Catalogue.batches

        def cut(catalogue: Catalogue) -> Iterator[pa.RecordBatch]:
            yield next(batches(catalogue))
            die()

        Catalogue.batches = cut  # type: ignore[method-assign]
    elif point == "drop":
        old = store.serving()
        drop = store.drop
        # Of before: what the last kill left is dropped first.
        store.drop = lambda name: die() if name == old else drop(name)  # type: ignore[method-assign]
    else:
        setattr(store, point, die)
    publish(export, store, "items", keep=0)


def test_killed_anywhere_the_old_one_serves_and_a_rerun_completes(
    place: Place, today: Path, tomorrow: Path, queries: NDArray[np.float32]
) -> None:
    if place.kind == "qdrant":
        pytest.skip("the client's local mode is in this process: no package brings the server")
    first = put(place, tomorrow)
    variables = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    context = multiprocessing.get_context("forkserver")
    for point in POINTS.get(place.kind, ("batches", "drop")):
        process = context.Process(
            target=publish_and_die, args=(place.kind, place.at, today, point, variables)
        )
        process.start()
        process.join(120)
        code = process.exitcode
        process.kill()
        process.join()
        assert code == -signal.SIGKILL, point
        now = serves(place)
        if point == "drop":
            assert now is not None
            assert now.startswith("items_0002_")
        else:
            assert now == first.collection
            assert_best(place.top(queries[0], 10), tomorrow, queries[0], 10)
    again = put(place, today, keep=0)
    assert again.queries == 0
    assert again.dropped == (first.collection,)
    assert_best(place.top(queries[0], 10), today, queries[0], 10)
    assert collections(place) == {again.collection}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "--k 0: it must be 1 or more"),
        ({"keep": -1}, "--keep -1: it must be 0 or more"),
        ({"min_recall": 2}, "--min-recall 2: it must be in 0 … 1"),
    ],
)
def test_options_are_checked(tomorrow: Path, options: dict, message: str) -> None:
    place = Place("lancedb", tomorrow / "lance")
    pytest.importorskip("lancedb")
    with pytest.raises(UserError, match=message):
        put(place, tomorrow, **options)


@pytest.mark.parametrize("name", ["Items", "1items", "items;drop", "i" * 32, "", "ünser"])
def test_names_that_are_no_names_are_refused(tomorrow: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("lancedb")
    with pytest.raises(UserError, match="--name"):
        publish(tomorrow, open_store("lancedb", tmp_path / "lance", "items"), name)
