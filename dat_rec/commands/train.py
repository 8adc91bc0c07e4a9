"""``dat-rec train``: train a model on a dataset. Its options are ``dat_rec.config.TrainConfig``."""

import dataclasses
import os
from contextlib import suppress
from pathlib import Path

from dat_rec.commands.parse import Arguments, parse, refuse_repeated
from dat_rec.config import PRESETS, TrainConfig, from_json, preset
from dat_rec.data.schema import Schema
from dat_rec.defaults import as_begun, by_data, without_void
from dat_rec.errors import DiskError, StoreError, UserError
from dat_rec.files import read_json
from dat_rec.storage.address import Location, location
from dat_rec.versions import require_stack


def run(arguments: Arguments) -> None:
    """Train; under torchrun on each rank, of which the first one prints what came of it."""
    config = parse_train(arguments)
    require_stack()
    from dat_rec.runs.figures import next_command, trained_words
    from dat_rec.training.train import train

    summary = train(config)
    if os.environ.get("RANK", "0") == "0":
        follows = next_command(config.out, summary, None)
        print(f"{config.out}: {trained_words(summary)}; next: {follows}")


def parse_train(arguments: Arguments) -> TrainConfig:
    """The configuration that ``dat-rec train`` arguments stand for.

    ``--preset`` and ``--data`` are looked up first, and the run that is resumed or begun from: they
    decide the defaults that the rest overrides.

    Raises:
        UserError: an option is given twice, or is an address where a path is wanted.
    """
    import tyro

    refuse_repeated(arguments)
    name = _given(arguments, "--preset") or "modern"
    # A name that is none is left to the parser, which names those that are.
    usual = preset(PRESETS[PRESETS.index(name)] if name in PRESETS else "modern", Path(), Path())
    if data := _given(arguments, "--data"):
        usual = _by_data(usual, location(data))
    usual = _as_begun(usual, arguments)
    default = dataclasses.replace(usual, data=tyro.MISSING, out=tyro.MISSING)
    config: TrainConfig = parse("train", TrainConfig, arguments, default=default)
    return without_void(config, {_option(word) for word in arguments})


def _by_data(usual: TrainConfig, data: Location) -> TrainConfig:
    ranks = os.environ.get("WORLD_SIZE", "1")
    try:
        schema = Schema.load(data)
    except (StoreError, DiskError):
        # A store that is away for a moment must not decide what is trained.
        raise
    except UserError:
        # What is no dataset is refused later, in words of its own.
        return usual
    return by_data(usual, schema, max(1, int(ranks)) if ranks.isdecimal() else 1)


def _as_begun(usual: TrainConfig, arguments: Arguments) -> TrainConfig:
    """With what the run had that is resumed, or where there is none yet, begun from."""
    runs = [_given(arguments, "--warm-start")]
    if any(_option(word) == "--resume" for word in arguments):
        runs.insert(0, _given(arguments, "--out"))
    for run in runs:
        if run and (path := Path(run) / "config.json").exists():
            with suppress(UserError):
                return as_begun(usual, from_json(read_json(path, "the run's configuration"), run))
            break
    return usual


def _option(word: str) -> str:
    """The option that a word of the command line names, as tyro understands it."""
    return word.partition("=")[0].replace("_", "-")


def _given(arguments: Arguments, option: str) -> str:
    """The value of an option, the last where it is given twice; empty without one."""
    value = ""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if _option(word) == option:
            value = word.partition("=")[2] if "=" in word else following
    return value
