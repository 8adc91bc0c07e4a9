"""What is wrong with a cluster is found before training: under torchrun, with real differences.

Other versions and other folders are those of a mount namespace of rank 1. What this machine
cannot have (several networks, GPUs, wrong clocks) is put to the functions that judge it.
"""

import dataclasses
import json
import re
import shlex
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest

import dat_rec
from dat_rec.data.dataset import Dataset
from dat_rec.dist.process_group import process_group
from dat_rec.preflight import preflight
from dat_rec.preflight.host_facts import Facts, listening_address, own_facts
from dat_rec.preflight.measures import Bandwidth, bandwidths
from dat_rec.preflight.report import Check
from tests.cpu import CPU
from tests.distributed.ranks import run_ranks
from tests.end_to_end.forked import forked
from tests.end_to_end.launched import TRAIN, launched
from tests.end_to_end.test_survival import FLAGS, after_rank_1_did, free_port

DOCTOR = (sys.executable, "-m", "dat_rec", "doctor", "--cluster", *CPU)
SHORT = (*FLAGS, "--epochs", "1")


def bind(instead: Path, of: Path) -> str:
    return shlex.join(["mount", "--bind", str(instead), str(of)])


@pytest.fixture
def other_versions(tmp_path: Path) -> str:
    """Makes numpy another version, and dat_rec another source, for whoever runs it."""
    installed = metadata.distribution("numpy").locate_file(
        f"numpy-{metadata.version('numpy')}.dist-info/METADATA"
    )
    fake = tmp_path / "METADATA"
    fake.write_text(
        re.sub(r"(?m)^Version: .*$", "Version: 1.2.3", Path(str(installed)).read_text())
    )
    source = Path(dat_rec.__file__).parent / "errors.py"
    changed = tmp_path / "errors.py"
    changed.write_text(source.read_text() + "# Another.\n")
    return f"{bind(fake, Path(str(installed)))} && {bind(changed, source)}"


def doctor_program(mount: str = "true") -> list[str]:
    """The doctor for ``launched``, which adds --data and --out."""
    ours = f'{shlex.join(DOCTOR)} --out "$4"'
    return [*after_rank_1_did(mount, ("sh", "-c", ours, "sh"))]


@pytest.mark.slow
def test_other_versions_on_one_rank_are_named_with_both_values_and_the_host(
    planted: Dataset, other_versions: str, tmp_path: Path
) -> None:
    version = metadata.version("numpy")
    with launched(planted.folder, tmp_path / "run", program=doctor_program(other_versions)) as run:
        assert run.wait() == 1
        told = run.output()
    assert run.ended_with(2, 2)
    assert told.count("\ncluster\n") + told.startswith("cluster\n") == 1
    assert re.search(
        rf"PROBLEM  numpy +1\.2\.3 on rank 1 \(\S+\), {version} on rank 0 \(\S+\)", told
    )
    assert re.search(r"PROBLEM  dat_rec +0\S+, source \w{12} on rank 1 .*, source \w{12} on ", told)
    assert "\nproblems: 2\n" in told
    program, log = after_rank_1_did(other_versions), tmp_path / "train.log"
    with launched(planted.folder, tmp_path / "run", *SHORT, program=program, log=log) as run:
        assert run.wait() == 1
        (line,) = run.said()
        assert run.ended_with(2, 2)
    assert line.startswith("dat-rec: error: preflight: numpy: 1.2.3 on rank 1 (")
    assert "(1 more: dat-rec doctor --cluster)" in line
    assert not (tmp_path / "run").exists()
    unasked = (*SHORT, "--no-preflight")
    with launched(planted.folder, tmp_path / "run", *unasked, program=program) as run:
        assert run.wait() == 0, run.output()
        assert "preflight: 2 ranks" not in run.output()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ("mount -t tmpfs tmpfs {0}", r"rank 0 .* does not see the file that rank 1 wrote in {0} "),
        ("mount --bind {0} {0} && mount -o remount,bind,ro {0}", r"rank 1 .* cannot write in {0} "),
    ],
)
def test_a_folder_that_is_not_shared_or_writable_everywhere_is_refused_and_left_as_it_was(
    mount: str, words: str, planted: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "other").write_text("stays")
    program = after_rank_1_did(mount.format(folder))
    # Only one rank of each host has to write: rank 1 gets a torchrun of its own.
    meet = ("--nnodes=2", "--local-addr=localhost", "--rdzv-backend=c10d", "--rdzv-id=two")
    meet += (f"--rdzv-endpoint=localhost:{free_port()}",)
    host = partial(
        launched, planted.folder, folder / "run", *SHORT, ranks=1, meet=meet, program=program
    )
    with host(log=tmp_path / "1") as one, host(log=tmp_path / "2") as other:
        assert (one.wait(), other.wait()) == (1, 1)
        (line,) = one.said() + other.said()
        codes = one.exit_codes() + other.exit_codes()
        assert 2 in codes
        assert set(codes) <= {2, -15}
    assert re.match(rf"dat-rec: error: preflight: folder: {words.format(folder)}", line), line
    assert "mount the same folder at this path on every host" in line
    assert [path.name for path in folder.iterdir()] == ["other"]


