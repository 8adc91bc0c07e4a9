"""dat_rec: the Dual Augmented Two-tower model on TorchRec, from a log to recommendations.

What stands in ``__all__`` is the public API (docs/api.md shows all of it at work); each name is
imported when it is first used, so that ``import dat_rec`` is quick, and works where torch does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dat_rec.config import TrainConfig
    from dat_rec.data.prepare.pipeline import prepare
    from dat_rec.errors import UserError
    from dat_rec.model.towers import TowerFactory
    from dat_rec.retrieval.answer import LoadedExport, load_export
    from dat_rec.retrieval.delta.apply import apply
    from dat_rec.retrieval.evaluate import evaluate
    from dat_rec.retrieval.export import export
    from dat_rec.retrieval.metrics import metrics_from_vectors
    from dat_rec.retrieval.recommender import Recommender
    from dat_rec.run_report.report import report
    from dat_rec.storage.address import location
    from dat_rec.training.train import train

__version__ = "0.1.0"
__all__ = [
    "LoadedExport",
    "Recommender",
    "TowerFactory",
    "TrainConfig",
    "UserError",
    "apply",
    "evaluate",
    "export",
    "load_export",
    "location",
    "metrics_from_vectors",
    "prepare",
    "report",
    "train",
]

_MODULES = {
    "LoadedExport": "dat_rec.retrieval.answer",
    "Recommender": "dat_rec.retrieval.recommender",
    "TowerFactory": "dat_rec.model.towers",
    "TrainConfig": "dat_rec.config",
    "UserError": "dat_rec.errors",
    "apply": "dat_rec.retrieval.delta.apply",
    "evaluate": "dat_rec.retrieval.evaluate",
    "export": "dat_rec.retrieval.export",
    "load_export": "dat_rec.retrieval.answer",
    "location": "dat_rec.storage.address",
    "metrics_from_vectors": "dat_rec.retrieval.metrics",
    "prepare": "dat_rec.data.prepare.pipeline",
    "report": "dat_rec.run_report.report",
    "train": "dat_rec.training.train",
}
"""Where the public names are defined."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
