"""Configurations: what the presets stand for, what is refused, and JSON there and back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dat_rec.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    Preset,
    TrainConfig,
    differences,
    from_json,
    may_change_on_resume,
    preset,
)
from dat_rec.errors import UserError
from dat_rec.option_marks import to_json
from dat_rec.storage.address import Address

DATA, OUT = Path("/data"), Path("/out")

MODERN: dict[str, Any] = {
    "seed": 0,
    "epochs": 4,
    "batch_size": 2048,
    "model.embedding_dim": 32,
    "model.hidden": (256, 128),
    "model.output_dim": 32,
    "model.last_relu": False,
    "model.augment": True,
    "model.pooling": "mean",
    "model.residual": False,
    "model.linear": False,
    "model.precision": "float32",
    "model.fp16_tables": (),
    "model.generate": False,
    "loss.main": "softmax",
    "loss.negatives": 1,
    "loss.shared_negatives": 0,
    "loss.in_batch": True,
    "loss.queue": 0,
    "loss.negative_power": 0.0,
    "loss.temperature": 0.05,
    "loss.learn_temperature": False,
    "loss.log_q": 1.2,
    "loss.own_log_q": True,
    "loss.popularity": 0.75,
    "loss.unknown_count": "typical",
    "loss.margin": 0.9,
    "loss.negative_weight": 150.0,
    "loss.mimic_user": 0.5,
    "loss.mimic_item": 0.5,
    "loss.alignment": 1.0,
    "optimizer.table": "rowwise_adagrad",
    "optimizer.table_lr": 0.05,
    "optimizer.tower_lr": 0.001,
    "optimizer.warmup_steps": 100,
    "optimizer.decay": "linear",
    "optimizer.table_init": 0.05,
    "optimizer.table_start": "random",
    "examples.id_dropout": 0.05,
    "examples.user_dropout": 0.0,
    "examples.skip_repeats": False,
    "examples.bad_ids": "refuse",
    "examples.shuffle_mb": 512,
    "examples.lanes": 0,
    "warm_start": None,
    "validation_queries": 20_000,
    "stop_by": "new_pairs/HR@100",
}
"""All that decides a run's numbers, or what its validations measure."""
PAPER = MODERN | {
    "batch_size": 256,
    "model.last_relu": True,
    "loss.main": "bce",
    "loss.negatives": 4,
    "examples.id_dropout": 0.0,
}
TWO_TOWER = MODERN | {
    "model.augment": False,
    "loss.mimic_user": 0.0,
    "loss.mimic_item": 0.0,
    "loss.alignment": 0.0,
}
HOW_IT_RUNS = {
    "data",
    "out",
    "preset",
    "resume",
    "overwrite",
    "mirror",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "validate_every",
    "patience",
    "background_saves",
    "disk_patience_s",
    "log_every",
    "log_to",
    "matmul",
    "softmax",
    "device",
    "sharding_types",
    "pin",
    "memory_gb",
    "topology",
    "comms",
    "sharding_group_size",
    "timeout_s",
    "preflight",
}
"""Fields that say where and how, and leave the numbers as they are, but for rounding."""

OTHER = TrainConfig(
    data=DATA,
    out=OUT,
    preset="paper",
    seed=7,
    epochs=2,
    batch_size=64,
    resume=True,
    warm_start=Path("/yesterday"),
    overwrite=True,
    mirror=Address("s3", "bucket", "run"),
    checkpoint_every=5,
    keep_checkpoints=3,
    keep_best=1,
    validate_every=3,
    validation_queries=5,
    stop_by="all/MRR",
    patience=2,
    background_saves=False,
    disk_patience_s=60,
    log_every=2,
    log_to=("tensorboard", "wandb"),
    device="cpu",
    sharding_types=("row_wise",),
    pin=("item=row_wise",),
    memory_gb=1.5,
    topology=Path("/topology.json"),
    comms="bf16",
    sharding_group_size=2,
    timeout_s=30,
    preflight=False,
    model=ModelConfig(
        8,
        (16, 12, 10),
        8,
        True,
        False,
        "sqrt",
        residual=True,
        linear=True,
        precision="float64",
        fp16_tables=("item", "augmented_*"),
        generate=True,
    ),
    loss=LossConfig(
        "bce", 2, negative_power=0.5, log_q=0.0, mimic_user=0.0, mimic_item=0.0, alignment=1.3
    ),
    optimizer=OptimizerConfig("adagrad", 0.1, 0.01, 3, "none", 0.2),
    examples=DataConfig(0.1, 0.3, True, "unknown", 8, 3),
)
USUAL = [
    *(
        "data",
        "out",
        "matmul",
        "softmax",
        "loss.shared_negatives",
        "loss.in_batch",
        "loss.queue",
        "loss.temperature",
    ),
    *("loss.learn_temperature", "loss.own_log_q", "loss.popularity", "loss.unknown_count"),
    *("loss.margin", "loss.negative_weight", "optimizer.table_start"),
]
"""Its only fields as by default; those of other losses would be void beside bce."""


