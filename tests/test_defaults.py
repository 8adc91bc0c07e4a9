"""Defaults by the data: each rule at its bound, and where they come in."""

from dataclasses import replace
from pathlib import Path

import pytest

from dat_rec.commands.train import parse_train
from dat_rec.config import preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import DenseFeature, ExampleFile, Feature, Schema, Side
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.defaults import as_begun, batch_size, by_data, defaults, words
from dat_rec.errors import StoreError, UserError
from dat_rec.files import write_json
from dat_rec.option_marks import to_json
from dat_rec.storage.address import location
from tests.object_store import ObjectStore

OUT = Path("/run")
CONTRASTIVE = ("--loss.main", "contrastive")
IDS = (
    Feature("user", "query", "user", 101),
    Feature("history", "query", "item", 41, multi_valued=True),
    Feature("item", "item", "item", 41),
    Feature("category", "item", "category", 1),
)
"""100 users, 40 items; no item has a category."""


def schema(examples: int, features: tuple[Feature, ...] = IDS) -> Schema:
    return Schema(
        source="by hand",
        features=features,
        category="category",
        history_length=50,
        users=100,
        items=40,
        trained_items=40,
        examples=examples,
        tests=1,
        example_files=(ExampleFile("examples/part-0.parquet", examples),),
        split="random",
        rows_read=examples,
        rejected={},
    )


@pytest.mark.parametrize(
    ("examples", "size"),
    [(1, 128), (32_767, 128), (32_768, 256), (262_143, 1024), (262_144, 2048), (10**9, 2048)],
)
def test_an_epoch_has_128_steps_where_that_leaves_a_batch(examples: int, size: int) -> None:
    assert batch_size(schema(examples)) == size
    assert batch_size(schema(4 * examples), 4) == size


def test_a_history_is_a_sum_over_its_root_where_most_are_not_full() -> None:
    modern = preset("modern", OUT, OUT)
    assert by_data(modern, schema(4999)).model.pooling == "sqrt"
    assert by_data(modern, schema(5000)).model.pooling == "mean"


@pytest.mark.parametrize(
    ("examples", "categories", "share"), [(4999, 2, 0.9), (5000, 2, 0.0), (4999, 1, 0.0)]
)
def test_histories_answer_for_users_of_few_examples_where_more_is_known_than_ids(
    examples: int, categories: int, share: float
) -> None:
    features = (*IDS[:3], replace(IDS[3], rows=categories))
    found = by_data(preset("modern", OUT, OUT), schema(examples, features))
    assert found.examples.user_dropout == share


@pytest.mark.parametrize("known", ["category", "age", "tag"])
def test_ids_alone_take_the_way_past_the_layers(known: str) -> None:
    modern = preset("modern", OUT, OUT)
    ids = by_data(modern, schema(5000))
    assert (ids.model.residual, ids.loss.temperature, ids.loss.log_q) == (True, 0.2, 1.0)
    assert ids.loss.unknown_count == "one"
    more = {
        "category": (*IDS[:3], replace(IDS[3], rows=3)),
        "age": (*IDS, Feature("age", "query", "age", 4)),
        "tag": (*IDS, Feature("tag", "item", "tag", 9, multi_valued=True)),
    }
    found = by_data(modern, schema(5000, more[known]))
    assert (found.model.residual, found.loss.temperature) == (False, 0.05)
    assert found.loss.unknown_count == "typical"


@pytest.mark.parametrize(
    ("examples", "trained", "softmax"),
    [(262_144, 16_384, (0.1, 1.2)), (262_143, 16_384, (0.2, 1.0)), (262_144, 16_383, (0.2, 1.0))],
)
def test_ids_alone_have_a_sharper_softmax_from_many_examples_of_many_items(
    examples: int, trained: int, softmax: tuple[float, float]
) -> None:
    of = replace(schema(examples), items=20_000, trained_items=trained)
    loss = by_data(preset("modern", OUT, OUT), of).loss
    assert (loss.temperature, loss.log_q) == softmax


@pytest.mark.parametrize("side", ["query", "item"])
def test_a_dense_feature_is_more_than_ids(side: Side) -> None:
    dense = (DenseFeature("text", side, "vector", 8, 0.0, 1.0),)
    found = by_data(preset("modern", OUT, OUT), replace(schema(4999), dense=dense))
    assert (found.model.residual, found.loss.temperature) == (False, 0.05)
    assert found.examples.user_dropout == 0.9


def test_the_paper_stays_to_the_letter() -> None:
    paper = preset("paper", OUT, OUT)
    assert by_data(paper, schema(10)) == paper


def test_a_run_says_which_defaults_are_the_datas() -> None:
    found = by_data(preset("modern", OUT, OUT), schema(100))
    expected = ["--batch-size 128", "--model.pooling sqrt", "--model.residual"]
    expected += ["--loss.temperature 0.2", "--loss.log-q 1.0", "--loss.unknown-count one"]
    assert words(found, schema(100)) == expected
    assert words(replace(found, batch_size=64), schema(100))[0] == "--model.pooling sqrt"


