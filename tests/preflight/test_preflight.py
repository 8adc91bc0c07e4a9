"""What is wrong with a cluster is found before training: under torchrun, with real differences.

Other versions and other folders are those of a mount namespace of rank 1.
"""

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
from tests.device import DEVICE_FLAGS
from tests.end_to_end.forked import forked
from tests.end_to_end.launched import FLAGS, TRAIN, launched
from tests.end_to_end.test_survival import after_rank_1_did
from tests.rendezvous import free_port

DOCTOR = (sys.executable, "-m", "dat_rec", "doctor", "--cluster", *DEVICE_FLAGS)
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
