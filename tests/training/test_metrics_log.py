"""The clock of lookups, on sharded collections that are really looked up in."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torchrec.distributed.types import ShardedModule

from dat_rec.config import preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.dist.process_group import process_group
from dat_rec.training.build import build_model, reader_options
from dat_rec.training.metrics_log import LookupTimer

SLEEP_S = 0.2


def sleeps(*_: Any) -> None:
    time.sleep(SLEEP_S)


@pytest.mark.parametrize("inside", [True, False])
def test_time_in_lookups_is_counted_and_no_other(
    planted: Dataset, tmp_path: Path, inside: bool
) -> None:
    config = replace(preset("modern", planted.folder, tmp_path / "run"), batch_size=64)
    with process_group(60) as context:
        model, _ = build_model(config, planted, context)
        batch = next(iter(ExampleReader(planted, reader_options(config, 64), 0, 1)))
        timer = LookupTimer(model)
        sharded = [module for module in model.modules() if isinstance(module, ShardedModule)]
        assert len(sharded) == 2
        for module in sharded:
            # Hooks run in the order of their registration: behind the timer's, before the lookup
            # begins and when it has ended.
            register: Callable[..., Any] = (
                module.register_forward_pre_hook if inside else module.register_forward_hook
            )
            register(sleeps)
        begin = time.perf_counter()
        model(batch)
        elapsed = time.perf_counter() - begin
    assert elapsed > 2 * SLEEP_S
    if inside:
        assert 2 * SLEEP_S <= timer.seconds < elapsed
    else:
        assert 0 < timer.seconds < elapsed - 2 * SLEEP_S
