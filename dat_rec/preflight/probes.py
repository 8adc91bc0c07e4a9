"""Try which of torch, FBGEMM, torchrec, gloo and NCCL work on this machine.

Each probe is tried in one child process, which reports step by step: a library that fails to
load, hangs or crashes costs one line of the report, not the report. Standard library only at
import, so that it works where nothing else does.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from dat_rec.versions import FBGEMM, INSTALL, in_one_line

GIB = 2**30
TIMEOUT_S = 180
REPLACE_FBGEMM = f"{sys.executable} -m pip uninstall -y {' '.join(FBGEMM.values())} && {INSTALL}"


def probe_torch() -> str:
    """Import torch, and return its version and the CUDA that it was built for, or ``cpu``."""
    import torch

    return f"{torch.__version__}, built for {torch.version.cuda or 'cpu'}"


def probe_gpus() -> str:
    """Return names and memory of the GPUs that torch can use, or ``none``."""
    import torch

    if not torch.cuda.is_available():
        return "none"
    found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return ", ".join(f"{gpu.name} ({gpu.total_memory / GIB:.0f} GiB)" for gpu in found)


def probe_fbgemm() -> str:
    """Pool two bags with FBGEMM's fused kernel, on each kind of device, and check the sums.

    Raises:
        RuntimeError: the kernel computes something else.
    """
    import torch
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    kinds = [("cpu", EmbeddingLocation.HOST, ComputeDevice.CPU)]
    if torch.cuda.is_available():
        kinds.append(("cuda", EmbeddingLocation.DEVICE, ComputeDevice.CUDA))
    for device, location, compute in kinds:
        bags = SplitTableBatchedEmbeddingBagsCodegen(
            [(3, 4, location, compute)], device=torch.device(device)
        )
        table = bags.split_embedding_weights()[0]
        table.copy_(torch.arange(12.0).reshape(3, 4))
        indices, offsets = torch.tensor([0, 2, 1]), torch.tensor([0, 2, 3])
        pooled = bags(indices.to(device), offsets.to(device)).detach().cpu()
        expected = torch.tensor([[8.0, 10.0, 12.0, 14.0], [4.0, 5.0, 6.0, 7.0]])
        if not torch.equal(pooled, expected):
            raise RuntimeError(f"on {device}: pooled {pooled.tolist()}, not {expected.tolist()}")
    return "computes on " + " and ".join(device for device, _, _ in kinds)


def probe_torchrec() -> str:
    """Import what training needs of torchrec."""
    import torchrec.distributed
    import torchrec.distributed.train_pipeline

    return f"{torchrec.distributed.__name__} loads"


def _all_reduce(backend: str, device: str) -> str:
    import torch
    import torch.distributed as dist

    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        value = torch.ones(2, device=device)
        dist.all_reduce(value)
        if value.tolist() != [1.0, 1.0]:
            raise RuntimeError(f"all-reduce over one process gave {value.tolist()}")
    finally:
        dist.destroy_process_group()
    return "all-reduces"


def probe_gloo() -> str:
    """All-reduce over gloo, one process."""
    return _all_reduce("gloo", "cpu")


def probe_nccl() -> str:
    """All-reduce over NCCL, one process, where torch has NCCL and a GPU."""
    import torch
    import torch.distributed as dist

    if not dist.is_nccl_available():
        return "not in this build of torch (not needed on the CPU)"
    if not torch.cuda.is_available():
        return "built in, no GPU to use it on"
    return _all_reduce("nccl", "cuda")


Probes = Mapping[str, tuple[Callable[[], str], str]]
"""By name, in order: a function that returns what it found or raises, and the cure if it fails."""
ProbeResults = Mapping[str, tuple[str, str]]
"""By name: ``ok`` or ``problem``, and what was found."""
PROBES: Probes = {
    "torch": (probe_torch, INSTALL),
    "gpus": (probe_gpus, "nvidia-smi"),
    "gloo": (probe_gloo, "export GLOO_SOCKET_IFNAME=lo"),
    "nccl": (probe_nccl, "export NCCL_DEBUG=INFO"),
    "fbgemm": (probe_fbgemm, REPLACE_FBGEMM),
    "torchrec": (probe_torchrec, INSTALL),
}
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "DAT_REC_EXIT_FILE")
"""Environment variables by which a process knows that it is one of several ranks."""


def child(probes: Probes) -> None:
    """Run every probe; print one JSON line before each and one after it."""
    for name, (probe, _) in probes.items():
        print(json.dumps([name, "problem", "crashed or hung here"]), flush=True)
        try:
            line = [name, "ok", probe()]
        # A broken library may raise anything, and saying so is this program's purpose.
        except Exception as error:
            line = [name, "problem", in_one_line(error)]
        print(json.dumps(line), flush=True)


def run_probes(
    module: str = "dat_rec.preflight.probes", timeout_s: float = TIMEOUT_S
) -> ProbeResults:
    """Run a module's ``PROBES`` in a child process, and return the results of those that began.

    The child imports from where this process does, and is no rank, whatever has started this one.

    Args:
        module: name of the module that holds ``PROBES``.
        timeout_s: maximum number of seconds for all probes.
    """
    program = (
        f"from dat_rec.preflight.probes import child; from {module} import PROBES; child(PROBES)"
    )
    alone = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    try:
        done = subprocess.run(
            # -P: not from the working folder, unless this process does.
            [sys.executable, "-P", "-c", program],
            env=alone | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        printed = done.stdout
    except subprocess.TimeoutExpired as expired:
        # In spite of text=True the output of a child that was stopped is bytes.
        printed = expired.stdout.decode() if isinstance(expired.stdout, bytes) else ""
    found: dict[str, tuple[str, str]] = {}
    for line in printed.splitlines():
        if line.startswith("["):
            name, level, what = json.loads(line)
            found[name] = (level, what)
    return found
