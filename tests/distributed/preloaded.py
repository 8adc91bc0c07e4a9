"""All that a command imports, for the server from which tests fork their processes.

What stands here is no longer looked at as possible garbage, so that no process copies it.
"""

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"

from dat_rec.versions import require_stack

require_stack()

# Libraries import these when they are first used.
import implicit  # noqa: E402, F401
import networkx  # noqa: E402, F401
import pandas  # noqa: E402, F401
import pyarrow.dataset  # noqa: E402, F401
import pydantic.dataclasses  # noqa: E402, F401
import torch.distributed.optim  # noqa: E402
import torch.distributed.run  # noqa: E402
import torch.export._trace  # noqa: E402
import torch.utils.tensorboard  # noqa: E402, F401
import tyro  # noqa: E402
import tyro._backends._tyro_backend  # noqa: E402, F401

import dat_rec.data.prepare.pipeline  # noqa: E402
import dat_rec.data.sources  # noqa: E402
import dat_rec.retrieval.evaluate  # noqa: E402
import dat_rec.retrieval.export  # noqa: E402
import dat_rec.retrieval.recommend  # noqa: E402
import dat_rec.training.train  # noqa: E402, F401
import tests.distributed.moves  # noqa: E402, F401

gc.freeze()