def test_the_command_line_has_them_and_what_is_given_stands(planted: Dataset) -> None:
    arguments = ["--data", str(planted.folder), "--out", "run"]
    fitted = defaults("modern", planted.folder, Path("run"))
    assert fitted != preset("modern", planted.folder, Path("run"))
    assert parse_train(arguments) == fitted
    assert parse_train([*arguments, "--batch-size", "77"]).batch_size == 77
    assert parse_train([*arguments, "--preset", "paper"]).batch_size == 256
    fitted.check()


def test_who_hides_ids_by_a_share_of_their_own_hides_users_by_no_other(planted: Dataset) -> None:
    arguments = ["--data", str(planted.folder), "--out", "run"]
    assert parse_train(arguments).examples.user_dropout == 0.9
    none = parse_train([*arguments, "--examples.id-dropout", "0"]).examples
    assert (none.id_dropout, none.user_dropout) == (0.0, 0.0)
    both = [*arguments, "--examples.id-dropout=.1", "--examples.user-dropout=.3"]
    assert parse_train(both).examples.user_dropout == 0.3


def test_no_dataset_has_defaults(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a prepared dataset"):
        defaults("modern", tmp_path, OUT)
    usual = parse_train([f"--data={tmp_path}", "--out", "run"])
    assert usual == preset("modern", tmp_path, Path("run"))


def test_a_default_of_the_data_that_another_option_makes_void_is_no_fault() -> None:
    config = by_data(preset("modern", OUT, OUT), schema(100))
    replace(config, loss=replace(config.loss, main="contrastive")).check()


def test_a_run_that_is_gone_on_from_keeps_what_it_had(planted: Dataset, tmp_path: Path) -> None:
    usual = defaults("modern", planted.folder, tmp_path)
    model = replace(usual.model, pooling="mean" if usual.model.pooling == "sqrt" else "sqrt")
    loss = replace(usual.loss, temperature=0.07, log_q=0.9, popularity=0.0, unknown_count="one")
    examples = replace(usual.examples, user_dropout=0.0)
    run = replace(usual, batch_size=4096, model=model, loss=loss, examples=examples)
    assert as_begun(usual, run) == run
    assert as_begun(usual, replace(run, preset="two-tower")) == usual
    write_json(tmp_path / "config.json", to_json(run))
    data = ["--data", str(planted.folder)]
    assert parse_train([*data, "--out", str(tmp_path), "--resume"]).model == model
    begun = parse_train([*data, "--out", "next", "--warm-start", str(tmp_path)])
    assert (begun.model, begun.batch_size, begun.loss) == (model, 4096, loss)
    assert begun.examples == examples
    for flag in ("--warm-start", "--warm_start"):
        both = [*data, "--out", str(tmp_path / "next"), flag, str(tmp_path), "--resume"]
        assert parse_train(both).loss == loss
    other = parse_train([*data, "--out", "next", "--warm-start", str(tmp_path), *CONTRASTIVE])
    other.check()
    assert parse_train([*data, "--out", str(tmp_path), "--overwrite"]).model == usual.model


def test_defaults_make_room_for_what_is_given(tmp_path: Path) -> None:
    schema(100).save(tmp_path)
    ids = ["--data", str(tmp_path), "--out", "run"]
    assert parse_train(ids).model.residual
    wide = parse_train([*ids, "--model.output-dim", "64"])
    assert not wide.model.residual
    wide.check()
    asked = parse_train([*ids, "--model.output-dim", "64", "--model.residual"])
    with pytest.raises(UserError, match=r"--model\.residual with --model\.embedding-dim 32"):
        asked.check()
    parse_train([*ids, *CONTRASTIVE]).check()


def test_a_job_of_several_ranks_divides_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema(262_144).save(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert parse_train(["--data", str(tmp_path), "--out", "run"]).batch_size == 512


def test_a_dataset_in_a_store_has_the_same_ones(
    planted: Dataset, object_store: ObjectStore, tmp_path: Path
) -> None:
    """Published there, its schema lies below the manifest's prefix."""
    published = "s3://open/defaults/data"
    prepare(Synthetic(out=Path(published), users=300, items=200, interactions=9_000, categories=5))
    found, local = (
        parse_train(["--data", str(data), "--out", str(tmp_path)])
        for data in (published, planted.folder)
    )
    assert replace(found, data=local.data) == local
    assert local.model.pooling == "sqrt"
    away = location(published)
    assert replace(defaults("modern", away, tmp_path), data=local.data) == local
    other = "s3://open/defaults/nothing"
    assert parse_train(["--data", other, "--out", str(tmp_path)]).model.pooling == "mean"


def test_a_store_that_is_away_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> None:
        raise StoreError("s3://bucket/data: is away")

    monkeypatch.setattr(Schema, "load", away)
    with pytest.raises(StoreError, match="is away"):
        parse_train(["--data", "s3://bucket/data", "--out", "run"])
