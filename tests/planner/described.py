"""Questions to the planner about tables and clusters that are only described."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dat_rec.planner.ask import Question
from dat_rec.planner.hardware import Cluster
from dat_rec.planner.table_file import Table, TableFile
from dat_rec.sharding.options import ShardingOptions


def question(tables: Sequence[Table], cluster: Cluster, **options: Any) -> Question:
    """About ``tables`` on ``cluster``; a batch of one example unless ``options`` say more."""
    file = TableFile(Path("tables.json"), tuple(tables), None)
    given = ShardingOptions(**{"batch_size": 1, "table_lr": 0.1, **options})
    return Question(file.model, file.pooling_factors(), cluster, given)
