"""Where ranks on this machine meet: a free port, and the variables that torchrun would set."""

import socket


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def rank_variables(rank: int, world: int, port: int, hosts: int = 1) -> dict[str, str]:
    """Return the environment of a rank of ``world`` that stand on so many ``hosts``."""
    local = world // hosts
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % local),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(local),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
