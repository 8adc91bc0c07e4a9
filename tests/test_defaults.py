"""Defaults by the data: each rule at its bound, and where they come in."""

from dataclasses import replace
from pathlib import Path

import pytest

from dat_rec.commands.train import parse_train
from dat_rec.config import preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import ExampleFile, Feature, Schema
from dat_rec.defaults import as_begun, batch_size, by_data, defaults, words
from dat_rec.errors import UserError
from dat_rec.files import write_json
from dat_rec.option_marks import to_json

OUT = Path("/run")
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


def test_a_history_is_a_sum_over_its_root_where_most_are_not_full() -> None:
    modern = preset("modern", OUT, OUT)
    assert by_data(modern, schema(4999)).model.pooling == "sqrt"
    assert by_data(modern, schema(5000)).model.pooling == "mean"


@pytest.mark.parametrize("known", ["category", "age", "tag"])
def test_ids_alone_take_the_way_past_the_layers(known: str) -> None:
    modern = preset("modern", OUT, OUT)
    ids = by_data(modern, schema(5000))
    assert (ids.model.residual, ids.loss.temperature) == (True, 0.1)
    more = {
        "category": (*IDS[:3], replace(IDS[3], rows=3)),
        "age": (*IDS, Feature("age", "query", "age", 4)),
        "tag": (*IDS, Feature("tag", "item", "tag", 9, multi_valued=True)),
    }
    found = by_data(modern, schema(5000, more[known]))
    assert (found.model.residual, found.loss.temperature) == (False, 0.05)


def test_the_paper_stays_to_the_letter() -> None:
    paper = preset("paper", OUT, OUT)
    assert by_data(paper, schema(10)) == paper


def test_a_run_says_which_defaults_are_the_datas() -> None:
    found = by_data(preset("modern", OUT, OUT), schema(100))
    expected = ["--batch-size 128", "--model.pooling sqrt", "--model.residual"]
    assert words(found, schema(100)) == [*expected, "--loss.temperature 0.1"]
    assert words(replace(found, batch_size=64), schema(100))[0] == "--model.pooling sqrt"


def test_the_command_line_has_them_and_what_is_given_stands(planted: Dataset) -> None:
    arguments = ["--data", str(planted.folder), "--out", "run"]
    fitted = defaults("modern", planted.folder, Path("run"))
    assert fitted != preset("modern", planted.folder, Path("run"))
    assert parse_train(arguments) == fitted
    assert parse_train([*arguments, "--batch-size", "77"]).batch_size == 77
    assert parse_train([*arguments, "--preset", "paper"]).batch_size == 256
    fitted.check()


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
    run = replace(usual, batch_size=4096, model=model)
    assert as_begun(usual, run) == run
    assert as_begun(usual, replace(run, preset="two-tower")) == usual
    write_json(tmp_path / "config.json", to_json(run))
    data = ["--data", str(planted.folder)]
    assert parse_train([*data, "--out", str(tmp_path), "--resume"]).model == model
    begun = parse_train([*data, "--out", "next", "--warm-start", str(tmp_path)])
    assert (begun.model, begun.batch_size) == (model, 4096)
    assert parse_train([*data, "--out", str(tmp_path), "--overwrite"]).model == usual.model
