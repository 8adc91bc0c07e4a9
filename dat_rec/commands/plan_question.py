"""``dat-rec plan``'s options in, the question to TorchRec's planner out, and its answer printed.

The tables come from a file, from a run, or from a dataset with a preset.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

from dat_rec.commands.plan import PlanOptions
from dat_rec.config import TrainConfig
from dat_rec.data.columns import BadIds
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.reader_options import OPTION_CURE
from dat_rec.defaults import defaults
from dat_rec.errors import UserError
from dat_rec.files import read_json, write_json
from dat_rec.planner.hardware import Cluster, parse_cluster
from dat_rec.planner.picture import draw
from dat_rec.planner.plan_request import (
    PlanRequest,
    find_plan,
    towers_bytes,
)
from dat_rec.planner.report import comparison, cures, headline, report
from dat_rec.planner.report_json import as_json, comparison_json
from dat_rec.planner.table_file import read_tables
from dat_rec.planner.topology_file import read_cluster
from dat_rec.planner.what_if import compare, offloaded, smallest_cluster, what_would_fit
from dat_rec.runs.recorded import check_same_rows, load_config
from dat_rec.sharding.options import ShardingOptions
from dat_rec.training.build import pooling_factors, sharding_options
from dat_rec.training.objective import TrainTask


def print_plan(config: PlanOptions) -> int:
    """Answer ``dat-rec plan``: print the report and write the files that were asked for.

    Returns:
        The exit code: 0 if the tables fit, 1 if not.

    Raises:
        UserError: an option, a file, a run or a dataset is bad.
    """
    config.check()
    question = question_of(config)
    answer = find_plan(question)
    print(report(answer))
    value: dict[str, Any] = as_json(answer)
    if not answer.fits:
        smallest, cheaper = smallest_cluster(answer), what_would_fit(question)
        print("\n" + cures(smallest, cheaper))
        value["smallest_cluster"] = smallest and _short(as_json(smallest))
        value["changes"] = {name: _short(as_json(one)) for name, one in cheaper.items()}
    if config.compare:
        found = compare(question)
        print("\n" + comparison(found))
        value["compare"] = comparison_json(found)
    if config.json is not None:
        write_json(config.json, value)
    if config.picture is not None:
        if answer.fits:
            draw(answer, headline(answer), config.picture)
        else:
            print(f"{config.picture} is not drawn: there is no plan", file=sys.stderr)
    return 0 if answer.fits else 1


def _short(value: dict[str, Any]) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name not in ("ranks", "plan")}


def question_of(config: PlanOptions) -> PlanRequest:
    """What the options ask.

    Raises:
        UserError: as ``print_plan``.
    """
    cluster = _cluster(config)
    question = (
        _of_tables(config, config.tables, cluster)
        if config.tables is not None
        else _of_training(config, cluster)
    )
    return offloaded(question, config.offload) if config.offload else question


def _cluster(config: PlanOptions) -> Cluster:
    if config.topology is not None:
        cluster = read_cluster(config.topology)
    else:
        cluster = parse_cluster(config.cluster or "")
    if config.offload and not cluster.on_gpu:
        raise UserError(f"--offload {config.offload:g}: needs GPUs, whose memory it saves")
    return cluster.with_memory(config.memory_gb) if config.memory_gb else cluster


def _of_tables(config: PlanOptions, path: Path, cluster: Cluster) -> PlanRequest:
    file = read_tables(path)
    batch = config.batch_size or file.batch_size
    if batch is None:
        raise UserError(f"{path}: batch_size is missing: add it, or pass --batch-size")
    standard = TrainConfig(Path(), Path())
    options = ShardingOptions(
        batch_size=batch,
        table_lr=standard.optimizer.table_lr,
        optimizer=config.optimizer or standard.optimizer.table,
        sharding_types=config.sharding_types or standard.sharding_types,
        # What the command says goes before what the file says.
        pins=(*config.pin, *file.pins()),
    )
    return PlanRequest(file.model, file.pooling_factors(), cluster, options, config.fp16_tables)


def _global_batch(run: Path) -> int:
    """The global batch of a run, which keeps it on any number of ranks."""
    path = run / "config.json"
    number = read_json(path, "the run's configuration").get("global_batch")
    if type(number) is not int or number < 1:
        raise UserError(f"{path}: global_batch is {number!r}: pass --data and --preset instead")
    return number


def _of_training(config: PlanOptions, cluster: Cluster) -> PlanRequest:
    if config.run is not None:
        training = load_config(config.run)
        if config.data is not None:
            training = dataclasses.replace(training, data=config.data)
        batch = -(-_global_batch(config.run) // cluster.world_size)
    else:
        training = defaults(config.preset, config.data or Path(), Path(), cluster.world_size)
        batch = training.batch_size
    if training.sharding_group_size:
        raise UserError(
            f"{config.run}: --sharding-group-size {training.sharding_group_size}: copies of the "
            "tables are not planned here: describe one group as --cluster, with --tables"
        )
    dataset = Dataset.open(training.data)
    if config.run is not None:
        check_same_rows(config.run, dataset)
    changed = dataclasses.replace(
        training,
        pin=config.pin or training.pin,
        sharding_types=config.sharding_types or training.sharding_types,
        optimizer=dataclasses.replace(
            training.optimizer, table=config.optimizer or training.optimizer.table
        ),
    )

    ranks = cluster.world_size
    rows = (config.batch_size or batch) + training.loss.shared_rows(ranks)

    def model(fp16: Any) -> TrainTask:
        shape = dataclasses.replace(training.model, fp16_tables=tuple(fp16))
        return TrainTask(dataset.schema, shape, training.loss, torch.device("meta"), ranks)

    fp16 = config.fp16_tables or training.model.fp16_tables
    bad_ids = BadIds(training.examples.bad_ids, OPTION_CURE)
    return PlanRequest(
        model,
        pooling_factors(dataset, bad_ids),
        cluster,
        sharding_options(changed, rows),
        fp16,
        towers_bytes(model(fp16)),
    )