@pytest.mark.slow
def test_two_sound_hosts_are_told_in_a_table_and_train_after_one_line(
    planted: Dataset, tmp_path: Path
) -> None:
    meet = ("--nnodes=2", "--local-addr=localhost", "--rdzv-backend=c10d", "--rdzv-id=two")
    meet += (f"--rdzv-endpoint=localhost:{free_port()}",)
    out = tmp_path / "run"
    program = ("sh", "-c", f'exec {shlex.join(DOCTOR)} --json --out "$4"', "sh")
    host = partial(launched, planted.folder, out, ranks=1, meet=meet)
    with host(program=program, log=tmp_path / "1") as one:
        with host(program=program, log=tmp_path / "2") as other:
            assert (one.wait(), other.wait()) == (0, 0), one.output() + other.output()
        texts = [run.output() for run in (one, other)]
    (told,) = [json.loads(text[text.index("{\n") :]) for text in texts if "{\n" in text]
    assert told["ok"]
    checks = {check["name"]: check for check in told["checks"]}
    assert checks["ranks"]["found"] == "2 ranks on 2 hosts"
    assert checks["folder"]["found"] == f"{tmp_path}: shared, and every host can write"
    # One machine has one clock.
    assert float(checks["clocks"]["found"].removeprefix("within ").removesuffix(" ms")) < 50
    assert checks["numpy"]["found"] == metadata.version("numpy")
    assert not list(tmp_path.glob(".preflight-*"))
    with launched(planted.folder, out, *SHORT, program=TRAIN) as run:
        assert run.wait() == 0, run.output()
        (line,) = re.findall(r"^preflight: .*", run.output(), re.MULTILINE)
    rate = r"[\d.e+]+ [MG]B/s"
    assert re.fullmatch(
        r"preflight: 2 ranks on 1 host, same versions, shared folder, "
        rf"all-reduce {rate}, all-to-all {rate} \((\d+\.\d) s\)",
        line,
    )
    assert float(line.split("(")[1].split()[0]) < 10


