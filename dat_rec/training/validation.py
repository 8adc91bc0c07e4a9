"""A model that is being trained in, its figures on the validation span out, as of ``evaluate``.

The protocol is evaluate's own, on the interactions of validation.parquet in place of the test's.
The model is read where it stands (``retrieval/live.py``), beside TorchRec's pipeline.
"""

import dataclasses
import time
from typing import Any

from torch import nn

from dat_rec.config import TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.disk import reason, say
from dat_rec.dist.agree import broadcast_from_rank_0, together
from dat_rec.errors import SharedError, SupersededError, UserError
from dat_rec.model.towers import TowerFactory
from dat_rec.retrieval.divided import BETWEEN_RANKS, messages_over
from dat_rec.retrieval.live import LiveModel
from dat_rec.retrieval.metrics import USER_CUTOFFS, blocks
from dat_rec.retrieval.model_ranks import model_ranks
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranks import one_thread_each
from dat_rec.retrieval.top_lists import TopLists
from dat_rec.runs.run_folder import OpenRun
from dat_rec.runs.validations import (
    figures_of,
    read_validations,
    value_of,
    write_validations,
)
from dat_rec.training.early_stopping import StopRule


def validation_queries(config: TrainConfig, dataset: Dataset) -> Protocol | None:
    """Read what the validations ask; None where there are none. All ranks call this together.

    Raises:
        SharedError: the dataset has no validation span, or none of its queries counts in the metric
            of ``--stop-by``, or a file is malformed.
    """
    if not config.validate_every:
        return None
    with together():
        if not dataset.schema.validation:
            raise UserError(
                f"--validate-every {config.validate_every}: {dataset.folder} has no "
                "validation.parquet: prepare it with --validation-share, or leave the option out"
            )
        protocol = Protocol.read(dataset, "validation", config.validation_queries, config.seed)
        block = config.stop_by.partition("/")[0]
        new, cold = protocol.new_pair, ~protocol.answerable
        asked = {"new_pairs": new, "per_user": new, "cold": cold}
        if not asked.get(block, protocol.answerable).any():
            raise UserError(
                f"--stop-by {config.stop_by}: none of the {len(protocol.user_row)} queries of "
                "the validation is of that block: name another metric"
            )
    return protocol


class Validation:
    """Scores the model of a run at some of its steps, and writes the figures to the run's folder.

    Args:
        run: the run.
        model: sharded.
        protocol: of ``validation_queries``.
        state: of the checkpoint that the run goes on from; None without one.
        done: number of steps done before.
        tower: the tower that the run is trained with, if it is not dat_rec's own.
    """

    def __init__(
        self,
        run: OpenRun,
        model: nn.Module,
        protocol: Protocol,
        state: dict[str, Any] | None = None,
        done: int = 0,
        tower: TowerFactory | None = None,
    ) -> None:
        config = run.config
        self._run = run
        # Ids that are trained as unknown are encoded as unknown.
        self._dataset = dataclasses.replace(run.dataset, bad_ids=config.examples.bad_ids)
        with together():
            self._live = LiveModel(self._dataset, config, model, tower)
        self._protocol = protocol
        # Training's own may take no tensors of the CPU.
        self._group = run.context.own_group() if run.context.world_size > 1 else None
        self.rule = StopRule(config.stop_by, config.patience)
        if state is not None:
            self.rule.load_state(state)
        self._records = self._recorded(done) if run.context.is_rank_zero else []
        self.seconds = 0.0
        """Seconds that training has waited for validations."""

    def due(self, step: int, steps: int) -> bool:
        """Whether the model is validated after ``step`` of ``steps``."""
        return step % self._run.config.validate_every == 0 or step == steps

    def look(self, step: int) -> tuple[dict[str, Any], bool]:
        """Validate the model. Collective.

        Returns:
            The record of ``runs/validations.py``, and whether the model is better than all before.

        Raises:
            SharedError: a vector is not finite, or a file cannot be read.
        """
        begin = time.perf_counter()
        try:
            with messages_over(self._group), one_thread_each() as threads:
                lists = TopLists(self._protocol, USER_CUTOFFS, BETWEEN_RANKS)
                ranks = model_ranks(
                    self._live.now(), self._dataset, self._protocol, threads, lists, shown=False
                )
        except SharedError:
            raise
        except UserError as error:  # every rank has the same vectors
            raise SharedError(str(error)) from error
        # One rank's word counts: another's processor may round a mean otherwise.
        found = broadcast_from_rank_0(
            figures_of(blocks(self._protocol, ranks, lists, USER_CUTOFFS))
        )
        better = self.rule.look(step, value_of(found, self.rule.metric))
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        record = {**self.rule.state(step), "seconds": seconds, **found}
        if self._run.context.is_rank_zero:
            self._records.append(record)
            self._write()
        return record, better

    def _recorded(self, done: int) -> list[dict[str, Any]]:
        try:
            found = read_validations(self._run.folder)
        except UserError as error:
            say(f"{error}: begun anew")
            return []
        # Those after the checkpoint will come again.
        return [record for record in found if record["step"] <= done]

    def _write(self) -> None:
        """Write all records; what the disk refuses now comes with the next: it is worth no run."""
        folder = self._run.folder
        try:
            self._run.fence.check()
            write_validations(folder, self._records)
        except SupersededError:
            pass  # the next checkpoint says so on all ranks
        except (OSError, UserError) as error:
            say(f"{folder}: the validation of step {self.rule.step} waits: {reason(error, folder)}")

    def summary(self) -> dict[str, Any]:
        """Return what train.json holds of the validations."""
        return {
            "metric": self.rule.metric,
            "queries": len(self._protocol.user_row),
            "best": self.rule.best,
            "best_step": self.rule.best_step,
            "last": self.rule.value,
            "stopped_early": self.rule.words() if self.rule.is_over else None,
        }
