"""Begin today's run from yesterday's: embedding rows are matched by what they stand for.

Every prepared dataset numbers its users, items and values anew. A row is copied, with its optimizer
state, if the same id or value stands in both datasets. New rows keep their initial weights, and
rows whose value is gone are left behind. What cannot be matched (other features, another shape of
the model, another optimizer) is refused.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.checkpoint.find import newest_whole
from dat_rec.checkpoint.listing import checkpoints
from dat_rec.checkpoint.model_state import load_towers
from dat_rec.checkpoint.read_tensors import TensorFiles
from dat_rec.checkpoint.restore import read_index, read_together
from dat_rec.config import TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.rows import places
from dat_rec.data.schema import ITEM, UNKNOWN, USER, Schema
from dat_rec.dist.agree import all_gather_object
from dat_rec.errors import SharedError, UserError
from dat_rec.model.dat import AUGMENTED
from dat_rec.model.dense import DenseProjection
from dat_rec.runs.dense_inputs import dense_kinds
from dat_rec.runs.kept_rows import ROWS, table_values
from dat_rec.runs.recorded import load_config
from dat_rec.sharding.table_shards import TableShard, table_shards

LOSSES = "objective."
"""Beginning of the names of the losses' parameters; a run may learn what that one did not."""


def check_warm_start(config: TrainConfig, schema: Schema) -> None:
    """Refuse a run to begin from whose towers or tables mean something else than this one's.

    Args:
        config: of this run; without ``warm_start`` nothing is checked.
        schema: of this run's dataset.

    Raises:
        UserError: names what differs.
    """
    run = config.warm_start
    if run is None:
        return
    if run.resolve() == config.out.resolve():
        raise UserError(f"--warm-start {run}: is --out itself: to go on with a run, pass --resume")
    before = load_config(run)
    if not (run / ROWS).is_dir():
        raise UserError(
            f"--warm-start {run}: does not say what its rows stand for (no {ROWS}/): train it "
            "anew, or train without --warm-start"
        )
    if not checkpoints(run):
        raise _no_checkpoint(run)
    pairs: list[tuple[str, Any, Any]] = [
        (f"--model.{name.replace('_', '-')}", getattr(config.model, name), old)
        for name, old in vars(before.model).items()
        if name != "fp16_tables"
    ]
    pairs.append(("--optimizer.table", config.optimizer.table, before.optimizer.table))
    then = Schema.load(run)
    pairs.append(("features", _inputs(schema), _inputs(then)))
    pairs.append(("dense features", dense_kinds(schema), dense_kinds(then)))
    for what, now, old in pairs:
        if now != old:
            raise UserError(
                f"--warm-start {run}: {what} is {now}, and was {old} there: the towers' inputs "
                "would mean something else: give the same, or train without --warm-start"
            )


def _no_checkpoint(run: Path) -> UserError:
    return UserError(
        f"--warm-start {run}: no whole checkpoint: go on with that run, or train without "
        "--warm-start"
    )


def _inputs(schema: Schema) -> list[tuple[str, str, str, bool]]:
    return [(f.name, f.side, f.table, f.multi_valued) for f in schema.features]


def warm_start(run: Path, dataset: Dataset, model: nn.Module, optimizer: CombinedOptimizer) -> None:
    """Copy towers and matching rows from the newest whole checkpoint of a run.

    All ranks call this together; each reads what its own rows need.

    Args:
        run: the folder of the run to begin from.
        dataset: of this run.
        model: sharded, with its initial weights.
        optimizer: of ``build_optimizer``.

    Raises:
        SharedError: there is no whole checkpoint, or it does not fit.
        DiskError: a rank cannot read it.
    """
    found = newest_whole(run)
    if found is None:
        raise SharedError(str(_no_checkpoint(run)))

    def take() -> Counter[str]:
        kept: Counter[str] = Counter()
        _, files = read_index(found.folder)
        load_towers(files, model, may_lack=LOSSES)
        _take_over_dense(run, model)
        for shard in table_shards(model, optimizer):
            rows = files.kind(f"tables/{shard.table}/weight")[1][0]
            source = _source_rows(run, rows, dataset, shard)
            _take(files, f"tables/{shard.table}/weight", shard.weights, source, shard.column)
            if shard.accumulator is not None:
                name = f"tables/{shard.table}/accumulator"
                _take(files, name, shard.accumulator, source, shard.column)
            if shard.column == 0 and (not shard.replicated or dist.get_rank() == 0):
                table = shard.table.rsplit(".", 1)[1]
                kept[table] += int((source >= 0).sum())
        return kept

    cure = "train it anew, or without --warm-start"
    kept = read_together(take, found.folder, f"--warm-start {run}: does not fit", cure)
    _report(run, found.step, dataset.schema, kept)