def flat(config: TrainConfig) -> dict[str, Any]:
    """Every field by its dotted name."""
    result: dict[str, Any] = {}
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            result |= {f"{name}.{inner}": worth for inner, worth in vars(value).items()}
        else:
            result[name] = value
    return result


def changed(field: str, value: object) -> TrainConfig:
    """The ``modern`` preset but for one field."""
    config = preset("modern", DATA, OUT)
    group, _, inner = field.rpartition(".")
    if group:
        return dataclasses.replace(
            config, **{group: dataclasses.replace(getattr(config, group), **{inner: value})}
        )
    return dataclasses.replace(config, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"), [("modern", MODERN), ("paper", PAPER), ("two-tower", TWO_TOWER)]
)
def test_presets(name: Preset, expected: dict[str, Any]) -> None:
    config = preset(name, DATA, OUT)
    fields = flat(config)
    assert {field: fields[field] for field in fields.keys() - HOW_IT_RUNS} == expected
    assert (config.data, config.out, config.preset) == (DATA, OUT, name)
    config.check()


POSITIVE = (
    "epochs",
    "batch_size",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "timeout_s",
    "model.embedding_dim",
    "model.output_dim",
)
NOT_NEGATIVE = (
    "seed",
    "keep_best",
    "validate_every",
    "validation_queries",
    "patience",
    "memory_gb",
    "sharding_group_size",
    "loss.negatives",
    "loss.shared_negatives",
    "loss.queue",
    "loss.negative_power",
    "loss.log_q",
    "loss.negative_weight",
    "loss.mimic_user",
    "loss.mimic_item",
    "loss.alignment",
    "optimizer.table_lr",
    "optimizer.tower_lr",
    "optimizer.warmup_steps",
    "optimizer.table_init",
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in POSITIVE for value in (0, -1)),
        *((field, -1) for field in NOT_NEGATIVE),
        *((field, float(bad)) for field in NOT_NEGATIVE for bad in ("nan", "inf")),
        *(("loss.temperature", value) for value in (0.0, -0.1, float("nan"), float("inf"))),
        *(("loss.margin", value) for value in (-1.1, 1.0, float("nan"))),
        *(("examples.id_dropout", value) for value in (-0.1, 1.0, float("nan"))),
        *(("examples.user_dropout", value) for value in (-0.1, 1.0, float("nan"))),
    ],
)
def test_a_bad_value_is_refused_by_its_option(field: str, value: float) -> None:
    option = "--" + field.replace("_", "-")
    with pytest.raises(UserError) as raised:
        changed(field, value).check()
    assert str(raised.value).startswith(f"{option} is {value}: it must be ")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.hidden", (16, 0), "--model.hidden is 0: it must be 1 or more"),
        ("sharding_types", (), "--sharding-types is []: it must have 1 or more"),
        ("log_to", (), "--log-to is []: it must have 1 or more"),
        ("pin", ("item=row_wise", "item=rows"), "--pin item=rows: 'rows' is none of"),
        ("memory_gb", 1e300, "--memory-gb is 1e+300: it must be at most 1048576"),
        ("seed", 2**63, f"--seed is {2**63}: it must be below {2**63}"),
        ("timeout_s", 604_801, "--timeout-s is 604801: it must be at most 604800"),
        (
            "loss",
            LossConfig(main="bce", negatives=0),
            "--loss.main bce needs negatives: pass --loss.negatives 1 or more",
        ),
        (
            "loss",
            LossConfig(main="bce", shared_negatives=8),
            "--loss.shared-negatives is 8, and does nothing with --loss.main bce",
        ),
        (
            "loss",
            LossConfig(main="bce", queue=1),
            "--loss.queue is 1, and does nothing with --loss.main bce",
        ),
        (
            "loss",
            LossConfig(main="bce", in_batch=False),
            "--loss.in-batch is False, and does nothing with --loss.main bce",
        ),
        (
            "model",
            ModelConfig(output_dim=16, residual=True),
            "--model.residual with --model.embedding-dim 32 and --model.output-dim 16: make them",
        ),
        (
            "loss",
            LossConfig(negatives=0, in_batch=False),
            "--loss.no-in-batch leaves --loss.main softmax without candidates",
        ),
        (
            "loss",
            LossConfig("contrastive", negatives=0, in_batch=False),
            "--loss.no-in-batch leaves --loss.main contrastive without candidates",
        ),
        (
            "loss",
            LossConfig("contrastive", learn_temperature=True),
            "--loss.learn-temperature is True, and does nothing with --loss.main bce or contr",
        ),
        (
            "loss",
            LossConfig(temperature=0.009, learn_temperature=True),
            "--loss.learn-temperature with --loss.temperature 0.009: make it 0.01 or more",
        ),
        (
            "loss",
            LossConfig("bpr", own_log_q=False),
            "--loss.own-log-q is False, and does nothing without --loss.main softmax",
        ),
        (
            "loss",
            LossConfig("bpr", margin=0.5),
            "--loss.margin is 0.5, and does nothing without --loss.main contrastive",
        ),
        ("loss.margin", 0.5, "--loss.margin is 0.5, and does nothing without --loss.main contr"),
        (
            "loss.negative_weight",
            1,
            "--loss.negative-weight is 1, and does nothing without --loss.main contrastive",
        ),
        (
            "loss",
            LossConfig("contrastive", temperature=0.3),
            "--loss.temperature is 0.3, and does nothing with --loss.main bce or contrastive",
        ),
        (
            "loss",
            LossConfig("bpr", log_q=0.9),
            "--loss.log-q is 0.9, and does nothing without --loss.main softmax",
        ),
        (
            "loss",
            LossConfig(negatives=2, shared_negatives=8),
            "--loss.negatives is 2, and does nothing with --loss.shared-negatives",
        ),
    ],
)
def test_what_cannot_be_trained_with_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as raised:
        changed(field, value).check()
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, 1) for field in POSITIVE),
        *((field, 0) for field in NOT_NEGATIVE),
        ("model.hidden", ()),
        ("examples.id_dropout", 0.0),
        ("loss", LossConfig("bpr", temperature=0.1)),
        ("loss", LossConfig("bpr", temperature=0.01, learn_temperature=True)),
        ("loss", LossConfig("contrastive", margin=-1.0, negative_weight=1.0)),
    ],
)
def test_the_least_allowed_value_passes(field: str, value: object) -> None:
    changed(field, value).check()


