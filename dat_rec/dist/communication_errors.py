"""Tell an error of the network, which another rank caused, from an error of this rank.

When a rank dies, the others get an error of their own that names nobody: gloo raises a plain
``RuntimeError``, NCCL a ``DistBackendError``, the store a ``DistError``. The class and the origin
of an error decide, never words that the path of a file may hold as well.
"""

import re

import torch.distributed as dist

GLOO = re.compile(
    r"(?:Gloo connectFullMesh failed with )?\[[^]]*/gloo/[^]]*:\d+\]|"
    r"Application timeout caused pair closure$"
)
"""The beginning of gloo's errors: a line of its own source; or the whole of the one without it, for
a connection that an earlier timeout has closed."""
NCCL_OF_THIS_RANK = re.compile(
    r"nccl(InvalidUsage|InvalidArgument|InternalError|UnhandledCudaError)|"
    r"(invalid usage|invalid argument|internal error|unhandled cuda error)[^\n]*NCCL version"
)
"""What NCCL says where this rank itself is wrong, as when two ranks take one GPU."""


def is_communication_error(error: BaseException) -> bool:
    """Whether the error says that another rank does not answer, rather than what went wrong."""
    if isinstance(error, dist.DistBackendError):
        return not NCCL_OF_THIS_RANK.search(str(error))
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and bool(GLOO.match(str(error)))


def in_short(error: BaseException) -> str:
    """Return the error's class and first line, with gloo's path cut to what all machines share."""
    line = (str(error).splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {re.sub(r'[^ []*/gloo/', 'gloo/', line)}"
