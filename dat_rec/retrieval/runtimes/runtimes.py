"""A tower's file in, the same tower in files of other runtimes out, and their answers."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from dat_rec.data.dense import AnyColumn
from dat_rec.errors import UserError
from dat_rec.retrieval.runtimes.aotinductor import AotTower, require_compiler, write_package
from dat_rec.retrieval.runtimes.onnx_file import OnnxTower, data_of, write_onnx
from dat_rec.retrieval.tower_file import with_mapped_tables

Runtime = Literal["onnx", "aotinductor"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
SUFFIX: Mapping[Runtime, str] = {"onnx": ".onnx", "aotinductor": ".aoti.pt2"}
"""What a tower's file ends in, in place of .pt2."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Answers(Protocol):
    """A tower, loaded by some runtime."""

    model_id: str | None

    def encode(self, columns: Mapping[str, AnyColumn]) -> NDArray[np.float32]:
        """(B, D) float32 vectors of the columns' B rows."""


def require(runtimes: Sequence[Runtime]) -> None:
    """Refuse runtimes that cannot be written for here.

    Raises:
        UserError: a name is none of ``RUNTIMES``, or what it needs is not installed.
    """
    for name in runtimes:
        if name not in RUNTIMES:
            raise UserError(f"--runtimes {name}: there are {' and '.join(RUNTIMES)}")
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if "onnx" in runtimes and missing:
        raise UserError(
            f"--runtimes onnx: {', '.join(missing)} not installed: pip install 'dat_rec[onnx]'"
        )
    if "aotinductor" in runtimes:
        require_compiler()


def write_runtimes(
    tower: Path,
    trace: Callable[[], ExportedProgram],
    runtimes: Sequence[Runtime],
    model_id: str,
) -> list[str]:
    """Write a tower's other files beside it, and return their names.

    Args:
        tower: its file of ``write_tower``, which holds its tables.
        trace: makes its program. (The one that is read from the file is none that torch decomposes:
            2.13 has lost which sizes of it are symbols.)
        runtimes: of ``require``.
        model_id: of the model.

    Raises:
        UserError: the tower is none that the runtime's exporter or compiler takes.
    """
    names = []
    for runtime in runtimes:
        path = file_of(tower, runtime)
        write = {"onnx": write_onnx, "aotinductor": write_package}[runtime]
        try:
            write(with_mapped_tables(trace(), tower), path, model_id)
        except OSError:
            raise
        # Exporters and compilers raise what they like.
        except Exception as error:
            raise UserError(
                f"{path.name}: {runtime} does not take this tower, or its compiler fails "
                f"({_reason(error)}): leave {runtime} out of --runtimes"
            ) from error
        names += [one.name for one in (path, data_of(path)) if one.exists()]
    return names


def read_runtime(tower: Path, runtime: Runtime) -> Answers:
    """Load one of a tower's other files, which of AOTInductor runs what it holds."""
    path = file_of(tower, runtime)
    return OnnxTower(path) if runtime == "onnx" else AotTower(path)


def file_of(tower: Path, runtime: Runtime) -> Path:
    """The path of a tower's file of another runtime."""
    return tower.with_name(tower.name.removesuffix(".pt2") + SUFFIX[runtime])


def _reason(error: BaseException) -> str:
    """What an exporter says in its first error, and a compiler somewhere in many lines."""
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    lines = f"{error}\n{first}".splitlines()
    said = next((line for line in lines if "error: " in line), (str(first).splitlines() or [""])[0])
    return f"{type(first).__name__}: {said.strip()}"[:300]
