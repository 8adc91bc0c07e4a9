"""``dat-rec train``: train a model on a dataset. Its options are ``dat_rec.config.TrainConfig``."""

import dataclasses
import os
from pathlib import Path

from dat_rec.commands.parse import Arguments, parse, refuse_repeated
from dat_rec.config import PRESETS, TrainConfig, preset
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

    ``--preset`` is looked up first: it decides the defaults that the rest overrides.

    Raises:
        UserError: an option is given twice, or is an address where a path is wanted.
    """
    import tyro

    refuse_repeated(arguments)
    name = "modern"
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--preset":
            name = following
        elif argument.startswith("--preset="):
            name = argument.removeprefix("--preset=")
    # A name that is none is left to the parser, which names those that are.
    defaults = preset(PRESETS[PRESETS.index(name)] if name in PRESETS else "modern", Path(), Path())
    default = dataclasses.replace(defaults, data=tyro.MISSING, out=tyro.MISSING)
    config: TrainConfig = parse("train", TrainConfig, arguments, default=default)
    return config
