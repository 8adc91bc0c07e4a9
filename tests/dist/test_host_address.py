"""Where the hosts of a job meet, and how they are called."""

import time

import pytest

from dat_rec.dist.host_address import PORTS, meet, own_address, port_of
from dat_rec.errors import RankError, UserError


def test_jobs_have_ports_of_their_own() -> None:
    ports = [port_of(f"job-{number}") for number in range(100)]
    assert len(set(ports)) > 95
    assert all(port in PORTS for port in ports)
    assert port_of("job-1") == ports[1]


def test_a_first_host_that_nobody_knows_is_refused_in_time() -> None:
    begin = time.monotonic()
    with pytest.raises(RankError, match=r"nowhere\.invalid: its name is not known here"):
        meet("nowhere.invalid", 29_500, is_first=False, wait_s=1)
    assert time.monotonic() - begin < 15


def test_an_interface_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth99")
    with pytest.raises(UserError, match="eth99, which has no IPv4 address"):
        own_address()
    with pytest.raises(UserError, match="eth99, which has no IPv4 address"):
        meet("localhost", 29_500, is_first=True, wait_s=1)
