"""The whole way on a Slurm cluster: bring it up, train on two nodes, evaluate, show the metrics.

    python -m tests.launch.slurm_demo --data DATA --out RUN [-- more arguments of dat-rec train]

``make slurm`` does it with the data of ``make demo``.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.launch.hosts import missing
from tests.launch.slurm_cluster import PROGRAMS, Cluster


def main() -> int:
    """Run it; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that dat-rec prepare made")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("arguments", nargs="*", help="of dat-rec train, after --")
    options = parser.parse_args()
    if why := missing(PROGRAMS):
        print(f"no Slurm here: {why}", file=sys.stderr)
        return 2
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:5.0f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = Cluster(Path(folder), 2, network=77)
        try:
            cluster.up()
            say(f"Slurm is up: {', '.join(cluster.names)}")
            arguments = ("--data", options.data, "--out", options.out, "-j", "2x1")
            for component, words in (
                ("train", (*arguments, "--", *options.arguments)),
                ("evaluate", ("--run", options.out)),
            ):
                job = cluster.submit(component, *words)
                say(f"torchx run -s slurm …:{component}: job {job}")
                state = cluster.wait(job, 900)
                say(f"job {job}: {state}")
                if state != "COMPLETED":
                    print(cluster.torchx("log", f"slurm://torchx/{job}").stdout)
                    return 1
            print(cluster.logs(job, "out"))
        finally:
            cluster.down()
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
