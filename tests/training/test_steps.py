"""What the loop does with every step, where no other test can see it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torchrec.distributed.model_parallel import DMPCollection

from dat_rec.config import ModelConfig, preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.dist.process_group import process_group
from dat_rec.runs.run_folder import open_run
from dat_rec.runs.writes import begin
from dat_rec.training.build import build_model, reader_options
from dat_rec.training.optimizers import build_optimizer
from dat_rec.training.steps import Training


class Copies(DMPCollection):  # type: ignore[misc]  # TorchRec ships no types
    """Copies of the tables, of which there is one: they need GPUs."""

    syncs = 0

    def sync(self, *_: Any) -> None:
        """Counted."""
        self.syncs += 1


def test_copies_of_the_tables_are_averaged_once_a_step(planted: Dataset, tmp_path: Path) -> None:
    modern = preset("modern", planted.folder, tmp_path / "run")
    small = ModelConfig(embedding_dim=8, hidden=(16,), output_dim=8)
    config = replace(modern, epochs=1, batch_size=1024, model=small)
    with process_group(60) as context:
        run = open_run(config, planted, context)
        model, plan = build_model(config, planted, context)
        optimizer = build_optimizer(model, 0.01, 0.05)
        reader = ExampleReader(planted, reader_options(config, config.batch_size), 0, 1)
        begin(run, plan, reader.steps)
        # TorchRec makes none on CPU; its pipeline looks at the class.
        model.__class__ = Copies
        run = replace(run, config=replace(config, sharding_group_size=1))
        training = Training(run, model, optimizer, reader)
        training.run()
        training.close()
    assert reader.steps == 8
    assert model.syncs == reader.steps
