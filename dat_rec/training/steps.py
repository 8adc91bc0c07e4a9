"""Do the steps of one start of a run: train, log, watch the loss, validate, save, and stop."""

import resource
import sys
from contextlib import suppress
from typing import Any, cast

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel, DMPCollection
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec import __version__
from dat_rec.checkpoint.listing import checkpoints
from dat_rec.checkpoint.writer import CheckpointWriter
from dat_rec.data.stream.batch import Batch
from dat_rec.data.stream.prefetch import Prefetcher
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.dist.agree import all_gather_object, wait_for_all_ranks
from dat_rec.errors import SharedError, StoppedError
from dat_rec.model.products import library_of
from dat_rec.option_marks import flatten, to_json
from dat_rec.runs.run_folder import OpenRun
from dat_rec.sharding.copies import average_copies
from dat_rec.training.metrics_log import LookupTimer, MetricsLog
from dat_rec.training.objective import learned_temperature, logged_terms
from dat_rec.training.optimizers import LearningRates
from dat_rec.training.preemption import StopVote
from dat_rec.training.validation import Validation
from dat_rec.training.watch import LossWatch


class Training:
    """Does the steps of one start, from the step after the last checkpoint to the run's end.

    Args:
        run: the run.
        model: sharded and filled.
        optimizer: of ``build_optimizer``.
        reader: reads from ``start_step`` on, the number of steps that were done before.
        loss_sums: of the checkpoint that the run goes on from, which its last loss counts in.
        validation: scores the model now and then, and ends the run early; None: nobody does.
    """

    def __init__(
        self,
        run: OpenRun,
        model: DistributedModelParallel,
        optimizer: CombinedOptimizer,
        reader: ExampleReader,
        loss_sums: list[dict[str, Any]] | None = None,
        validation: Validation | None = None,
    ) -> None:
        config, context = run.config, run.context
        self._config = config
        self._model, self._optimizer, self._reader = model, optimizer, reader
        self._done = reader.start_step
        self._validation = validation
        self._watch = LossWatch(self._examples, config.log_every)
        if loss_sums:
            self._watch.load_state(loss_sums)
        copies = 1
        if config.sharding_group_size:
            copies = context.world_size // config.sharding_group_size
        # What early stopping goes back to must be there.
        self._keep_best = max(config.keep_best, 1) if config.patience else config.keep_best
        self._writer = CheckpointWriter(
            config.out,
            context,
            config.keep_checkpoints,
            self._keep_best,
            background=config.background_saves,
            copies=copies,
            fence=run.fence,
            patience_s=config.disk_patience_s,
        )
        self._vote = StopVote(context)
        self._batches = Prefetcher(iter(reader), context.device)
        lookup = LookupTimer(model)
        self._pipeline = TrainPipelineSparseDist[Batch, torch.Tensor](
            model,
            optimizer,
            context.device,
            execute_all_batches=True,
            # Left to itself, it averages the copies of the tables after every batch: so does run.
            dmp_collection_sync_interval_batches=None,
        )
        self._log = self._metrics_log(run, lookup)

    def _metrics_log(self, run: OpenRun, lookup: LookupTimer) -> MetricsLog:
        clocks = {
            "data_wait": lambda: self._batches.wait_s,
            "lookup": lambda: lookup.seconds,
            "checkpoint": lambda: self._writer.stall_s,
        }
        if (validation := self._validation) is not None:
            clocks["validation"] = lambda: validation.seconds
        options = {
            name: value
            for name, value in flatten(to_json(run.config)).items()
            if name not in ("out", "resume", "overwrite")
        } | {"world_size": run.context.world_size, "global_batch": run.global_batch}
        return MetricsLog(
            run.folder,
            self._reader.steps,
            self._done,
            run.global_batch,
            clocks,
            options,
            log_to=run.config.log_to,
            tags={
                "dat_rec": __version__,
                "preset": run.config.preset,
                "dataset": run.dataset.schema.source,
            },
        )

    def run(self) -> dict[str, Any]:
        """Train to the run's end, or until validation says that it is reached.

        Returns:
            ``steps``, done in the whole run; ``loss``, mean over the examples of the last
            ``loss_steps`` steps; ``temperature`` if it is learned; the figures of
            ``MetricsLog.summary`` and ``Validation.summary``.
        """
        config, steps = self._config, self._reader.steps
        rates = LearningRates(self._optimizer, config.optimizer, steps)
        shown = logged_terms(config.model, config.loss)
        # A slow disk may have kept a rank until here; from now on the timeout counts.
        wait_for_all_ranks()
        step = self._done
        with self._log:
            while step < steps and not self._is_over():
                step += 1
                factor = rates.set(step - 1)
                self._watch.add(self._pipeline.progress(self._batches))
                if config.sharding_group_size:
                    average_copies(cast(DMPCollection, self._model))
                self._log.step()
                stop = self._vote.cast() and step < steps
                save_now = stop or step % config.checkpoint_every == 0 or step == steps
                validate_now = self._validation is not None and self._validation.due(step, steps)
                if save_now or validate_now or step % config.log_every == 0:
                    losses = self._watch.look(step, self._reader.where, self._cure)
                    losses = {name: losses[name] for name in shown}
                    self._log.point(step, losses, factor, self._learned())
                if validate_now and self._validate(step):
                    save_now = True
                over = step == steps or self._is_over()
                if save_now:
                    self._save(step, last=stop or over)
                if stop and not over:
                    self._writer.finish()
                    raise StoppedError(
                        f"{config.out}: stopped by SIGTERM after step {step} of {steps}, whose "
                        "checkpoint is whole: go on with --resume"
                    )
            self._writer.finish()
        means, averaged = self._watch.mean()
        loss = {name: means[name] for name in shown if name in means}
        # Rank 0 comes here when its curves are on the disk.
        peaks = all_gather_object(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        validated = {} if self._validation is None else {"validation": self._validation.summary()}
        return {
            "steps": step,
            "loss": loss,
            "loss_steps": averaged,
            **self._learned(),
            **self._log.summary(),
            **validated,
            "peak_memory_mb": peaks,
        }

    def _learned(self) -> dict[str, float]:
        """Return what is learned beside towers and tables, by name."""
        temperature = learned_temperature(self._model)
        return {} if temperature is None else {"temperature": temperature}

    def _is_over(self) -> bool:
        """Return whether validation ends the run, now or in an earlier start."""
        return self._validation is not None and self._validation.rule.is_over

    def _validate(self, step: int) -> bool:
        """Score the model; return whether this step needs a checkpoint, whatever its number."""
        assert self._validation is not None
        record, better = self._validation.look(step)
        self._log.validated(step, record)
        return (better and self._keep_best > 0) or self._validation.rule.is_over

    def _examples(self, step: int) -> int:
        """Return the examples in a step, whose number counts from 1: the last may have fewer."""
        batch, total = self._reader.global_batch, self._reader.examples * self._config.epochs
        return min(batch, total - (step - 1) * batch)

    def _save(self, step: int, *, last: bool) -> None:
        facts = {
            "global_batch": self._reader.global_batch,
            "examples_seen": min(
                step * self._reader.global_batch, self._reader.examples * self._config.epochs
            ),
            "seed": self._config.seed,
            "loss": self._watch.mean_main(),
            "loss_sums": self._watch.state(),
            # Another library has other bits.
            "products": library_of(self._model) or "mkl",
        }
        if self._validation is not None:
            facts["validation"] = self._validation.rule.state(step)
        self._writer.save(step, self._model, self._optimizer, facts, last=last)

    def _cure(self) -> str:
        # All ranks are here, so that the checkpoint that was begun can become whole.
        with suppress(SharedError):
            self._writer.settle()
        kept = "there is no checkpoint yet"
        try:
            if found := checkpoints(self._config.out):
                kept = f"the checkpoint of step {found[-1][0]} is whole"
        except OSError:
            kept = "the disk does not tell which checkpoints there are"
        return f"lower --optimizer.table-lr or --optimizer.tower-lr in a new --out; {kept}"

    def close(self) -> None:
        """Stop the threads; after a failure, without waiting for the other ranks."""
        self._batches.close()
        if dist.get_world_size() == 1 or sys.exc_info()[0] is None:
            self._vote.close()
            self._writer.close()
