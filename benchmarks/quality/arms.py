"""What is compared, and the space in which each arm is searched: the one place of both.

A setting is a mapping from an option's dotted name, as in ``loss.temperature``, to its value.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from dat_rec.config import Preset, TrainConfig

Setting = dict[str, Any]


@dataclass(frozen=True)
class LogUniform:
    """A number between ``low`` and ``high``, whose logarithm is uniform."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """A value, to four digits."""
        low, high = np.log(self.low), np.log(self.high)
        return float(f"{np.exp(rng.uniform(low, high)):.4g}")


@dataclass(frozen=True)
class Uniform:
    """A number between ``low`` and ``high``."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """A value, to four digits."""
        return float(f"{rng.uniform(self.low, self.high):.4g}")


@dataclass(frozen=True)
class Choice:
    """One of some values, each with the same chance."""

    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        """A value."""
        return self.values[rng.integers(len(self.values))]


Distribution = LogUniform | Uniform | Choice

SPACE: dict[str, Distribution] = {
    "optimizer.table_lr": LogUniform(0.01, 0.3),
    "optimizer.tower_lr": LogUniform(3e-4, 1e-2),
    "optimizer.table_init": LogUniform(0.02, 0.5),
    "optimizer.decay": Choice(("linear", "none")),
    "loss.temperature": LogUniform(0.03, 0.2),
    "loss.log_q": Uniform(0.6, 1.5),
    "loss.popularity": Uniform(0.0, 1.0),
    "loss.negatives": Choice((0, 1, 4)),
    "model.embedding_dim": Choice((16, 32, 64)),
    "model.output_dim": Choice((32, 64)),
    "model.hidden": Choice(((), (128,), (256, 128))),
    "model.residual": Choice((False, True)),
    "model.linear": Choice((False, True)),
    "model.pooling": Choice(("mean", "sqrt")),
    "examples.id_dropout": Choice((0.0, 0.05, 0.2)),
    "examples.user_dropout": Choice((0.0, 0.5, 0.9)),
    "examples.skip_repeats": Choice((False, True)),
}
"""Of every arm. The number of epochs is drawn besides, up to as many as the budget has steps for,
with a uniform logarithm."""
PARTS: dict[str, Distribution] = {
    "loss.mimic_user": LogUniform(0.02, 2.0),
    "loss.mimic_item": LogUniform(0.02, 2.0),
    "loss.alignment": LogUniform(0.02, 5.0),
}
"""Weights of DAT's parts, of the arms that have them."""
NO_MIMIC = {"loss.mimic_user": 0.0, "loss.mimic_item": 0.0}
NO_ALIGNMENT = {"loss.alignment": 0.0}


class Arm(NamedTuple):
    """A model that is compared with others."""

    preset: Preset
    fixed: Setting
    """Options that make the arm what it is."""
    parts: tuple[str, ...]
    """Which of ``PARTS`` are searched."""


ARMS = {
    "two-tower": Arm("two-tower", {}, ()),
    "+ augmented vectors": Arm("modern", {**NO_MIMIC, **NO_ALIGNMENT}, ()),
    "+ mimic": Arm("modern", NO_ALIGNMENT, ("loss.mimic_user", "loss.mimic_item")),
    "+ alignment": Arm("modern", NO_MIMIC, ("loss.alignment",)),
    "DAT": Arm("modern", {}, tuple(PARTS)),
}
"""``+ mimic`` and ``+ alignment`` have the augmented vectors, and one loss each."""
DEFAULTS = "defaults"
"""An arm that is not searched: `dat-rec train` as it comes."""
BASELINES = ("MostPop", "own history", "ItemCF", "iALS")
"""What `dat-rec evaluate` ranks beside a model, tuned by it."""


def draw(
    arm: str, number: int, seed: int, most_epochs: Callable[[bool], int], usual: Setting
) -> Setting:
    """Draw the setting of an arm's trial. Trial 0 has the values that training has by default.

    The value of an option depends on its name, the trial's number and the seed alone: all arms have
    the same in their trials of one number, and options that are added to the space change no other.

    Args:
        arm: one of ``ARMS``.
        number: of the trial, from 0.
        seed: of the study.
        most_epochs: how many epochs the budget has steps for, without repeats or with them.
        usual: what the rules of the defaults say of the data.
    """
    if number == 0:
        return usual | {"epochs": min(TrainConfig.epochs, most_epochs(False))}
    space = SPACE | {name: PARTS[name] for name in ARMS[arm].parts}
    setting = {name: one.draw(_generator(seed, number, name)) for name, one in space.items()}
    if setting["model.residual"]:
        setting["model.embedding_dim"] = setting["model.output_dim"]
    if not setting["model.hidden"]:
        setting["model.linear"] = False
    most = most_epochs(bool(setting["examples.skip_repeats"]))
    wanted = LogUniform(1, most + 1).draw(_generator(seed, number, "epochs"))
    return setting | {"epochs": min(int(wanted), most)}


def _generator(seed: int, number: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, number, crc32(name.encode())])


def with_setting(config: TrainConfig, setting: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration with the options of a setting, whose lists may be JSON's."""
    for name, value in setting.items():
        value = tuple(value) if isinstance(value, list) else value
        group, _, inner = name.rpartition(".")
        if group:
            value = dataclasses.replace(getattr(config, group), **{inner: value})
        config = dataclasses.replace(config, **{group or inner: value})
    return config
