"""A configuration in, a trained run out: plan, shard, step, log, checkpoint."""

import json
import resource
import signal
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel, DMPCollection
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.checkpoint.checkpoint import CheckpointWriter, restore
from dat_rec.checkpoint.found import checkpoints
from dat_rec.config import TrainConfig, flatten, to_json
from dat_rec.data.batch import Batch
from dat_rec.data.columns import BadIds
from dat_rec.data.dataset import Dataset
from dat_rec.data.prefetch import Prefetcher
from dat_rec.data.reader import OPTION_CURE, ExampleReader, ReaderOptions
from dat_rec.dist.agree import (
    all_gather_object,
    check_same_on_all_ranks,
    together,
    wait_for_all_ranks,
)
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import SharedError, StoppedError
from dat_rec.model.losses import most_compared
from dat_rec.planner.cost_estimate import PlanEstimate
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.planner.plan_table import plan_to_json
from dat_rec.preflight.preflight import require
from dat_rec.runs.fence import Fence
from dat_rec.runs.run_folder import RunFolder
from dat_rec.runs.start_page import Start, start_page
from dat_rec.runs.warm_start import warm_start
from dat_rec.sharding.copies import average_copies
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.sharding.options import ShardingOptions
from dat_rec.train.metrics_log import LookupTimer, MetricsLog
from dat_rec.train.objective import TrainTask, logged_terms
from dat_rec.train.optimizers import LearningRates, build_optimizer
from dat_rec.train.preemption import StopVote
from dat_rec.train.watch import LossWatch


def train(config: TrainConfig) -> dict[str, Any]:
    """Train a model; every rank calls this.

    Returns:
        What ``train.json`` holds: steps, examples, last losses, samples/s, shares of time.

    Raises:
        UserError: the configuration, the dataset, the run's folder or a checkpoint is bad.
        RankError: another rank failed or died.
        SupersededError: another start of the run has taken its folder over.
        StoppedError: SIGTERM came, and a checkpoint was written.
    """
    config.check()
    # Until the steps begin there is nothing to save.
    before = signal.signal(signal.SIGTERM, _stop_at_once)
    try:
        return _train_in_group(config)
    finally:
        signal.signal(signal.SIGTERM, before)


def _train_in_group(config: TrainConfig) -> dict[str, Any]:
    with process_group(config.timeout_s, config.memory_gb, config.device) as context:
        _preflight(config, context)
        with together():
            dataset = Dataset.open(config.data)
        check_same_on_all_ranks(
            json.dumps([to_json(config), str(dataset.schema)]), "the configuration or the dataset"
        )
        folder = RunFolder(config, dataset, context)
        folder.check()
        return _train(config, dataset, context, folder)


def _preflight(config: TrainConfig, context: RankContext) -> None:
    # Ranks whose commands differ are told so later: until then the first one's word counts.
    wanted = [config.preflight and context.world_size > 1]
    dist.broadcast_object_list(wanted)
    if wanted[0]:
        line = require(context, config.out)
        if context.is_rank_zero:
            print(line, file=sys.stderr)


def _stop_at_once(*_: Any) -> None:
    raise StoppedError(
        "stopped by SIGTERM before or after the steps: finished checkpoints are whole: go on with "
        "--resume"
    )