def test_json_there_and_back() -> None:
    default = flat(preset("modern", DATA, OUT))
    same = [field for field, value in flat(OTHER).items() if value == default[field]]
    assert same == USUAL
    text = json.dumps(to_json(OTHER) | {"world_size": 2})
    assert from_json(json.loads(text), "config.json") == OTHER


def test_json_holds_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = preset("modern", Path("data"), Path("runs/../run"))
    value = to_json(config)
    assert (value["data"], value["out"]) == (str(tmp_path / "data"), str(tmp_path / "run"))
    for name in ("warm_start", "topology"):
        assert value[name] is None
        changed = dataclasses.replace(config, **{name: Path("./yesterday")})  # type: ignore[arg-type]
        assert to_json(changed)[name] == str(tmp_path / "yesterday")


def test_a_run_of_the_previous_release_has_what_it_did_not_write() -> None:
    """Of 8d7b341: a full disk ended it, and it took the GPUs that torch could use."""
    path = Path(__file__).with_name("config_of_the_previous_release.json")
    config = from_json(json.loads(path.read_text()), "config.json")
    modern = preset("modern", DATA, Path("/run"))
    loss = dataclasses.replace(modern.loss, popularity=0.0, unknown_count="one")
    before = {"disk_patience_s": 0, "device": "auto", "matmul": "mkl", "loss": loss}
    assert config == dataclasses.replace(modern, **before)


def test_what_may_change_on_resume() -> None:
    fixed = flat(OTHER).keys() - may_change_on_resume()
    assert fixed == MODERN.keys() | {"preset"}
    assert may_change_on_resume() < flat(OTHER).keys()


GROUPS = ("", "model", "loss", "optimizer", "examples")


@pytest.mark.parametrize("group", GROUPS)
def test_an_unknown_field_is_refused(group: str) -> None:
    value = to_json(OTHER)
    (value[group] if group else value)["novelty"] = 1
    with pytest.raises(
        UserError, match=r"^run\.json: unknown field '(\w+\.)?novelty': read it with .* train anew$"
    ):
        from_json(value, "run.json")