def test_alone_it_is_a_group_of_one_and_says_so(tmp_path: Path) -> None:
    done = forked("doctor", "--cluster", "--out", tmp_path / "not/there/yet")
    assert done.returncode == 0, done.stderr
    assert "1 rank: without torchrun this process is a group of one" in done.stdout
    assert f"{tmp_path}: shared, and every host can write" in done.stdout
    assert done.stdout.endswith("\nall is well\n")
    assert list(tmp_path.iterdir()) == []
    refused = forked("doctor", "--out", tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--out is looked at with --cluster alone" in refused.stderr


def measured() -> dict[str, Bandwidth]:
    with process_group(60) as context:
        return bandwidths(context)


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_ranks_send_arrives_and_takes_time(ranks: int) -> None:
    for found in run_ranks(measured, ranks):
        assert found.keys() == {"all-reduce", "all-to-all"}
        for one in found.values():
            assert one.right
            # Between a bad wireless network and the fastest memory there is.
            assert 1e6 < one.bytes_per_s < 1e12


def address() -> tuple[str, Facts]:
    with process_group(60) as context:
        return listening_address(), own_facts(context)


def test_the_address_is_that_of_the_interface_that_gloo_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    for found, facts in run_ranks(address, 2):
        assert found in ("127.0.0.1", "::1")
        assert facts.address == found
        assert (facts.device, facts.gpus) == ("cpu", ()) or facts.device == "cuda"


FACTS = Facts(
    rank=0,
    host="a",
    group=0,
    network="x:1",
    versions={"python": "3.11.7"},
    address="10.0.0.1",
    name_address="10.0.0.1",
    local_world_size=2,
    device="cpu",
    gpus=(),
    free_bytes=8 << 30,
    free_shm_bytes=2 << 30,
)
OTHER = dataclasses.replace(FACTS, rank=1, host="b", group=1, network="y:1", address="10.0.0.2")


def judged(checks: Check | list[Check]) -> dict[str, tuple[str, str, str | None]]:
    found = [checks] if isinstance(checks, Check) else checks
    return {check.name: (check.level, check.found, check.cure) for check in found}


@pytest.mark.parametrize(
    ("offset_s", "level", "words"),
    [
        (0.9, "ok", "within 900.0 ms"),
        (-1.1, "note", "b is 1.1 s behind the first host"),
        (59.0, "note", "b is 59.0 s ahead of the first host"),
        (-3600.0, "problem", "b is 3600.0 s behind the first host"),
    ],
)
def test_clocks_apart_by_a_second_are_noted_and_by_a_minute_refused(
    offset_s: float, level: str, words: str
) -> None:
    found = judged(preflight.check_clocks({"c": 0.001, "b": offset_s}))["clocks"]
    assert found[:2] == (level, words)


def test_loopback_is_a_problem_only_between_networks() -> None:
    lost = dataclasses.replace(OTHER, address="127.0.0.1", name_address="127.0.1.1")
    found = judged(list(preflight.check_interfaces([FACTS, lost])))
    level, words, cure = found["interfaces"]
    assert (level, words) == ("problem", "rank 1 (b) is reached by 127.0.0.1, from itself alone")
    assert cure
    assert cure.startswith("export GLOO_SOCKET_IFNAME=")
    assert found["host name"][:2] == ("note", "b takes its own name for 127.0.1.1 (/etc/hosts)")
    here = dataclasses.replace(lost, network=FACTS.network)
    assert judged(list(preflight.check_interfaces([FACTS, here])))["interfaces"][0] == "ok"
    found = judged(list(preflight.check_interfaces([FACTS, OTHER])))
    assert found == {"interfaces": ("ok", "reached by 10.0.0.1 (a), 10.0.0.2 (b)", None)}


@pytest.mark.parametrize(
    ("ours", "theirs", "level", "words"),
    [
        (("H100",) * 2, ("H100",) * 2, "ok", "2 on each host: H100"),
        (("H100",) * 2, ("H100",), "problem", "b has 1 GPU for 2 ranks"),
        (("H100",) * 2, ("A100",) * 2, "problem", "of several models: A100 (b), H100 (a)"),
    ],
)
def test_every_rank_needs_a_gpu_like_all_others(
    ours: tuple[str, ...], theirs: tuple[str, ...], level: str, words: str
) -> None:
    facts = [
        dataclasses.replace(one, device="cuda", gpus=gpus)
        for one, gpus in ((FACTS, ours), (OTHER, theirs))
    ]
    assert judged(preflight.check_gpus(facts))["gpus"][:2] == (level, words)


def test_numbers_that_arrive_changed_are_a_problem_of_the_rank_that_got_them() -> None:
    fine, wrong = Bandwidth(2e9, right=True), Bandwidth(2e9, right=False)
    measured = [{"all-reduce": fine, "all-to-all": fine}, {"all-reduce": wrong, "all-to-all": fine}]
    found = judged(list(preflight.check_bandwidth(measured)))
    assert found["all-reduce"][:2] == ("problem", "rank 1 got other numbers than were sent")
    assert found["all-to-all"] == ("ok", "2 GB/s sent by each rank", None)


def test_hosts_of_one_name_are_told_apart_and_each_has_one_speaker() -> None:
    same = [dataclasses.replace(FACTS, rank=rank, group=rank // 2) for rank in range(4)]
    found = preflight.named_apart(same)
    assert [one.host for one in found] == ["a/0", "a/0", "a/1", "a/1"]
    assert preflight.first_of_each_host(found) == [0, 2]
    assert [one.host for one in preflight.named_apart([FACTS, OTHER])] == ["a", "b"]


def test_little_memory_is_noted() -> None:
    full = dataclasses.replace(OTHER, free_bytes=1 << 30, free_shm_bytes=None)
    found = judged(list(preflight.check_memory([FACTS, full])))
    assert found["memory"][:2] == ("note", "0.5 GiB free for each rank, at least (b)")
    assert found["/dev/shm"][:2] == ("note", "missing on b")
