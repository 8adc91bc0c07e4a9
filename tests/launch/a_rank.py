"""What the tests of ``dat_rec.dist.host`` run on each rank: ends as its one argument says."""

import os
import signal
import sys
import time
from pathlib import Path

from dat_rec.errors import EXIT_FILE


def leave(code: int) -> None:
    """As ``dat-rec`` does: tell the host's program the exit code, and end with it."""
    with Path(os.environ[EXIT_FILE]).open("a", encoding="ascii") as file:
        file.write(f"{code}\n")
    print(f"leaves with {code}", flush=True)
    sys.exit(code)


def main() -> None:
    """End in one of the ways in which a rank ends."""
    way, rank = sys.argv[1], int(os.environ["RANK"])
    print(f"rank {rank} begins", flush=True)
    if way == "all-refuse" or (way == "refuse" and rank == 1):
        leave(2)
    if way == "fail-once" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        sys.exit(1)
    if way == "show":
        names = ("DAT_REC_JOB", "GLOO_SOCKET_IFNAME", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE")
        print({name: os.environ.get(name) for name in names}, sys.argv[2:], flush=True)
    if way in ("refuse", "hang"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if way == "stop":
        signal.signal(signal.SIGTERM, lambda *_: leave(75))
        print("ready", flush=True)
        while True:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
