"""Train: a configuration in, a trained run out. ``train`` reads from data to results."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.checkpoint.find import newest_whole
from dat_rec.checkpoint.restore import restore
from dat_rec.config import TrainConfig
from dat_rec.data.columns import total_bad_ids
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.data.stream.survey import join_surveys, survey
from dat_rec.defaults import words
from dat_rec.dist.agree import all_gather_object, check_same_on_all_ranks, together
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import StoppedError
from dat_rec.model.products import has_onednn, library_of, multiply_by
from dat_rec.model.towers import TowerFactory
from dat_rec.option_marks import to_json
from dat_rec.planner.cost_estimate import PlanEstimate
from dat_rec.preflight.preflight import require
from dat_rec.runs.from_mirror import fill_from_mirror
from dat_rec.runs.mirror import mirrored
from dat_rec.runs.run_folder import OpenRun, open_run
from dat_rec.runs.start_page import Start, start_page
from dat_rec.runs.warm_start import warm_start
from dat_rec.runs.writes import announce, begin, earlier_summary, finish, take_over
from dat_rec.training.build import begin_with_factors, build_model, reader_options
from dat_rec.training.optimizers import build_optimizer
from dat_rec.training.steps import Training
from dat_rec.training.trackers.tracker import check_trackers
from dat_rec.training.validation import Validation, validation_queries


def train(config: TrainConfig, *, tower: TowerFactory | None = None) -> dict[str, Any]:
    """Train a model on a prepared dataset; alone, or on every rank of torchrun.

    Args:
        config: every option of the run.
        tower: makes towers of your own, in place of those that ``config.model`` describes.

    Returns:
        What ``train.json`` holds: steps, examples, last losses, samples/s, shares of time.

    Raises:
        UserError: the configuration, the dataset, the run's folder or a checkpoint is bad.
        RankError: another rank failed or died.
        SupersededError: another start of the run has taken its folder over.
        StoppedError: SIGTERM came; during the steps a checkpoint is written first.

    Example:
        >>> config = dat_rec.TrainConfig(data=Path("data"), out=Path("run"), epochs=1)
        >>> summary = dat_rec.train(config)
        >>> summary["steps"], sorted(summary["loss"])
        (2, ['alignment', 'main', 'mimic_item', 'mimic_user'])
    """
    config.check()
    group = process_group(config.timeout_s, config.memory_gb, config.device)
    with _stopped_at_once_by_sigterm(), group as context:
        _preflight(config, context)
        with together():
            if context.is_rank_zero:
                check_trackers(config.log_to)
            dataset = Dataset.open(config.data)
        check_same_on_all_ranks(
            json.dumps([to_json(config), str(dataset.schema), dataset.versions()]),
            "the configuration or the dataset",
        )
        # Whatever can refuse its input comes before anything is written to the run's folder.
        fill_from_mirror(config, context)
        run = open_run(config, dataset, context)
        reader = _reader(run)
        asked = validation_queries(config, dataset)

        estimate = PlanEstimate()
        model, plan = build_model(config, dataset, context, reader.rows, estimate, tower)
        optimizer = build_optimizer(
            model, config.optimizer.tower_lr, config.optimizer.table_lr, config.optimizer.table
        )
        take_over(run)
        state, damaged = _load(run, model, optimizer)
        done = reader.start_step = int(state["step"])
        if done and config.matmul == "auto":
            multiply_by(state.get("products", "mkl") if has_onednn() else "mkl", model)

        begin(run, plan, reader.steps, damaged)
        if done and context.is_rank_zero:
            print(f"resumed after step {done} of {reader.steps}", file=sys.stderr)
        validation = None
        if asked is not None:
            validation = Validation(run, model, asked, state.get("validation"), done, tower)
        over = validation is not None and validation.rule.is_over
        if (done == reader.steps or over) and (summary := earlier_summary(run)):
            return summary
        queries = None if asked is None else len(asked.user_row)
        announce(run, start_page(config, _start(run, reader, plan, estimate, model), queries))

        sums = state.get("loss_sums")
        training = Training(run, model, optimizer, reader, sums, validation)
        with mirrored(run):
            with closing(training):
                results = training.run()
            facts = {
                "resumed_after": done,
                "examples_an_epoch": reader.examples,
                "world_size": context.world_size,
                "bad_ids": total_bad_ids(all_gather_object(reader.bad_ids)),
            }
            return finish(run, facts | results)


@contextmanager
def _stopped_at_once_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise ``StoppedError``: before and after the steps there is nothing to save.

    During the steps ``preemption.StopVote`` handles it.
    """

    def stop(*_: Any) -> None:
        raise StoppedError(
            "stopped by SIGTERM before or after the steps: finished checkpoints are whole: go on "
            "with --resume"
        )

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _preflight(config: TrainConfig, context: RankContext) -> None:
    # Ranks whose commands differ are told so later: until then the first one's word counts.
    wanted = [config.preflight and context.world_size > 1]
    dist.broadcast_object_list(wanted)
    if wanted[0]:
        line = require(context, config.out)
        if context.is_rank_zero:
            print(line, file=sys.stderr)


def _reader(run: OpenRun) -> ExampleReader:
    """Open the examples; each rank asks its part of the files what they hold."""
    config, context, dataset = run.config, run.context, run.dataset
    rank, ranks = context.rank, context.world_size
    options = reader_options(config, run.global_batch)
    with together():
        part = survey(
            dataset, options.bad_ids, skip_repeats=options.skip_repeats, part=rank, parts=ranks
        )
    surveyed = join_surveys(all_gather_object(part))
    with together():
        return ExampleReader(dataset, options, rank, ranks, surveyed=surveyed)


def _load(
    run: OpenRun, model: DistributedModelParallel, optimizer: CombinedOptimizer
) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Load what the run goes on or begins from.

    Returns:
        What else the checkpoint holds (``step`` is 0 without one), and later checkpoints that were
        passed over, since they are damaged.
    """
    found = newest_whole(run.folder) if run.resume else None
    if found is not None:
        return restore(found, model, optimizer, run.global_batch), found.damaged
    if run.config.warm_start is not None:
        warm_start(run.config.warm_start, run.dataset, model, optimizer)
    elif run.config.optimizer.table_start == "svd":
        begin_with_factors(run.config, model, run.dataset, run.context)
    return {"step": 0}, ()


def _start(
    run: OpenRun,
    reader: ExampleReader,
    plan: list[dict[str, Any]],
    estimate: PlanEstimate,
    model: DistributedModelParallel,
) -> Start:
    on_cpu = run.context.device.type == "cpu" and run.config.model.precision == "float32"
    return Start(
        context=run.context,
        hosts=run.hosts,
        steps=reader.steps,
        done=reader.start_step,
        examples=reader.examples,
        global_batch=run.global_batch,
        rows=reader.rows,
        plan=plan,
        estimate=estimate,
        by_data=tuple(words(run.config, run.dataset.schema, run.context.world_size)),
        compared=str(reader.compared) if run.config.loss.alignment else None,
        past=run.dataset.schema.past,
        products=library_of(model) if on_cpu else None,
    )
