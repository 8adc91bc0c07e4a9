"""A configuration in, a trained run out: plan, shard, step, log, checkpoint.

``RUN`` holds config.json, schema.json, plan.json, plan.txt, tensorboard/, checkpoints/ and,
once training has ended, train.json.
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from dat_rec.config import TrainConfig, differences, to_json
from dat_rec.data.batch import Batch
from dat_rec.data.dataset import Dataset
from dat_rec.data.reader import ExampleReader, Prefetcher, ReaderOptions
from dat_rec.errors import UserError
from dat_rec.files import read_json, whole_file, write_json
from dat_rec.parallel.initialize import initialize_tables
from dat_rec.parallel.process_group import Place, process_group
from dat_rec.parallel.shard import check_same_on_all_ranks, plan_to_json, plan_to_text, shard
from dat_rec.train.checkpoint import checkpoints, load_config, restore, save
from dat_rec.train.metrics_log import LookupTimer, MetricsLog
from dat_rec.train.objective import TERMS, TrainTask
from dat_rec.train.optimizers import LearningRates, build_optimizer


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
        _open_run(config, dataset, place)
        return _train(config, dataset, place)


def _train(config: TrainConfig, dataset: Dataset, place: Place) -> dict[str, Any]:
    model = build_model(config, dataset, place)
    optimizer = build_optimizer(model, config.optimizer.tower_lr)
    done = restore(config.out, model, optimizer)
    reader = ExampleReader(dataset, reader_options(config), place.rank, place.world_size, done)
    if done and place.is_first:
        print(f"resumed after step {done} of {reader.steps}", file=sys.stderr)
    rates = LearningRates(optimizer, config.optimizer, reader.steps)
    batches = Prefetcher(iter(reader))
    lookup = LookupTimer(model)
    pipeline = TrainPipelineSparseDist[Batch, torch.Tensor](
        model, optimizer, place.device, execute_all_batches=True
    )
    global_batch = config.batch_size * place.world_size
    clocks = {"data_wait": lambda: batches.wait_s, "lookup": lambda: lookup.seconds}
    terms = torch.zeros(len(TERMS), device=place.device)
    log = MetricsLog(config.out, reader.steps, done, global_batch, config.log_every, clocks)
    try:
        with log:
            for step in range(done, reader.steps):
                factor = rates.set(step)
                terms = pipeline.progress(batches)
                log.step(step, terms, factor)
                if (step + 1) % config.checkpoint_every == 0 or step + 1 == reader.steps:
                    save(config.out, step + 1, model, optimizer, config.keep_checkpoints)
    finally:
        batches.close()
    return _summary(config, reader, log, terms, done, place)


def build_model(config: TrainConfig, dataset: Dataset, place: Place) -> DistributedModelParallel:
    """The model, planned and sharded; its numbers depend on the seed alone."""
    torch.manual_seed(config.seed)
    task = TrainTask(dataset.schema, config.model, config.loss, torch.device("meta"))
    model, plan = shard(
        task,
        _pooling_factors(dataset),
        place,
        config.batch_size,
        config.optimizer.table_lr,
        config.sharding_types,
    )
    rows = plan_to_json(plan)
    check_same_on_all_ranks(json.dumps(rows), "the sharding plan")
    initialize_tables(model, config.seed, config.optimizer.table_init)
    if place.is_first:
        text = plan_to_text(rows)
        write_json(config.out / "plan.json", rows)
        with whole_file(config.out / "plan.txt") as path:
            path.write_text(text + "\n", "utf-8")
        print(text, file=sys.stderr)
    return model


def _pooling_factors(dataset: Dataset) -> dict[str, float]:
    """Mean number of values in a bag: as of the split for users, over the catalogue for items."""
    columns = dataset.user_columns() | dataset.item_columns()
    return {
        name: max(1.0, len(column.values) / max(1, len(column)))
        for name, column in columns.items()
        if column.offsets is not None
    }


def reader_options(config: TrainConfig) -> ReaderOptions:
    """What the configuration says of the stream of batches."""
    return ReaderOptions(
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        negatives=config.loss.negatives,
        negative_power=config.loss.negative_power,
        id_dropout=config.examples.id_dropout,
        skip_repeats=config.examples.skip_repeats,
    )


def _open_run(config: TrainConfig, dataset: Dataset, place: Place) -> None:
    """Make the run's folder, or check that it is the one to go on with; all ranks agree."""
    problem: list[str] = [""]
    if place.is_first:
        try:
            _open_run_alone(config, dataset, place.world_size)
        except UserError as error:
            problem = [str(error)]
        except OSError as error:
            problem = [f"{config.out}: cannot be written ({error.strerror}): choose another --out"]
    dist.broadcast_object_list(problem, src=0)
    if problem[0]:
        raise UserError(problem[0])


def _open_run_alone(config: TrainConfig, dataset: Dataset, world_size: int) -> None:
    run = config.out
    if config.resume and (run / "config.json").exists():
        _check_resumable(config, run, world_size)
    elif (run / "config.json").exists() and not config.overwrite:
        raise UserError(f"{run} holds a run: pass --resume to go on with it, or --overwrite")
    elif run.exists() and not (run / "config.json").exists() and any(run.iterdir()):
        raise UserError(f"{run} is there and is no run: choose another --out")
    else:
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(run / name, ignore_errors=True)
        for name in ("train.json", "metrics.json"):
            (run / name).unlink(missing_ok=True)
    dataset.schema.save(run)
    write_json(run / "config.json", to_json(config) | {"world_size": world_size})


def _check_resumable(config: TrainConfig, run: Path, world_size: int) -> None:
    """A resumed run is the same run: all that decides its numbers must be as it was."""
    before = load_config(run)
    ranks = read_json(run / "config.json", "the run's configuration")["world_size"]
    if ranks != world_size and checkpoints(run):
        raise UserError(
            f"{run}: --resume on {world_size} ranks, but the run was made on {ranks}, and the "
            "global batch would change: use as many ranks, or another --out"
        )
    # What may change without changing the numbers.
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
        timeout_s=config.timeout_s,
    )
    differing = differences(config, same)
    if differing and checkpoints(run):
        raise UserError(
            f"{run}: --resume with {differing[0]}, in brackets what the run was made with: "
            "give the same options, or another --out"
        )


def _summary(
    config: TrainConfig,
    reader: ExampleReader,
    log: MetricsLog,
    terms: torch.Tensor,
    done: int,
    place: Place,
) -> dict[str, Any]:
    seconds = log.totals["seconds"]
    summary: dict[str, Any] = {
        "steps": reader.steps,
        "resumed_after": done,
        "examples_an_epoch": reader.examples,
        "world_size": place.world_size,
        "loss": dict(zip(TERMS, terms.tolist(), strict=True)),
        "seconds": seconds,
        "samples_per_s": log.totals["samples"] / seconds if seconds else None,
        "data_wait_share": log.totals["data_wait"] / seconds if seconds else None,
        "lookup_share": log.totals["lookup"] / seconds if seconds else None,
    }
    if place.is_first:
        write_json(config.out / "train.json", summary)
    return summary