def _train(
    config: TrainConfig, dataset: Dataset, context: RankContext, folder: RunFolder
) -> dict[str, Any]:
    # What can refuse its input comes before the folder is touched.
    global_batch = folder.global_batch()
    with together():
        options = reader_options(config, global_batch)
        reader = ExampleReader(dataset, options, context.rank, context.world_size)
    estimate = PlanEstimate()
    share = -(-global_batch // context.world_size)
    model, plan = build_model(config, dataset, context, share, estimate)
    optimizer = build_optimizer(
        model, config.optimizer.tower_lr, config.optimizer.table_lr, config.optimizer.table
    )
    folder.take_over()
    passed_over: list[Path] = []
    facts = _begin(config, dataset, model, optimizer, folder, passed_over)
    done = int(facts["step"])
    folder.begin(plan, reader.steps, passed_over)
    if done and context.is_rank_zero:
        print(f"resumed after step {done} of {reader.steps}", file=sys.stderr)
    if done == reader.steps and (summary := folder.summary()):
        return summary
    folder.forget_results()
    start = Start(
        context=context,
        hosts=folder.hosts,
        steps=reader.steps,
        done=done,
        examples=reader.examples,
        global_batch=global_batch,
        plan=plan,
        estimate=estimate,
        compared=str(reader.compared) if config.loss.alignment else None,
    )
    folder.tell(start_page(config, start))
    reader.start_step = done
    with closing(Training(config, context, model, optimizer, reader, folder.fence)) as training:
        if sums := facts.get("loss_sums"):
            training.watch.load_state(sums)
        found = training.run()
    return folder.finish(
        {
            "steps": reader.steps,
            "resumed_after": done,
            "examples_an_epoch": reader.examples,
            "world_size": context.world_size,
            "bad_ids": reader.bad_ids,
            **found,
        }
    )


def _begin(
    config: TrainConfig,
    dataset: Dataset,
    model: DistributedModelParallel,
    optimizer: CombinedOptimizer,
    folder: RunFolder,
    passed_over: list[Path],
) -> dict[str, Any]:
    """Load what the run goes on or begins from; the checkpoint's facts, or those of step 0."""
    facts: dict[str, Any] = {"step": 0}
    if folder.resume:
        facts = restore(config.out, model, optimizer, folder.global_batch(), passed_over)
    if not facts["step"] and config.warm_start is not None:
        warm_start(config.warm_start, dataset, model, optimizer)
    return facts


class Training:
    """The steps of one start of a run, with what watches over them.

    Args:
        config: the run's.
        context: this process's.
        model: sharded and filled.
        optimizer: of ``build_optimizer``.
        reader: begins after the steps that were done before.
        fence: of the run's folder.
    """

    def __init__(
        self,
        config: TrainConfig,
        context: RankContext,
        model: DistributedModelParallel,
        optimizer: CombinedOptimizer,
        reader: ExampleReader,
        fence: Fence,
    ) -> None:
        self._config = config
        self._model, self._optimizer, self._reader = model, optimizer, reader
        self._done = reader.start_step
        copies = 1
        if config.sharding_group_size:
            copies = context.world_size // config.sharding_group_size
        self._writer = CheckpointWriter(
            config.out,
            context,
            config.keep_checkpoints,
            config.keep_best,
            background=config.background_saves,
            copies=copies,
            fence=fence,
            patience_s=config.disk_patience_s,
        )
        self._vote = StopVote(context)
        self._batches = Prefetcher(iter(reader))
        self._lookup = LookupTimer(model)
        self._pipeline = TrainPipelineSparseDist[Batch, torch.Tensor](
            model,
            optimizer,
            context.device,
            execute_all_batches=True,
            # Left to itself, it averages the copies of the tables after every batch: so does run.
            dmp_collection_sync_interval_batches=None,
        )
        self.watch = LossWatch(self._examples, config.log_every)
        clocks = {
            "data_wait": lambda: self._batches.wait_s,
            "lookup": lambda: self._lookup.seconds,
            "checkpoint": lambda: self._writer.stall_s,
        }
        options = {
            name: value
            for name, value in flatten(to_json(config)).items()
            if name not in ("out", "resume", "overwrite")
        } | {"world_size": context.world_size, "global_batch": reader.global_batch}
        self._log = MetricsLog(
            config.out, reader.steps, self._done, reader.global_batch, clocks, options
        )

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            ``loss``, mean over the examples of the last ``loss_steps`` steps, and the figures of
            ``MetricsLog.summary``.
        """
        config, steps = self._config, self._reader.steps
        rates = LearningRates(self._optimizer, config.optimizer, steps)
        shown = logged_terms(config.model, config.loss)
        # A disk has kept nobody until here: from now on the timeout counts.
        wait_for_all_ranks()
        with self._log:
            for step in range(self._done + 1, steps + 1):
                factor = rates.set(step - 1)
                self.watch.add(self._pipeline.progress(self._batches))
                if config.sharding_group_size:
                    average_copies(cast(DMPCollection, self._model))
                self._log.step()
                stop = self._vote.cast() and step < steps
                save_now = stop or step % config.checkpoint_every == 0 or step == steps
                if save_now or step % config.log_every == 0:
                    losses = self.watch.look(step, self._reader.where, self._cure)
                    losses = {name: losses[name] for name in shown}
                    self._log.point(step, losses, factor)
                if save_now:
                    self._save(step, last=stop or step == steps)
                if stop:
                    self._writer.finish()
                    raise StoppedError(
                        f"{config.out}: stopped by SIGTERM after step {step} of {steps}, whose "
                        "checkpoint is whole: go on with --resume"
                    )
            self._writer.finish()
        means, averaged = self.watch.mean()
        loss = {name: means[name] for name in shown if name in means}
        # The first rank comes here when its curves are on the disk.
        peaks = all_gather_object(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return {
            "loss": loss,
            "loss_steps": averaged,
            **self._log.summary(),
            "peak_memory_mb": peaks,
        }

    def _examples(self, step: int) -> int:
        """In a step's global batch, by its number from 1: the last one may be smaller."""
        batch, total = self._reader.global_batch, self._reader.examples * self._config.epochs
        return min(batch, total - (step - 1) * batch)

    def _save(self, step: int, *, last: bool) -> None:
        facts = {
            "global_batch": self._reader.global_batch,
            "examples_seen": min(
                step * self._reader.global_batch, self._reader.examples * self._config.epochs
            ),
            "seed": self._config.seed,
            "loss": self.watch.mean_main(),
            "loss_sums": self.watch.state(),
        }
        self._writer.save(step, self._model, self._optimizer, facts, last=last)

    def _cure(self) -> str:
        # All ranks are here: what was begun can become whole.
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
        """Stop the threads. Of several ranks, after a failure, nobody waits for the others."""
        self._batches.close()
        if dist.get_world_size() == 1 or sys.exc_info()[0] is None:
            self._vote.close()
            self._writer.close()


def build_model(
    config: TrainConfig,
    dataset: Dataset,
    context: RankContext,
    batch_size: int | None = None,
    estimate: PlanEstimate | None = None,
) -> tuple[DistributedModelParallel, list[dict[str, Any]]]:
    """The model, planned and sharded, and its plan; its numbers depend on the seed alone.

    Args:
        config: the run's.
        dataset: whose features it has.
        context: this process's.
        batch_size: examples a batch on each rank, where it is not the configuration's.
        estimate: takes what the planner expects of the plan, on the first rank.
    """
    torch.manual_seed(config.seed)
    rows = batch_size or config.batch_size
    meta = torch.device("meta")
    task = TrainTask(dataset.schema, config.model, config.loss, meta, context.world_size)
    factors = pooling_factors(dataset, BadIds(config.examples.bad_ids, OPTION_CURE))
    options = sharding_options(config, rows + config.loss.shared_rows(context.world_size))
    model, plan = plan_and_shard(task, factors, context, options, estimate)
    initialize_tables(model, config.seed, config.optimizer.table_init)
    return model, plan_to_json(plan)


def pooling_factors(dataset: Dataset, bad_ids: BadIds) -> dict[str, float]:
    """Mean number of values in a bag: as of the split for users, over the catalogue for items."""
    columns = dataset.user_columns(bad_ids) | dataset.item_columns(bad_ids)
    return {
        name: max(1.0, len(column.values) / max(1, len(column)))
        for name, column in columns.items()
        if column.offsets is not None
    }


def sharding_options(config: TrainConfig, batch_size: int) -> ShardingOptions:
    """What the configuration says of planning and sharding."""
    return ShardingOptions(
        batch_size=batch_size,
        table_lr=config.optimizer.table_lr,
        optimizer=config.optimizer.table,
        sharding_types=config.sharding_types,
        pins=config.pin,
        memory_gb=config.memory_gb,
        comms=config.comms,
        sharding_group_size=config.sharding_group_size,
        topology=config.topology,
    )


def reader_options(config: TrainConfig, global_batch: int) -> ReaderOptions:
    """What the configuration says of the stream of batches."""
    return ReaderOptions(
        global_batch=global_batch,
        epochs=config.epochs,
        seed=config.seed,
        negatives=config.loss.negatives,
        shared_negatives=config.loss.shared_negatives,
        in_batch=config.loss.in_batch,
        negative_power=config.loss.negative_power,
        id_dropout=config.examples.id_dropout,
        skip_repeats=config.examples.skip_repeats,
        bad_ids=config.examples.bad_ids,
        categories=most_compared(config.model.output_dim) if config.loss.alignment else None,
    )
