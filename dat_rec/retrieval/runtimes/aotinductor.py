"""A tower's program in, a package that AOTInductor compiled out, and its answers.

The package is a zip archive with a shared library: to load it is to run it. Nothing of dat_rec does
so but the check of the one that it has just compiled.
"""

import os
import shlex
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from dat_rec.data.dense import AnyColumn
from dat_rec.errors import UserError
from dat_rec.retrieval.query_encoder import any_size
from dat_rec.retrieval.tower_file import MODEL_ID
from dat_rec.retrieval.tower_inputs import to_inputs


def require_compiler() -> None:
    """Refuse where there is no C++ compiler, which PyTorch takes from CXX, or calls g++.

    Raises:
        UserError: names it, and the cure.
    """
    named = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(named[0]) is None:
        raise UserError(
            f"--runtimes aotinductor: needs a C++ compiler, and {named[0]} is not on the PATH: "
            "install g++, or name another compiler as CXX"
        )


def write_package(program: ExportedProgram, path: Path, model_id: str) -> None:
    """Compile a tower for this machine's CPU, with its tables.

    Args:
        program: of ``tower_file.with_mapped_tables``.
        path: the file to write, .pt2.
        model_id: of the model, in the package's metadata.
    """
    from torch._inductor.utils import fresh_cache

    # What is compiled holds the tables, and would stay in the compiler's cache.
    with fresh_cache(), any_size(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": {MODEL_ID: model_id}},
        )


class AotTower:
    """A package of ``write_package``, loaded, which runs what it holds."""

    def __init__(self, path: Path) -> None:
        self._module = torch._inductor.aoti_load_package(str(path))
        self.model_id = self._module.get_metadata().get(MODEL_ID)

    def encode(self, columns: Mapping[str, AnyColumn]) -> NDArray[np.float32]:
        """(B, D) float32 vectors of the columns' B rows."""
        with torch.no_grad():
            vectors_BD: Tensor = self._module(*to_inputs(columns))
        return vectors_BD.numpy()