def _take_over_dense(run: Path, model: nn.Module) -> None:
    """Let each dense value be projected as in ``run``, whose dataset had other means and scales."""
    before = {feature.name: feature for feature in Schema.load(run).dense}
    for module in model.modules():
        if isinstance(module, DenseProjection):
            module.take_over(before[module.name])


def _table_name(table: str) -> str:
    """Return the schema's name of a table; for augmented vectors, of the table of their ids."""
    name = table.rsplit(".", 1)[1]
    return {AUGMENTED[USER]: USER, AUGMENTED[ITEM]: ITEM}.get(name, name)


def _source_rows(
    run: Path, old_rows: int, dataset: Dataset, shard: TableShard
) -> NDArray[np.int64]:
    """Return, for each row of the shard, the row of the old table that means the same, or −1.

    Raises:
        UserError: either folder does not say of each row what it stands for.
    """
    table = _table_name(shard.table)
    old = table_values(run / ROWS, table, old_rows)
    new = table_values(dataset.folder, table, shard.shape[0])
    source = places(new.slice(shard.row, len(shard.weights)), old)
    if shard.row == UNKNOWN:
        source[UNKNOWN] = UNKNOWN
    return source


def _take(
    files: TensorFiles, name: str, target: Tensor, source: NDArray[np.int64], column: int
) -> None:
    """Fill the rows of ``target`` that have a source; the old table is read once, in chunks.

    Args:
        files: of the old checkpoint.
        name: of the old tensor.
        target: (R, C), or (R,) for one sum for each row.
        source: (R,) rows of the old tensor; −1: there is none.
        column: of the table at which ``target`` begins.
    """
    shape = files.kind(name)[1]
    if len(shape) != target.dim():
        raise UserError(f"{name} is {list(shape)}: another optimizer's")
    order = np.argsort(source, kind="stable")
    ordered = source[order]
    for first, chunk in files.chunks(name, 0, shape[0]):
        low, high = np.searchsorted(ordered, [first[0], first[0] + len(chunk)])
        into = torch.from_numpy(order[low:high])
        rows = chunk[torch.from_numpy(ordered[low:high] - first[0])]
        if target.dim() == 1:
            target[into.to(target.device)] = rows.to(target.device, target.dtype)
            continue
        begin = max(column, first[1])
        end = min(column + target.shape[1], first[1] + chunk.shape[1])
        if begin < end and len(into):
            part = rows[:, begin - first[1] : end - first[1]]
            target[into.to(target.device), begin - column : end - column] = part.to(
                target.device, target.dtype
            )


def _report(run: Path, step: int, schema: Schema, kept: Counter[str]) -> None:
    """Say in one line on stderr how many rows of each table were taken over."""
    total: Counter[str] = Counter()
    for one in all_gather_object(kept):
        total.update(one)
    if dist.get_rank():
        return
    sizes = {feature.table: feature.rows for feature in schema.features}
    words = [
        f"{table} {rows:,} of {sizes[_table_name('.' + table)]:,} rows"
        for table, rows in sorted(total.items())
    ]
    print(f"warm start from {run}, step {step}: taken over: {'; '.join(words)}", file=sys.stderr)
