"""``dat-rec plan``: ten billion rows, a run's own plan, what does not fit, what is refused."""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.install import CHECKOUT
from tests.end_to_end.cli import dat_rec, done
from tests.end_to_end.forked import forked, on_ranks

GPUS, CPUS = ("--cluster", "a100-40gb:1x2"), ("--cluster", "cpu-64gb:1x2")
MILLIONS = [1000] * 6 + [400] * 6 + [100] * 10 + [50] * 8 + [20] * 8 + [10] * 4
ROWS = [10**6 * number for number in MILLIONS]


@pytest.fixture(scope="module")
def ten_billion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of ten billion rows."""
    assert sum(ROWS) == 10**10
    tables = [
        {
            "name": f"t{number}",
            "rows": rows,
            "dim": 64 if number % 3 else 128,
            "pooling_factor": 1 + number % 7 * 3,
        }
        for number, rows in enumerate(ROWS)
    ]
    path = tmp_path_factory.mktemp("tables") / "tables.json"
    path.write_text(json.dumps({"tables": tables, "batch_size": 2048}))
    return path


def cpu_seconds() -> float:
    """Of the processes that this one has waited for."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


@pytest.mark.slow
def test_ten_billion_rows_are_planned_for_128_gpus_in_seconds(
    ten_billion: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    began, used = time.perf_counter(), cpu_seconds()
    result = dat_rec(
        *("plan", "--tables", ten_billion, "--cluster", "h100-80gb:16x8"),
        *("--json", tmp_path / "plan.json", "--picture", tmp_path / "plan.png"),
    )
    seconds, used = time.perf_counter() - began, cpu_seconds() - used
    text = (
        f"dat-rec plan, 10 billion rows on 128 ranks: {seconds:.1f} s, {used:.1f} of them computing"
    )
    record_property("figure", text)
    assert "16 × 8 h100-80gb: fits" in done(result)
    # Other work on the machine makes it wait, and not compute.
    assert used < 60
    found = json.loads((tmp_path / "plan.json").read_text())
    # Every number of every table is held once, and no rank by more than its share.
    held = dict.fromkeys(range(128), 0)
    for number, row in enumerate(sorted(found["plan"], key=lambda row: int(row["table"][1:]))):
        parts = [part["sizes"] for part in row["shards"]]
        dim = 64 if number % 3 else 128
        assert sum(rows * columns for rows, columns in parts) == ROWS[number] * dim
        for part in row["shards"]:
            rows, columns = part["sizes"]
            held[part["rank"]] += 4 * rows * columns + 4 * rows
    assert max(held.values()) < 0.85 * 79.1 * 2**30
    assert max(held.values()) == pytest.approx(found["fullest_bytes"], rel=0.02)
    assert matplotlib.image.imread(tmp_path / "plan.png").std() > 0.05


@pytest.mark.slow
def test_what_does_not_fit_says_by_how_much_and_what_would(
    ten_billion: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    result = forked("plan", "--tables", ten_billion, "--cluster", "h100-80gb:1x8", "--json", path)
    assert result.returncode == 1, result.stderr
    found = json.loads(path.read_text())
    weights = sum(4 * rows * (64 if n % 3 else 128) for n, rows in enumerate(ROWS))
    needed = weights + 4 * sum(ROWS)
    assert found["misfit"]["device_bytes"] == pytest.approx(needed, rel=0.01)
    assert "1 × 8 h100-80gb: does not fit: the tables need 3.1 TiB" in result.stdout
    smallest = found["smallest_cluster"]["cluster"]["hosts"]
    share = 0.85 * 79.1 * 2**30 * 8
    assert needed / share <= smallest < needed / share + 2
    # In float16 the host's two TiB hold all, and the GPUs a fifth.
    (change,) = found["changes"]
    assert change.startswith("float16 tables (--fp16-tables '*') and 20% of rows")
    assert change in result.stdout


@pytest.mark.slow
def test_a_run_is_planned_as_its_training_planned_it(planted: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options: list[Any] = ["--memory-gb", "1", "--pin", "augmented_*=row_wise", "user=column_wise"]
    options += ["category=data_parallel"]
    trained = on_ranks(
        2,
        *("train", "--data", planted.folder, "--out", run, "--epochs", "1", "--no-preflight"),
        *("--batch-size", "1024", *options),
    )
    assert trained.returncode == 0, trained.stderr
    path = tmp_path / "plan.json"
    planned = forked("plan", "--run", run, *CPUS, "--memory-gb", "1", "--json", path)
    text = done(planned)
    # TorchRec's own of data-parallel tables, which have no parts.
    assert "WARNING:root" not in trained.stderr + planned.stderr
    expected = json.loads((run / "plan.json").read_text())
    found = json.loads(path.read_text())
    assert found["plan"] == expected
    assert found["batch_size"] == 1024
    assert found["towers_bytes"] > 0
    assert "the towers, their gradients and Adam take" in text
    # What the first page of the run told of memory and time is the same.
    page = (run / "start.txt").read_text()
    assert f"step         {found['step_ms']:.2g} ms for the slowest" in page


@pytest.mark.slow
def test_one_topology_file_decides_a_runs_plan_and_its_question(
    planted: Dataset, tmp_path: Path
) -> None:
    run, topology, path = tmp_path / "run", tmp_path / "here.json", tmp_path / "plan.json"
    names = ("bag_ns", "bag_byte_ns", "value_ns", "value_byte_ns", "row_byte_ns")
    ways = ("table_wise", "column_wise", "row_wise", "data_parallel", "every_rank")
    costs = dict.fromkeys(ways, dict.fromkeys(names, 1000.0))
    costs["row_wise"] = dict.fromkeys(names, 1.0)
    sizes = {"device": "cpu", "hosts": 1, "ranks_per_host": 2, "host_memory_gb": 2}
    topology.write_text(json.dumps(sizes | {"costs": costs, "measured": True}))
    command: list[Any] = ["train", "--data", planted.folder, "--out", run, "--epochs", "1"]
    command += ["--no-preflight", "--batch-size", "1024"]
    trained = on_ranks(2, *command, "--topology", topology)
    assert trained.returncode == 0, trained.stderr
    plan = json.loads((run / "plan.json").read_text())
    assert "row_wise" in {row["sharding_type"] for row in plan}
    assert json.loads((run / "config.json").read_text())["topology"] == str(topology)
    text = done(forked("plan", "--run", run, "--topology", topology, "--json", path))
    found = json.loads(path.read_text())
    assert found["plan"] == plan
    assert "by the costs of steps measured in here.json" in text
    page = (run / "start.txt").read_text()
    assert f"step         {found['step_ms']:.2g} ms for the slowest" in page
    assert f"estimated by {topology}" in page
    # It plans, and decides no number: a resumed run may do without.
    resumed = on_ranks(2, *command, "--resume")
    assert resumed.returncode == 0, resumed.stderr


def test_a_dataset_is_planned_with_a_preset(planted: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    text = done(
        forked(
            *("plan", "--data", planted.folder, "--preset", "paper", *GPUS),
            *("--json", path, "--compare"),
        )
    )
    found = json.loads(path.read_text())
    assert found["batch_size"] == 256
    assert {"user", "item", "augmented_user"} < {row["table"] for row in found["plan"]}
    assert "row_wise alone" in text
    assert found["compare"]["as asked"]["fits"]


def test_the_papers_tables_fit_one_host_of_a100s() -> None:
    tables = CHECKOUT / "docs" / "meituan_tables.json"
    command = ["plan", "--tables", tables, "--cluster", "a100-40gb:1x8", "--compare"]
    text = done(forked(*command))
    headline = text.splitlines()[0]
    assert headline.startswith("1 × 8 a100-40gb: fits, 10.1 GiB of 33.5 GiB on the fullest rank")
    # The whole report as the documentation tells it.
    assert text in (CHECKOUT / "docs" / "plan.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "no tables: pass --tables FILE, --run RUN or --data DATA"),
        ("--tables T GPUS --preset paper", "--preset paper: does nothing with"),
        ("--tables T", "pass one of --cluster PRESET:HOSTSxRANKS and --topology FILE"),
        ("--tables T CPUS --topology P", "pass one of --cluster"),
        ("--tables T --data D", "--tables is given with --run or --data"),
        ("--tables T --run R", "--tables is given with --run or --data"),
        ("--tables T --cluster cpu-64gb", "is no HOSTSxRANKS"),
        ("--tables none CPUS", "none: cannot read the tables"),
        ("--run none CPUS", "none is not a run"),
        ("--data none CPUS", "none is not a prepared dataset"),
        ("--tables T --topology none", "none: cannot read the topology"),
        ("--tables T CPUS", "batch_size is missing"),
        ("--tables T CPUS --offload 0.5", "--offload 0.5: needs GPUs"),
        ("--tables T GPUS --offload 2", "--offload is 2.0: it must be at most 1"),
        ("--tables T GPUS --memory-gb -1", "--memory-gb is -1"),
        ("--tables T GPUS --memory-gb nan", "--memory-gb is nan"),
        ("--tables T GPUS --batch-size -1", "--batch-size is -1"),
        ("--tables T GPUS --batch-size 8 --pin b=row_wise", "no such table: there are a"),
        ("--tables T GPUS --pin a=rows", "--pin a=rows: 'rows' is none of"),
        ("--tables T GPUS --pin a=fused --pin a=dense", "--pin is given twice"),
        ("--tables T GPUS --batch-size 8 --fp16-tables b", "--fp16-tables b: no such table"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line_and_nothing_written(
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dat_rec.cli import main

    monkeypatch.chdir(tmp_path)
    Path("T").write_text('{"tables": [{"name": "a", "rows": 9, "dim": 8}]}')
    arguments = arguments.replace("GPUS", " ".join(GPUS)).replace("CPUS", " ".join(CPUS))
    command = f"dat-rec plan {arguments} --json out.json --picture out.png"
    monkeypatch.setattr("sys.argv", command.split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("dat-rec: error: ")
    assert message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["T"]
