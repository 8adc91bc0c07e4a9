"""What a job's shell makes of its command, read back by the parser of what it starts."""

import subprocess
from argparse import Namespace
from collections.abc import Mapping, Sequence

from dat_rec.dist.host import _parser


def spoken(command: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """The words of the process that a shell becomes."""
    *shell, script = command
    assert shell == ["bash", "-c"]
    script = script.replace("exec ", "printf '%s\\0' ", 1)
    done = subprocess.run([*shell, script], env=variables, capture_output=True, check=True)
    return done.stdout.decode().removesuffix("\0").split("\0")


def host_options(words: Sequence[str]) -> Namespace:
    """What ``dat_rec.dist.host`` understands of a process's words."""
    assert words[1:3] == ["-m", "dat_rec.dist.host"]
    return _parser().parse_args(words[3:])
