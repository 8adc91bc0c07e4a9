"""A configuration in, a trained run out: plan, shard, step, log, checkpoint."""

import json
import sys
from typing import Any

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from dat_rec.config import TrainConfig, to_json
from dat_rec.data.batch import Batch
from dat_rec.data.columns import BadIds
from dat_rec.data.dataset import Dataset
from dat_rec.data.reader import OPTION_CURE, ExampleReader, Prefetcher, ReaderOptions
from dat_rec.parallel.agree import check_same_on_all_ranks
from dat_rec.parallel.initialize import initialize_tables
from dat_rec.parallel.process_group import Place, process_group
from dat_rec.parallel.shard import plan_to_json, shard
from dat_rec.train.checkpoint import restore, save
from dat_rec.train.metrics_log import LookupTimer, MetricsLog
from dat_rec.train.objective import TrainTask, logged_terms
from dat_rec.train.optimizers import LearningRates, build_optimizer
from dat_rec.train.run_folder import RunFolder
from dat_rec.train.watch import LossWatch


def train(config: TrainConfig) -> dict[str, Any]:
    """Train a model; every rank calls this.

    Returns:
        What ``train.json`` holds: steps, examples, last losses, samples/s, shares of time.

    Raises:
        UserError: the configuration, the dataset, the run's folder or a checkpoint is bad.
    """
    config.check()
    with process_group(config.timeout_s) as place:
        dataset = Dataset.open(config.data)
        check_same_on_all_ranks(
            json.dumps([to_json(config), str(dataset.schema)]), "the configuration or the dataset"
        )
        folder = RunFolder(config, dataset, place)
        folder.check()
        return _train(config, dataset, place, folder)


def _train(
    config: TrainConfig, dataset: Dataset, place: Place, folder: RunFolder
) -> dict[str, Any]:
    # What can refuse its input comes before the folder is touched.
    options = reader_options(config, place.world_size)
    reader = ExampleReader(dataset, options, place.rank, place.world_size)
    model, plan = build_model(config, dataset, place)
    optimizer = build_optimizer(model, config.optimizer.tower_lr)
    folder.begin(plan)
    done = restore(config.out, model, optimizer) if config.resume else 0
    if done and place.is_first:
        print(f"resumed after step {done} of {reader.steps}", file=sys.stderr)
    if done == reader.steps and (summary := folder.summary()):
        return summary
    folder.forget_results()
    reader.start_step = done
    rates = LearningRates(optimizer, config.optimizer, reader.steps)
    batches = Prefetcher(iter(reader))
    lookup = LookupTimer(model)
    pipeline = TrainPipelineSparseDist[Batch, torch.Tensor](
        model, optimizer, place.device, execute_all_batches=True
    )
    clocks = {"data_wait": lambda: batches.wait_s, "lookup": lambda: lookup.seconds}
    global_batch = config.batch_size * place.world_size
    log = MetricsLog(config.out, reader.steps, done, global_batch, clocks)
    shown, losses = logged_terms(config.model, config.loss), {}
    watch, last_save = LossWatch(), done
    try:
        with log:
            for step in range(done + 1, reader.steps + 1):
                factor = rates.set(step - 1)
                watch.add(pipeline.progress(batches))
                log.step()
                save_now = step % config.checkpoint_every == 0 or step == reader.steps
                if save_now or step % config.log_every == 0:
                    losses = watch.look(step, _cure(last_save))
                    losses = {name: losses[name] for name in shown}
                    log.point(step, losses, factor)
                if save_now:
                    save(config.out, step, model, optimizer, config.keep_checkpoints)
                    last_save = step
    finally:
        batches.close()
    return folder.finish(
        {
            "steps": reader.steps,
            "resumed_after": done,
            "examples_an_epoch": reader.examples,
            "bad_ids": reader.bad_ids,
            "world_size": place.world_size,
            "loss": losses,
            **log.summary(),
        }
    )


def _cure(last_save: int) -> str:
    kept = (
        f"the checkpoint of step {last_save} is whole"
        if last_save
        else "there is no checkpoint yet"
    )
    return f"lower --optimizer.table-lr or --optimizer.tower-lr in a new --out; {kept}"


def build_model(
    config: TrainConfig, dataset: Dataset, place: Place
) -> tuple[DistributedModelParallel, list[dict[str, Any]]]:
    """The model, planned and sharded, and its plan; its numbers depend on the seed alone."""
    torch.manual_seed(config.seed)
    task = TrainTask(dataset.schema, config.model, config.loss, torch.device("meta"))
    model, plan = shard(
        task,
        _pooling_factors(dataset, BadIds(config.examples.bad_ids, OPTION_CURE)),
        place,
        config.batch_size,
        config.optimizer.table_lr,
        config.sharding_types,
        config.pin,
    )
    rows = plan_to_json(plan)
    check_same_on_all_ranks(json.dumps(rows), "the sharding plan")
    initialize_tables(model, config.seed, config.optimizer.table_init)
    return model, rows


def _pooling_factors(dataset: Dataset, bad_ids: BadIds) -> dict[str, float]:
    """Mean number of values in a bag: as of the split for users, over the catalogue for items."""
    columns = dataset.user_columns(bad_ids) | dataset.item_columns(bad_ids)
    return {
        name: max(1.0, len(column.values) / max(1, len(column)))
        for name, column in columns.items()
        if column.offsets is not None
    }


def reader_options(config: TrainConfig, world_size: int) -> ReaderOptions:
    """What the configuration says of the stream of batches."""
    return ReaderOptions(
        global_batch=config.batch_size * world_size,
        epochs=config.epochs,
        seed=config.seed,
        negatives=config.loss.negatives,
        negative_power=config.loss.negative_power,
        id_dropout=config.examples.id_dropout,
        skip_repeats=config.examples.skip_repeats,
        bad_ids=config.examples.bad_ids,
    )
