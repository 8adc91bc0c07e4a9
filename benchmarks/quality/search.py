"""Which trials a study has, stage by stage, and which setting its search has found."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.quality.arms import ARMS, DEFAULTS, Setting, draw
from benchmarks.quality.data import StudyData
from benchmarks.quality.records import Row
from benchmarks.quality.trial import Judged, Stage, Trial
from dat_rec.errors import UserError

SEARCH_SEED = 1_000_000
"""Seed of every training of the search: of none that is tested, lest luck be chosen with it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is tried, and how it is judged."""

    data: tuple[StudyData, ...]
    arms: tuple[str, ...]
    trials: int
    steps: int
    batch_size: int
    """0: what the defaults have for the data."""
    seeds: tuple[int, ...]
    search_seed: int
    judged: Judged

    @property
    def searched(self) -> list[str]:
        """The arms that have a space."""
        return [arm for arm in self.arms if arm != DEFAULTS]

    def search(self) -> list[Trial]:
        """All trials of the search, the first of every arm before the second of any.

        Raises:
            UserError: the budget of steps is below one epoch.
        """
        by_arm = [self._draws(data, arm) for data in self.data for arm in self.searched]
        return [trial for of_number in zip(*by_arm, strict=True) for trial in of_number]

    def sweep(self, rows: Sequence[Row], arms: Sequence[str], dims: Sequence[int]) -> list[Trial]:
        """Trials of arms' best settings with other dimensions of the outputs.

        Those are the augmented vectors' too. They are judged on validation, for each seed.

        Raises:
            UserError: no trial of an arm has a score.
        """
        found = []
        for data in self.data:
            for arm in (arm for arm in self.searched if arm in arms):
                best = self.chosen(rows, data, arm)
                for dim in dims:
                    setting = best | {"model.output_dim": dim}
                    if setting.get("model.residual"):
                        setting["model.embedding_dim"] = dim
                    found += [
                        self._trial("sweep", data, arm, setting, seed, dim) for seed in self.seeds
                    ]
        return found

    def tests(self, rows: Sequence[Row]) -> list[Trial]:
        """A trial of every arm's best setting for each seed.

        Raises:
            UserError: no trial of an arm has a score.
        """
        return [
            self._trial("test", data, arm, setting, seed)
            for data in self.data
            for arm, setting in self._settings(rows, data)
            for seed in self.seeds
        ]

    def baselines(self) -> list[Trial]:
        """A trial of all baselines of each log."""
        return [self._trial("baselines", data, "baselines", {}, 0) for data in self.data]

    def chosen(self, rows: Sequence[Row], data: StudyData, arm: str) -> Setting:
        """The best setting of an arm, with the number of epochs that it is to be trained for."""
        best = self.best(rows, data, arm)
        setting: Setting = json.loads(best["setting"])
        return setting | {"epochs": best["chosen_epochs"]}

    def best(self, rows: Sequence[Row], data: StudyData, arm: str) -> Row:
        """The trial of an arm that has the highest score; of equals the first.

        Raises:
            UserError: none has a score.
        """
        found = {row["id"]: row for row in rows}
        mine = [found[trial.id] for trial in self._draws(data, arm) if trial.id in found]
        scored = [row for row in mine if row["score"] is not None]
        if not scored:
            why = mine[0]["failure"] if mine else "none has run"
            raise UserError(f"{data.name}: no trial of {arm} has a score: {why}")
        return max(scored, key=lambda row: float(row["score"]))

    def _settings(self, rows: Sequence[Row], data: StudyData) -> Iterator[tuple[str, Setting]]:
        for arm in self.arms:
            yield arm, {} if arm == DEFAULTS else self.chosen(rows, data, arm)

    def _draws(self, data: StudyData, arm: str) -> list[Trial]:
        return [
            self._trial("search", data, arm, self._drawn(data, arm, number), SEARCH_SEED, number)
            for number in range(self.trials)
        ]

    def _drawn(self, data: StudyData, arm: str, number: int) -> Setting:
        batch_size = self.batch_size or data.batch_size

        def most_epochs(skip_repeats: bool) -> int:
            steps = data.epoch_steps(batch_size, skip_repeats=skip_repeats)
            if steps > self.steps:
                raise UserError(
                    f"--steps {self.steps}: an epoch of {data.name} has {steps} steps of "
                    f"{batch_size} examples: give a multiple of it, or a larger --batch-size"
                )
            return self.steps // steps

        usual = data.usual(ARMS[arm].preset)
        setting = draw(arm, number, self.search_seed, most_epochs, usual)
        return setting | {"batch_size": batch_size}

    def _trial(
        self,
        stage: Stage,
        data: StudyData,
        arm: str,
        setting: Setting,
        seed: int,
        number: int | None = None,
    ) -> Trial:
        skips = bool(setting.get("examples.skip_repeats"))
        batch_size = setting.get("batch_size") or data.batch_size
        return Trial(
            stage=stage,
            data=data,
            arm=arm,
            setting=setting,
            seed=seed,
            judged=self.judged,
            number=number,
            epoch_steps=data.epoch_steps(batch_size, skip_repeats=skips),
        )
