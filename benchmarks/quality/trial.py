"""One trial in, its row out: a model is trained, and judged on the validation span or the test.

It runs in a process of its own (``processes``), which imports torch; the study does not.
"""

import dataclasses
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.quality.arms import ARMS, DEFAULTS, Setting, with_setting
from benchmarks.quality.looks import look
from benchmarks.quality.records import Row, figures_of, identity, write
from dat_rec.config import Device, StopBy, TrainConfig, preset
from dat_rec.defaults import defaults
from dat_rec.errors import SharedError, UserError
from dat_rec.files import read_json

if TYPE_CHECKING:
    from benchmarks.quality.data import StudyData

Stage = Literal["search", "sweep", "test", "baselines"]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How trials are judged, and where they run: the same for all of a study."""

    stop_by: StopBy
    patience: int
    validation_queries: int
    blend_history: bool
    """Whether the test ranks all pairs with own history blended in, too."""
    device: Device
    threads: int
    code: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is trained and how it is judged."""

    stage: Stage
    data: "StudyData"
    arm: str
    setting: Setting
    """Options besides those of the arm: ``epochs`` and ``batch_size`` are among them."""
    seed: int
    judged: Judged
    number: int | None = None
    epoch_steps: int = 0
    """Number of steps of an epoch, where the model is validated."""

    @property
    def on_validation(self) -> bool:
        """Whether the trial is judged on the validation span, and never sees the test."""
        return self.stage in ("search", "sweep")

    @property
    def dataset(self) -> Path:
        """The dataset that is trained on."""
        return self.data.folder / ("tuning" if self.on_validation else "whole")

    @property
    def facts(self) -> Row:
        """What the trial is known by, as columns of its row."""
        digest = self.data.tuning if self.on_validation else self.data.whole
        return {
            "stage": self.stage,
            "data_digest": digest,
            "arm": self.arm,
            "setting": json.dumps(self.setting, sort_keys=True),
            "seed": self.seed,
        }

    @property
    def id(self) -> str:
        """Digest of all that decides what the trial finds, but for the code."""
        judged = self.judged
        by = (judged.stop_by, judged.patience, judged.validation_queries)
        blended = True if judged.blend_history and self.stage == "test" else None
        return identity(self.facts | {"judged": by if self.on_validation else blended})

    @property
    def file(self) -> str:
        """Name of the trial's Parquet file."""
        arm = self.arm.replace("+ ", "").replace(" ", "-")
        what = f"{self.number}-" if self.number is not None else ""
        code = self.judged.code[:6]
        return f"{self.data.name}-{self.stage}-{arm}-{what}{self.seed}-{self.id}-{code}.parquet"

    def config(self, run: Path) -> TrainConfig:
        """The options of the training.

        Raises:
            UserError: they cannot be trained with.
        """
        if self.arm == DEFAULTS:
            config = defaults("modern", self.dataset, run)
        else:
            arm = ARMS[self.arm]
            config = preset(arm.preset, self.dataset, run)
            config = with_setting(config, arm.fixed | self.setting)
        config = dataclasses.replace(config, seed=self.seed, device=self.judged.device)
        if self.on_validation:
            config = dataclasses.replace(
                config,
                validate_every=self.epoch_steps,
                validation_queries=self.judged.validation_queries,
                stop_by=self.judged.stop_by,
                patience=self.judged.patience,
            )
        config.check()
        return config


def run(trial: Trial, work: Path, out: Path) -> None:
    """Run a trial and write its file into ``out``. In a process of its own.

    Args:
        trial: what to do.
        work: folder for the run, which is removed.
        out: folder of the trials.

    Raises:
        UserError: a trial on the test failed; one of the search that does, as where its loss
            explodes, is a result like others.
    """
    import torch

    from benchmarks.record import circumstances, peak_memory_mb

    torch.set_num_threads(trial.judged.threads)
    begin = time.perf_counter()
    found = _baselines(trial, work) if trial.stage == "baselines" else [_trained(trial, work)]
    around = {
        **circumstances(),
        "command": trial.judged.command,
        "code": trial.judged.code,
        "dat_rec": _version(),
        "data": trial.data.name,
        "id": trial.id,
        "number": trial.number,
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time(),
        "peak_memory_mb": peak_memory_mb(),
        "threads": trial.judged.threads,
    }
    write(out / trial.file, [trial.facts | around | row for row in found])
    shutil.rmtree(work, ignore_errors=True)


def _version() -> str:
    import dat_rec

    return dat_rec.__version__


def _trained(trial: Trial, folder: Path) -> Row:
    """Train; judge on the validation span while training, or on the test afterwards."""
    from dat_rec.runs.figures import METRICS
    from dat_rec.runs.validations import read_validations
    from dat_rec.training.train import train

    config = trial.config(folder)
    try:
        summary = train(config)
    except (UserError, SharedError) as error:
        if not trial.on_validation:
            raise
        return {"failure": str(error)}
    steps_an_epoch = summary["examples_an_epoch"] / config.batch_size
    row: Row = {
        "steps": summary["steps"],
        "epochs": summary["steps"] / steps_an_epoch,
        "samples_per_s": summary["samples_per_s"],
    }
    if trial.on_validation:
        return row | chosen(config, read_validations(folder), steps_an_epoch)

    from dat_rec.retrieval.evaluate import evaluate

    test_read = look(trial)
    evaluate(folder, fitted_baselines=False, blend_history=trial.judged.blend_history)
    metrics = read_json(folder / METRICS, "the metrics")
    del metrics["baselines"], metrics["baselines_left_out"]
    more = {"test_read": test_read, "metrics": json.dumps(metrics)}
    return row | figures_of("test", metrics) | more


def chosen(config: TrainConfig, records: list[Row], steps_an_epoch: float) -> Row:
    """What a search goes by, such that training again without validation can come to the same.

    With a constant learning rate that is the best validation, and as many epochs. A rate that falls
    to 0 at the run's end makes another run of each number of epochs: there the last one counts, and
    a run that was stopped early, at a high rate still, has the value that it was stopped with.
    """
    valued = [one for one in records if one["value"] is not None]
    if not valued:
        return {"failure": f"no validation has a query of {config.stop_by}"}
    last = valued[-1]
    best = max(valued, key=lambda one: float(one["value"]))
    record = best if config.optimizer.decay == "none" else last
    return {
        "score": record["value"],
        "chosen_epochs": max(1, round(record["step"] / steps_an_epoch)),
        "validations": json.dumps([[one["step"], one["value"]] for one in records]),
        **figures_of("validation", record),
    }


def _baselines(trial: Trial, folder: Path) -> list[Row]:
    """A row for each baseline of `dat-rec evaluate`, whose settings it tunes on held-out pairs."""
    from dat_rec.data.dataset import Dataset
    from dat_rec.retrieval.baselines import Settings
    from dat_rec.retrieval.kept_baselines import baselines
    from dat_rec.retrieval.metrics import USER_CUTOFFS
    from dat_rec.retrieval.protocol import Protocol
    from dat_rec.retrieval.ranks import one_thread_each

    folder.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.open(trial.dataset)
    settings = Settings(Protocol.read(dataset), USER_CUTOFFS)
    with one_thread_each() as threads:
        found = baselines(folder, dataset, settings, threads, fitted=True)
    rows = [
        {
            "arm": name,
            "seed": None,
            "setting": json.dumps(blocks.get("settings", {})),
            **figures_of("test", blocks),
            "metrics": json.dumps(blocks),
        }
        for name, blocks in found.figures.items()
    ]
    return rows + [
        {"arm": name, "seed": None, "failure": why} for name, why in found.left_out.items()
    ]
