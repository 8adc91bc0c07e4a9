"""Training: objective, optimizers, loop.

The package can be called: ``dat_rec.train(config)`` is ``dat_rec.train.loop.train(config)``. Python
binds a subpackage's name in its parent as soon as anything below it is imported, so that a function
``dat_rec.train`` could not stand beside the package ``dat_rec.train``.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dat_rec.config import TrainConfig
    from dat_rec.model.towers import TowerFactory


class _Callable(ModuleType):
    def __call__(
        self, config: "TrainConfig", *, tower: "TowerFactory | None" = None
    ) -> dict[str, Any]:
        """See ``dat_rec.train.loop.train``."""
        from dat_rec.train.loop import train

        return train(config, tower=tower)


sys.modules[__name__].__class__ = _Callable
