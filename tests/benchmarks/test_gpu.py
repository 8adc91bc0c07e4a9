"""What `make gpu` runs: parts that hang or fail leave the others their time."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tyro

from benchmarks.gpu import Part, parts, run_all
from benchmarks.uvm import kernels
from dat_rec.commands.parse import path_rules


def part(name: str, seconds: int, code: str, *environment: tuple[str, str]) -> Part:
    """A part that runs a module of its own."""
    return Part(name, (name,), seconds, (("PYTHONPATH", code), *environment))


def test_each_part_ends_at_its_limit_and_says_what_came_of_it(tmp_path: Path) -> None:
    child = f"subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(60)'])"
    codes = {
        "hangs": f"import subprocess, time\n{child}\nprint('began', flush=True)\ntime.sleep(60)\n",
        "fails": "import os, sys\nprint(os.environ['SAID'])\nsys.exit(3)\n",
        "works": "print('fine')\n",
    }
    for name, code in codes.items():
        (tmp_path / f"{name}.py").write_text(code)
    own = str(tmp_path)
    every = [
        part("hangs", 2, own),
        part("fails", 30, own, ("SAID", "this went wrong")),
        part("works", 30, own),
    ]
    begin = time.monotonic()
    found = run_all(every, 62, tmp_path)
    assert time.monotonic() - begin < 40
    assert [one.returncode for one in found] == [None, 3, 0]
    assert [one.output for one in found] == ["began", "this went wrong", ""]
    assert 1.5 < found[0].seconds < 20
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [one["name"] for one in summary["parts"]] == ["hangs", "fails", "works"]
    assert summary["hardware"]


def test_no_part_begins_when_the_time_is_over(tmp_path: Path) -> None:
    (found,) = run_all([part("works", 1, str(tmp_path))], 0, tmp_path)
    assert (found.returncode, found.seconds) == (None, 0)


@pytest.mark.parametrize("smoke", [False, True])
def test_all_parts_fit_ten_minutes_and_their_commands_are_known(
    tmp_path: Path, *, smoke: bool
) -> None:
    every = parts(tmp_path, "cuda", smoke=smoke)
    assert sum(one.seconds for one in every) <= 630
    assert len({one.name for one in every}) == len(every)
    for one in every:
        module, *arguments = one.words
        if module == "pytest":
            files = [word for word in arguments if word.startswith("tests")]
            assert all(Path(__file__).parents[2].joinpath(file).exists() for file in files)
            continue
        options = importlib.import_module(module).Arguments
        given = tyro.cli(options, args=arguments, registry=path_rules())
        assert (given.device, given.out.parent, given.smoke) == ("cuda", tmp_path, smoke)


def test_marked_tests_are_what_the_part_of_tests_finds() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "gpu", "tests/distributed"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    assert "test_training_on_a_gpu_is_that_on_cpu" in listed


def test_host_memory_takes_part_on_a_gpu_alone() -> None:
    assert kernels((0.5,), "cpu") == {"fused": "*=fused"}
    assert kernels((0.5,), "cuda") == {
        "fused": "*=fused",
        "fused_uvm": "*=fused_uvm",
        "cache 0.5": "*=fused_uvm_caching,cache_load_factor:0.5",
    }
