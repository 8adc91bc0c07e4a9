"""The run's folder: who may write there, what is recorded before training and after it.

``RUN`` holds config.json, schema.json, plan.json, plan.txt, tensorboard/, checkpoints/ and,
once training has ended, train.json.
"""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from typing import Any

from dat_rec.config import TrainConfig, differences, to_json
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.files import PARTIAL_SUFFIX, read_json, whole_file, write_json
from dat_rec.parallel.agree import raise_together
from dat_rec.parallel.process_group import Place
from dat_rec.parallel.shard import plan_to_text
from dat_rec.train.checkpoint import check_same_rows, checkpoints, load_config


class RunFolder:
    """The folder of one run. All ranks call its methods; the first one reads and writes."""

    def __init__(self, config: TrainConfig, dataset: Dataset, place: Place) -> None:
        self._config = config
        self._dataset = dataset
        self._place = place
        self._path = config.out

    def check(self) -> None:
        """Refuse a folder that is taken, or that holds another run than the one to resume.

        Raises:
            UserError: on every rank alike.
        """
        self._first(self._check)

    def begin(self, plan: list[dict[str, Any]]) -> None:
        """Record configuration, schema and plan; remove an old run that is not resumed.

        Raises:
            UserError: on every rank, when the folder cannot be written.
        """

        def record() -> None:
            run, config = self._path, self._config
            facts = {
                "world_size": self._place.world_size,
                "row_digest": self._dataset.row_digest(),
            }
            for name in ("checkpoints", "tensorboard"):
                if (run / name).exists() and not config.resume:
                    shutil.rmtree(run / name)
            for left in run.glob("checkpoints/*" + PARTIAL_SUFFIX):
                shutil.rmtree(left)
            self._dataset.schema.save(run)
            write_json(run / "plan.json", plan)
            text = plan_to_text(plan)
            with whole_file(run / "plan.txt") as path:
                path.write_text(text + "\n", "utf-8")
            # Last: what says that this folder is a run.
            write_json(run / "config.json", to_json(config) | facts)
            print(text, file=sys.stderr)

        self._first(record)

    def forget_results(self) -> None:
        """Remove the results of an older state of the run: they will not be true for long."""

        def forget() -> None:
            for name in ("train.json", "metrics.json"):
                (self._path / name).unlink(missing_ok=True)

        self._first(forget)

    def summary(self) -> dict[str, Any] | None:
        """What train.json holds, if the run has ended before."""
        path = self._path / "train.json"
        found: dict[str, Any] | None = None
        if path.exists():
            found = read_json(path, "the training's summary")
        if found and self._place.is_first:
            print(f"{self._path}: the run has ended before: nothing to do", file=sys.stderr)
        return found

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write train.json, and give it back."""
        self._first(lambda: write_json(self._path / "train.json", summary))
        return summary

    def _first(self, action: Callable[[], None]) -> None:
        """Let the first rank do ``action``; what it refuses, every rank raises."""
        problem = ""
        if self._place.is_first:
            try:
                action()
            except UserError as error:
                problem = str(error)
            except OSError as error:
                where = error.filename or self._path
                problem = f"{where}: cannot be written ({error.strerror}): choose another --out"
        raise_together(problem)

    def _check(self) -> None:
        run, config = self._path, self._config
        is_run = (run / "config.json").exists()
        if is_run and config.resume:
            self._check_resumable()
        elif is_run and not config.overwrite:
            raise UserError(f"{run} holds a run: pass --resume to go on with it, or --overwrite")
        elif run.exists() and not is_run and (not run.is_dir() or any(run.iterdir())):
            raise UserError(f"{run} is there and is no run: choose another --out")

    def _check_resumable(self) -> None:
        """A resumed run is the same run: all that decides its numbers must be as it was."""
        run, config, ranks_now = self._path, self._config, self._place.world_size
        before = load_config(run)
        if not checkpoints(run):
            return
        ranks = read_json(run / "config.json", "the run's configuration")["world_size"]
        if ranks != ranks_now:
            raise UserError(
                f"{run}: --resume on {ranks_now} ranks, but the run was made on {ranks}, and the "
                "global batch would change: use as many ranks, or another --out"
            )
        # What may change: nothing here decides what is computed (another sharding type may
        # round otherwise).
        same = dataclasses.replace(
            before,
            data=config.data,
            out=config.out,
            resume=config.resume,
            overwrite=config.overwrite,
            checkpoint_every=config.checkpoint_every,
            keep_checkpoints=config.keep_checkpoints,
            log_every=config.log_every,
            sharding_types=config.sharding_types,
            pin=config.pin,
            timeout_s=config.timeout_s,
        )
        if differing := differences(config, same):
            raise UserError(
                f"{run}: --resume with {differing[0]}, in brackets what the run was made with: "
                "give the same options, or another --out"
            )
        check_same_rows(run, self._dataset)
        if self._dataset.schema != type(self._dataset.schema).load(run):
            raise UserError(
                f"{self._dataset.folder}: not the dataset that {run} was begun with (its "
                "schema.json differs): name that dataset, or another --out"
            )
