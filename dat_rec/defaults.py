"""A dataset in, the options that suit it out: defaults by rules (docs/defaults.md).

A preset says what does not depend on the data. What does is decided here by the dataset's schema
alone, so that the same dataset always has the same defaults, and reading them costs nothing.
``paper`` stays to the letter.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from dat_rec.config import Preset, TrainConfig, preset
from dat_rec.data.schema import ITEM, USER, Schema
from dat_rec.option_marks import flatten, option, to_json
from dat_rec.storage.address import Location

STEPS = 128
"""Minimum number of steps of an epoch that the batch size is to leave."""
MOST, LEAST = 2048, 128
"""Bounds of the batch size."""
ID_TEMPERATURES = (0.2, 0.1)
"""Of a model of ids alone: as a rule, and sharper from many examples of many items."""
ID_LOG_Q = (1.0, 1.2)
"""Strength of the sampling-bias correction beside each of them."""
MANY_EXAMPLES, MANY_ITEMS = 2**18, 2**14
"""From which on they are many: fewer items need no softmax so sharp, fewer examples bear none."""
USER_DROPOUT = 0.9
"""Of users with few examples, where more is known than ids."""


def defaults(name: Preset, data: Location, out: Path, ranks: int = 1) -> TrainConfig:
    """Return what ``dat-rec train --preset NAME --data DATA --out OUT`` begins with.

    Args:
        name: of the preset.
        data: a prepared dataset.
        out: folder of the run.
        ranks: number of ranks that the run begins with.

    Raises:
        UserError: DATA is no prepared dataset.
    """
    return by_data(preset(name, data, out), Schema.load(data), ranks)


def by_data(config: TrainConfig, schema: Schema, ranks: int = 1) -> TrainConfig:
    """Return a preset's configuration with what the rules say of a dataset with this schema."""
    if config.preset == "paper":
        return config
    model, loss, examples = config.model, config.loss, config.examples
    if has_ids_alone(schema):
        model = replace(model, residual=True)
        # Nothing tells unknown items apart: all would be as typical as each other.
        temperature, log_q = id_softmax(schema)
        loss = replace(loss, temperature=temperature, log_q=log_q, unknown_count="one")
    if not has_full_histories(schema):
        model = replace(model, pooling="sqrt")
        if not has_ids_alone(schema):
            examples = replace(examples, user_dropout=USER_DROPOUT)
    size = batch_size(schema, ranks)
    return replace(config, batch_size=size, model=model, loss=loss, examples=examples)


def as_begun(config: TrainConfig, run: TrainConfig) -> TrainConfig:
    """Return a preset's configuration with what the rules decide as a run has it.

    So a run that is resumed or begun from goes on with the same model, when its data have grown
    beyond a rule's bound or it is older than the rules, and than popularity's options.

    Args:
        config: of the preset.
        run: the run's; one of another preset changes nothing.
    """
    if run.preset != config.preset:
        return config
    model, loss = run.model, run.loss
    return replace(
        config,
        batch_size=run.batch_size,
        model=replace(config.model, pooling=model.pooling, residual=model.residual),
        loss=replace(
            config.loss,
            temperature=loss.temperature,
            log_q=loss.log_q,
            popularity=loss.popularity,
            unknown_count=loss.unknown_count,
        ),
        examples=replace(config.examples, user_dropout=run.examples.user_dropout),
    )


def without_void(config: TrainConfig, given: Collection[str]) -> TrainConfig:
    """Return the configuration without defaults that what was given leaves no room for.

    Args:
        config: with the rules' defaults.
        given: names of the options that were given, as in ``--model.residual``.
    """
    model, loss = config.model, config.loss
    if "--examples.id-dropout" in given and "--examples.user-dropout" not in given:
        config = replace(config, examples=replace(config.examples, user_dropout=0.0))
    if model.embedding_dim != model.output_dim and "--model.residual" not in given:
        config = replace(config, model=replace(model, residual=False))
    usual = preset(config.preset, config.data, config.out).loss
    if loss.main in ("bce", "contrastive") and "--loss.temperature" not in given:
        loss = replace(loss, temperature=usual.temperature)
    if loss.main != "softmax" and "--loss.log-q" not in given:
        loss = replace(loss, log_q=usual.log_q)
    return replace(config, loss=loss)


def batch_size(schema: Schema, ranks: int = 1) -> int:
    """Return the largest power of two, 128 to 2,048, with 128 steps or more in an epoch.

    Args:
        schema: of the dataset.
        ranks: number of ranks, each of which has such a batch.
    """
    most = max(1, schema.examples // (STEPS * ranks))
    return min(MOST, max(LEAST, 1 << (most.bit_length() - 1)))


def id_softmax(schema: Schema) -> tuple[float, float]:
    """Return the temperature and log_q of a model of ids alone, by the numbers of both."""
    many = schema.examples >= MANY_EXAMPLES and schema.trained_items >= MANY_ITEMS
    return ID_TEMPERATURES[many], ID_LOG_Q[many]


def has_full_histories(schema: Schema) -> bool:
    """Whether users have as many training interactions, on average, as a history takes, or more."""
    return schema.training >= schema.history_length * (schema.feature(USER).rows - 1)


def has_ids_alone(schema: Schema) -> bool:
    """Whether nothing is known of users and items but their ids and what they had together."""
    known = {feature.table for feature in schema.features if feature.rows > 1}
    ids = {schema.feature(USER).table, schema.feature(ITEM).table}
    return known <= ids and not schema.dense


def words(config: TrainConfig, schema: Schema, ranks: int = 1) -> list[str]:
    """Name the options of a run that have the value of a rule, and another one without it."""
    plain = preset(config.preset, config.data, config.out)
    usual, fitted, here = (
        flatten(to_json(one)) for one in (plain, by_data(plain, schema, ranks), config)
    )
    return [
        option(name) if value is True else f"{option(name)} {value}"
        for name, value in fitted.items()
        if value != usual[name] and here[name] == value
    ]
