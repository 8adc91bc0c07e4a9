"""A day in, its steps out: each a command of ``dat-rec`` that publishes its result whole.

Yesterday's model is scored on the new day before any model is trained on it. A step whose result is
whole is done; one that was killed is begun again, where the command goes on by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dat_rec.daily.root import Day
from dat_rec.data.schema import SCHEMA
from dat_rec.retrieval.exported import DELTA, MANIFEST
from dat_rec.runs.failure_record import SUMMARY
from dat_rec.runs.figures import METRICS

SCORE, EVALUATE, PREPARE, TRAIN = "score", "evaluate", "prepare", "train"
EXPORT, APPLY = "export", "apply"
STEPS = (SCORE, EVALUATE, PREPARE, TRAIN, EXPORT, APPLY)
"""The names of a day's steps, in order."""
FORGETTING = ("--forget-after", "--capacity")
"""Options of prepare that need a dataset before, and say what the day's model no longer knows: the
model that is scored still knows it."""


@dataclass(frozen=True)
class Asked:
    """What the user has asked of every day."""

    log: tuple[str, ...]
    """Options of ``dat-rec prepare parquet``."""
    train: tuple[str, ...]
    """Options of ``dat-rec train``."""
    export: bool = True
    """Whether each day's model is exported."""
    deltas: bool = False
    """Whether a day leaves what has changed since the export before, of which its own is made."""


@dataclass(frozen=True)
class Step:
    """A step of a day."""

    name: str
    words: tuple[str, ...]
    """The command, without ``dat-rec``."""
    whole: Path
    """File that is there when the step is done."""
    leaves: Path | None = None
    """File that the command writes in another folder, and that is then copied to ``whole``."""

    @property
    def done(self) -> bool:
        """Whether its result is whole."""
        return self.whole.exists()


def steps_of(day: Day, before: Day | None, asked: Asked, first: str | None = None) -> list[Step]:
    """The steps of a day.

    Args:
        day: to be trained on.
        before: the last one that was, whose model and dataset this one goes on from; None: the day
            is the first one, whose dataset is that of the whole log up to it.
        asked: of every day.
        first: the first day whose rows are read; None: this one.
    """
    log, forgetting = _apart(asked.log, FORGETTING)
    prepare = ("prepare", "parquet", *log, "--to", day.name)
    train = ("train", "--data", f"{day.data}", "--out", f"{day.run}", "--resume", *asked.train)
    steps = []
    if before is not None:
        prepare = (*prepare, "--from", first or day.name, "--after", f"{before.data}")
        train = (*train, "--warm-start", f"{before.run}")
        score = (*prepare, "--split", "all", "--out", f"{day.score}")
        evaluate = ("evaluate", "--run", f"{before.run}", "--data", f"{day.score}")
        steps = [
            Step(SCORE, score, day.score / SCHEMA),
            Step(
                EVALUATE,
                (*evaluate, "--no-fitted-baselines"),
                day.metrics,
                leaves=before.run / METRICS,
            ),
        ]
        prepare = (*prepare, *forgetting)
    return [
        *steps,
        Step(
            PREPARE,
            (*prepare, "--split", "none", "--out", f"{day.data}"),
            day.data / SCHEMA,
        ),
        Step(TRAIN, train, day.run / SUMMARY),
        *(_exporting(day, before if asked.deltas else None) if asked.export else []),
    ]


def _exporting(day: Day, base: Day | None) -> list[Step]:
    """The steps that write what serving needs; with a base, by what has changed since its export.

    Where the base has none, all is written.
    """
    words = ("export", "--run", f"{day.run}", "--data", f"{day.data}")
    whole = day.export / MANIFEST
    if base is None or not (base.export / MANIFEST).exists():
        return [Step(EXPORT, (*words, "--out", f"{day.export}"), whole)]
    since = ("--since", f"{base.export}", "--out", f"{day.delta}")
    apply = ("--base", f"{base.export}", "--delta", f"{day.delta}", "--out", f"{day.export}")
    return [
        Step(EXPORT, (*words, *since), day.delta / DELTA),
        Step(APPLY, (APPLY, *apply), whole),
    ]


def _apart(words: Sequence[str], options: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words without those options, each of which has one value; and these with their values."""
    rest: list[str] = []
    taken: list[str] = []
    value_next = False
    for word in words:
        is_option = any(given([word], option) for option in options)
        (taken if is_option or value_next else rest).append(word)
        value_next = is_option and "=" not in word
    return tuple(rest), tuple(taken)


def given(words: Sequence[str], option: str) -> bool:
    """Whether an option is among the words of a command line, however it is spelt."""
    return any(word.partition("=")[0].replace("_", "-") == option for word in words)