def parent(value: Any, field: str) -> tuple[Any, str]:
    """Of a configuration as JSON, what holds the field of that dotted name, and its own name."""
    group, _, inner = field.rpartition(".")
    return (value[group] if group else value), inner


REQUIRED = ("data", "out", *GROUPS[1:], "model.hidden", "sharding_types")
WITH_A_DEFAULT = (
    *("preset", "seed", "batch_size", "loss.log_q", "model.augment", "model.fp16_tables"),
    *("optimizer.table", "examples.bad_ids", "warm_start", "keep_best", "topology", "comms"),
)


@pytest.mark.parametrize("field", [*REQUIRED, *WITH_A_DEFAULT])
def test_a_missing_field_is_refused(field: str) -> None:
    value = to_json(OTHER)
    holder, name = parent(value, field)
    del holder[name]
    with pytest.raises(UserError, match=rf"^run\.json: {field} is missing: read it with .*anew$"):
        from_json(value, "run.json")


@pytest.mark.parametrize("field", ["model.hidden", "model.fp16_tables", "sharding_types", "pin"])
@pytest.mark.parametrize("worth", ["item", None, {"item": 1}, 4])
def test_what_is_no_list_is_refused_where_a_list_belongs(field: str, worth: object) -> None:
    value = to_json(OTHER)
    holder, name = parent(value, field)
    holder[name] = worth
    with pytest.raises(UserError) as raised:
        from_json(value, "run.json")
    line = f"run.json: {field} is {worth!r}: it must be a valid array: read it with "
    assert str(raised.value).startswith(line)


@pytest.mark.parametrize(
    ("field", "worth"),
    [
        ("pin", [1]),
        ("sharding_types", ["rowwise"]),
        ("model.fp16_tables", [None]),
        ("optimizer.table", "adam"),
        ("comms", "fp8"),
        ("examples.bad_ids", "drop"),
        ("keep_best", 1.0),
        ("background_saves", 1),
        ("memory_gb", "1"),
        ("warm_start", 3),
        ("topology", 3),
        ("mirror", 3),
    ],
)
def test_a_value_of_another_type_is_refused(field: str, worth: object) -> None:
    value = to_json(OTHER)
    holder, name = parent(value, field)
    holder[name] = worth
    with pytest.raises(UserError, match=r"^run\.json: "):
        from_json(value, "run.json")


def test_differences_name_options_ours_and_theirs() -> None:
    ours = preset("modern", DATA, OUT)
    assert differences(ours, ours) == []
    theirs = dataclasses.replace(
        ours, batch_size=64, model=ModelConfig(hidden=(8,)), loss=LossConfig(mimic_user=0.7)
    )
    assert differences(ours, theirs) == [
        "--batch-size 2048 (64)",
        "--model.hidden [256, 128] ([8])",
        "--loss.mimic-user 0.5 (0.7)",
    ]


def test_differences_can_leave_options_out() -> None:
    ours = preset("modern", DATA, OUT)
    theirs = dataclasses.replace(ours, seed=3, log_every=7)
    assert differences(ours, theirs, may_change_on_resume()) == ["--seed 0 (3)"]


def test_differences_see_every_field() -> None:
    found = differences(OTHER, preset("modern", DATA, OUT))
    names = [line.split()[0].removeprefix("--").replace("-", "_") for line in found]
    assert names == [field for field in flat(OTHER) if field not in USUAL]


def test_shared_negatives_take_as_many_rows_on_every_rank() -> None:
    loss = LossConfig(shared_negatives=10)
    assert [loss.shared_rows(ranks) for ranks in (1, 3, 10, 20)] == [10, 4, 1, 1]
    assert LossConfig().shared_rows(3) == 0


def test_a_path_that_is_not_utf_8_is_refused_by_its_option() -> None:
    config = dataclasses.replace(
        preset("modern", Path("data"), Path("run")), topology=Path("caf\udce9.json")
    )
    with pytest.raises(UserError, match=r"--topology is .*caf.udce9.json': it must be UTF-8"):
        config.check()


def test_a_start_of_the_tables_beside_another_runs_is_refused() -> None:
    config = changed("optimizer.table_start", "svd")
    config.check()
    with pytest.raises(UserError, match="table-start is svd, and does nothing with --warm-start"):
        dataclasses.replace(config, warm_start=Path("run")).check()
