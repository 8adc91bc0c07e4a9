"""Training's own step on a prepared dataset, or on a planted world where none is given."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.config import Device, Preset, TrainConfig, preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.data.stream.batch import Batch
from dat_rec.dist.rank_context import RankContext
from dat_rec.training.build import build_model
from dat_rec.training.optimizers import build_optimizer


@contextmanager
def configured(
    data: Path | None,
    name: Preset,
    batch_size: int,
    device: Device,
    world: Mapping[str, Any] | None = None,
) -> Iterator[TrainConfig]:
    """A configuration of a preset that trains on ``data`` without end.

    Args:
        data: a prepared dataset; without it a ``world`` is planted, for the block's duration.
        name: of the preset.
        batch_size: examples a batch.
        device: of every rank.
        world: arguments of ``Synthetic``, in place of its own.
    """
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        run.mkdir()
        if data is None:
            data = Path(scratch) / "data"
            prepare(Synthetic(out=data, **(world or {})))
        config = preset(name, data, run)
        yield dataclasses.replace(config, batch_size=batch_size, epochs=1_000_000, device=device)


def built(
    config: TrainConfig, dataset: Dataset, context: RankContext
) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """The model and its optimizer, as training makes them."""
    model, _ = build_model(config, dataset, context)
    learn = config.optimizer
    return model, build_optimizer(model, learn.tower_lr, learn.table_lr, learn.table)


def pipeline(
    config: TrainConfig, dataset: Dataset, context: RankContext
) -> TrainPipelineSparseDist[Batch, Any]:
    """What makes a step of each batch."""
    model, optimizer = built(config, dataset, context)
    return TrainPipelineSparseDist(model, optimizer, context.device, execute_all_batches=True)
