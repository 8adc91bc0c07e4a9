"""``dat-rec daily``: walk the days of a log."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from dat_rec.commands.parse import Arguments, parse, refuse_repeated
from dat_rec.errors import UserError
from dat_rec.versions import require_stack

if TYPE_CHECKING:
    from dat_rec.data.sources.parquet_log import ParquetLog


@dataclass(frozen=True)
class DailyOptions:
    """Walk the days of a log: score yesterday's model on each, prepare, train on it, export.

    Beside these options it takes those of `dat-rec prepare parquet` that say where the log is and
    what its columns are (--interactions LOG, …), and behind -- those of `dat-rec train`, with one
    epoch by default. Started again with a later --to, or after it was stopped or killed, it goes on
    where it was.
    """

    root: Path
    """Folder of the results: for each day a folder with data, run and export, and a row of
    daily.parquet."""
    from_: Annotated[str, arg(name="from", metavar="DAY")]
    """First day: a partition of the log, which is a date, as in 2026-11-01, or an integer. Its
    dataset is that of the whole log up to it, and there is no model yet to score on it."""
    to: Annotated[str, arg(metavar="DAY")]
    """Last day, that one included. A day without rows is passed over, and walked again by the next
    start if it is the last."""
    export: bool = True
    """Export each day's model."""
    deltas: bool = False
    """Write what has changed since the export of the day before (`export --since`), and make each
    day's export of it (`apply`)."""
    keep: int = 0
    """Number of days with rows whose folders stay, the last ones; those of older days are removed
    when the next one is whole. 0: all stay."""


OURS = {
    "prepare": (
        *("--out", "--after", "--overwrite", "--train-from", "--test-until", "--test-from"),
        *("--test-share", "--validation-share", "--validation-from", "--split", "--split-column"),
        *("--split-group", "--split-minimum", "--unordered"),
    ),
    "train": (
        *("--data", "--out", "--warm-start", "--resume", "--no-resume", "--overwrite", "--mirror"),
        "--validate-every",
    ),
}
"""Options of the steps that the days decide."""
FREE = (
    *("out", "from_", "to", "memory_limit", "threads", "max_rejected"),
    *("version", "items_version", "users_version"),
)
"""Options of prepare that may change from one start to the next."""
EPOCHS = ("--epochs", "1")


def run(arguments: Arguments) -> None:
    """Walk the days; each prints a line."""
    # So that it may fork after torch has looked for GPUs.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    options, log, train = read(arguments)
    require_stack()
    from dat_rec.commands import apply, evaluate, export, prepare
    from dat_rec.commands import train as training
    from dat_rec.daily.days import days_between
    from dat_rec.daily.driver import walk
    from dat_rec.daily.steps import Asked

    steps = (prepare, evaluate, training, export, apply)
    walk(
        options.root.absolute(),
        days_between(options.from_, options.to),
        Asked(log, train, options.export, options.deltas),
        {module.__name__.rpartition(".")[2]: module.run for module in steps},
        begun={"--from": options.from_, **_begun(log), "train's options": list(train)},
        keep=options.keep,
    )


def read(arguments: Arguments) -> tuple[DailyOptions, tuple[str, ...], tuple[str, ...]]:
    """The driver's options, those of ``prepare parquet``, and those of ``train``.

    Raises:
        UserError: an option is one that the days decide, or is refused by its command.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    options, log = parse("daily", DailyOptions, words[:end], return_unknown_args=True)
    train = words[end + 1 :]
    _refuse_ours("prepare", log)
    _refuse_ours("train", train)
    if options.keep < 0:
        raise UserError(f"--keep {options.keep}: must be at least 0")
    if options.deltas and not options.export:
        raise UserError("--deltas and --no-export: there is nothing to write: leave one out")
    from dat_rec.commands.train import parse_train
    from dat_rec.daily.days import days_between
    from dat_rec.daily.steps import given

    days_between(options.from_, options.to)
    parse_log(log)
    train = train if given(train, EPOCHS[0]) else [*EPOCHS, *train]
    parse_train([*train, "--data", os.devnull, "--out", os.devnull]).check()
    return options, tuple(log), tuple(train)


def parse_log(log: Sequence[str]) -> "ParquetLog":
    """The options of ``prepare parquet`` that words stand for; OUT is none.

    Raises:
        UserError: a list is given twice, or an address is malformed.
    """
    from dat_rec.commands.prepare import LISTS
    from dat_rec.data.prepare.remote import path_or_address
    from dat_rec.data.sources.parquet_log import ParquetLog

    refuse_repeated(log, LISTS)
    words = [*log, "--out", os.devnull]
    found: ParquetLog = parse("prepare parquet", ParquetLog, words, read=path_or_address)
    return found


def _begun(log: Sequence[str]) -> dict[str, Any]:
    """What the options of ``prepare parquet`` come to, as text by option."""
    found = parse_log(log)
    options = ((one.name, getattr(found, one.name)) for one in fields(found))
    return {
        f"--{name.replace('_', '-')}": _text(value) for name, value in options if name not in FREE
    }


def _text(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_text(one) for one in value]
    if isinstance(value, Path):  # begun in another folder, the same name is another log
        value = value.absolute()
    return None if value is None else str(value)


def _refuse_ours(command: str, words: Sequence[str]) -> None:
    from dat_rec.daily.steps import given

    for option in OURS[command]:
        if given(words, option):
            where = " behind --" if command == "train" else ""
            raise UserError(f"{option}{where}: is what each day decides: leave it out")
