"""An error of the network is told from an error of this rank."""

import pytest
import torch.distributed as dist

from dat_rec.dist.communication_errors import is_communication_error

GLOO = "[/build/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]:9"


@pytest.mark.parametrize(
    ("error", "of_another_rank"),
    [
        (RuntimeError(GLOO), True),
        (RuntimeError(f"Gloo connectFullMesh failed with {GLOO}"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (dist.DistStoreError("Timed out after 300 seconds waiting for clients"), True),
        (dist.DistNetworkError("The client socket has failed to connect"), True),
        (dist.DistBackendError("NCCL error in: x.cpp:1, ncclRemoteError: A call failed"), True),
        # A root cause of this rank's own, whatever words it holds.
        (dist.DistBackendError("NCCL error in: x.cpp:1, ncclInvalidUsage: Duplicate GPU"), False),
        (FileNotFoundError(2, "No such file", "/data/timeout/nccl/socket.parquet"), False),
        (ConnectionResetError(104, "Connection reset by peer"), False),
        (RuntimeError("cannot read /data/gloo/connection closed/timeout"), False),
        (IndexError("list index out of range"), False),
    ],
)
def test_an_error_is_another_ranks_by_its_class_and_origin(
    error: Exception, of_another_rank: bool
) -> None:
    assert is_communication_error(error) == of_another_rank
