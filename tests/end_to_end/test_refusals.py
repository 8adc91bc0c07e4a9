"""Malformed options, runs, checkpoints and ids, given to the command: refused in one line.

Exit code 2, no traceback, a line that names the place, the value and the cure; and what stood
there before stands there after, byte for byte. ``forked`` runs the command; the first test
compares it with the program itself.
"""

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import ExampleFile
from dat_rec.files import sha256
from tests.checkpoint.saved import saved_digests
from tests.end_to_end.cli import dat_rec, done
from tests.end_to_end.forked import forked

FLAGS = ("--epochs", "1", "--batch-size", "512", "--checkpoint-every", "10")


def refusal(result: CompletedProcess[str]) -> str:
    """The one line with which a command refuses; beside it only damaged checkpoints are told."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if ": damaged (" not in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("dat-rec: error: ")
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
    }


def train(data: Path, out: Path, *more: str) -> CompletedProcess[str]:
    return forked("train", "--data", data, "--out", out, *FLAGS, *more)


@pytest.fixture(scope="module")
def run(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, with the checkpoints of steps 10 and 16."""
    out = tmp_path_factory.mktemp("refusals") / "run"
    done(train(planted.folder, out))
    return out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run's copy with its newest checkpoint alone, to be spoilt."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    shutil.rmtree(out / "checkpoints/step-00000010")
    return out


def test_a_forked_command_says_what_the_program_says(planted: Dataset, tmp_path: Path) -> None:
    arguments = ("train", "--data", planted.folder, "--out", tmp_path / "run", "--pin", "no=dense")
    program, fork = dat_rec(*arguments), forked(*arguments)
    assert (fork.returncode, fork.stdout, fork.stderr) == (
        (program.returncode, program.stdout, program.stderr)
    )
    assert "--pin no=dense: no such table" in refusal(program)


FUSED_UVM = "needs a GPU: on CPU every table lies in host memory"
OPTIONS: list[tuple[str, str]] = [
    ("--pin item=rowwise", "'rowwise' is none of data_parallel, table_wise"),
    ("--pin item=uvm", "--pin item=uvm: 'uvm' is none of"),
    ("--pin item=row_wise,", "'' is none of"),
    ("--pin item", "write TABLE=TYPE, as in item=row_wise"),
    ("--pin item=", "write TABLE=TYPE"),
    ("--pin =row_wise", "write TABLE=TYPE"),
    ("--pin items=row_wise", "--pin items=row_wise: no such table: there are user, item, category"),
    ("--pin item=column_wise,min_partition:6", "min_partition is 6: it must be a multiple of 4"),
    ("--pin item=column_wise,min_partition:0", "min_partition:0: it must be a number above 0"),
    ("--pin item=column_wise,min_partition:wide", "min_partition:wide: it must be a number"),
    ("--pin item=column_wise,min_partition:24", "does not divide its 32 columns: choose a divisor"),
    ("--pin item=fused_uvm_caching,cache_load_factor:0", "cache_load_factor:0: it must be a numb"),
    ("--pin item=fused_uvm_caching,cache_load_factor:2", "cache_load_factor must lie in (0, 1]"),
    ("--pin item=cache_load_factor:0.5", "needs the kernel fused_uvm_caching alone"),
    ("--pin item=pooling_factor:-1", "pooling_factor:-1: it must be a number above 0"),
    ("--pin item=pooling_factor:nan", "pooling_factor:nan: it must be a number above 0"),
    ("--pin item=pooling_factor:1e300", "no sharding plan fits 1 × cpu"),
    ("--pin item=fused_uvm", f"table item: the kernel fused_uvm {FUSED_UVM}"),
    ("--pin *=fused_uvm_caching", f"the kernel fused_uvm_caching {FUSED_UVM}"),
    ("--pin item=row_wise,dense", "refuses it for row_wise: pin it to data_parallel, or to fused"),
    (
        "--model.fp16-tables item --pin item=data_parallel",
        "table item: float16 weights need the kernel fused",
    ),
    ("--model.fp16-tables items", "--model.fp16-tables items: no such table: there are category"),
    (
        "--model.embedding-dim 30 --pin item=column_wise",
        "30 columns: FBGEMM's fused kernels want multiples of 4, in parts of a table too: choose",
    ),
    ("--model.embedding-dim 6", "6 columns: FBGEMM's fused kernels want multiples of 4"),
    ("--model.output-dim 6", "table augmented_user: 6 columns: FBGEMM's fused kernels want"),
    ("--pin item=row_wise --pin user=row_wise", "--pin is given twice: give all its values behind"),
    ("--comms bf16", "--comms bf16: between CPUs (gloo) TorchRec would silently send float16: pas"),
    ("--sharding-group-size 1", "--sharding-group-size 1: copies of the tables"),
    ("--sharding-group-size -2", "--sharding-group-size is -2: it must be 0 or more"),
    ("--memory-gb 0.00001", "1e-05 GiB each"),
    ("--memory-gb 1e-12", "no sharding plan fits 1 × cpu"),
    ("--memory-gb -1", "--memory-gb is -1.0: it must be 0 or more"),
    ("--memory-gb nan", "--memory-gb is nan: it must be a finite number"),
    ("--memory-gb 1e300", "--memory-gb is 1e+300: it must be at most 1048576"),
    ("--topology nowhere.json", "nowhere.json"),
    ("--keep-best -1", "--keep-best is -1: it must be 0 or more"),
    ("--batch-size 1000000000000 --epochs 1000000000", "raise --memory-gb if there is more"),
]


@pytest.mark.parametrize(("flags", "line"), OPTIONS)
def test_a_bad_option_is_refused_and_the_run_in_its_place_stays(
    flags: str, line: str, planted: Dataset, run: Path
) -> None:
    before = contents(run)
    assert line in refusal(train(planted.folder, run, "--overwrite", *flags.split()))
    assert contents(run) == before


@pytest.mark.parametrize("flags", ["--memory-gb 0.00001", "--comms bf16", "--pin item=fused_uvm"])
def test_a_refused_start_writes_nothing(flags: str, planted: Dataset, tmp_path: Path) -> None:
    refusal(train(planted.folder, tmp_path / "run", *flags.split()))
    assert list(tmp_path.iterdir()) == []


def test_no_plan_leaves_its_cure(planted: Dataset, run: Path) -> None:
    line = refusal(train(planted.folder, run, "--overwrite", "--memory-gb", "0.00001"))
    assert "use more ranks, raise --memory-gb if there is more, allow other types" in line


RESUMED: list[tuple[str, str]] = [
    ("--seed 9", "--resume with --seed 9 (0)"),
    ("--optimizer.table adagrad", "--resume with --optimizer.table adagrad (rowwise_adagrad)"),
    ("--model.embedding-dim 8", "--resume with --model.embedding-dim 8 (32)"),
    ("--model.fp16-tables item", "--resume with --model.fp16-tables ['item'] ([])"),
    ("--examples.bad-ids unknown", "--resume with --examples.bad-ids unknown (refuse)"),
]


@pytest.mark.parametrize(("flags", "line"), RESUMED)
def test_another_run_is_not_resumed(flags: str, line: str, planted: Dataset, run: Path) -> None:
    before = contents(run)
    found = refusal(train(planted.folder, run, "--resume", *flags.split()))
    assert line in found
    assert "give the same options, or another --out" in found
    assert contents(run) == before


Config = dict[str, Any]


def put(name: str, value: object) -> Callable[[Config], object]:
    """Set the field of that dotted name."""

    def change(config: Config) -> Config:
        group, _, inner = name.rpartition(".")
        (config[group] if group else config)[inner] = value
        return config

    return change


def without(name: str) -> Callable[[Config], object]:
    def change(config: Config) -> Config:
        group, _, inner = name.rpartition(".")
        del (config[group] if group else config)[inner]
        return config

    return change


CONFIGS: list[tuple[str, Callable[[Config], object], str]] = [
    ("an unknown field", put("novelty", 1), "config.json: unknown field 'novelty': read it with"),
    (
        "a field of another type",
        put("seed", "0"),
        "config.json: seed is '0': it must be a valid integer",
    ),
    (
        "a missing field",
        without("model.fp16_tables"),
        "config.json: model.fp16_tables is missing: read",
    ),
    ("a missing group", without("examples"), "config.json: examples is missing: read it with"),
    ("an array", lambda _: [1, 2], "the content is [1, 2]: it must be an object"),
    ("null", lambda _: None, "the content is None: it must be an object"),
    ("a sharding type that is none", put("sharding_types", ["rowwise"]), "[0] is 'rowwise': it"),
    ("a pin that is none", put("pin", ["item=rowwise"]), "'rowwise' is none of"),
    (
        "a text for a list",
        put("model.fp16_tables", "item"),
        "model.fp16_tables is 'item': it must be a valid",
    ),
    ("a text for a group", put("loss", "softmax"), "loss is 'softmax': it must be an"),
    ("a negative number", put("keep_best", -1), "keep_best is -1: it must be 0 or more"),
    ("not a number", put("memory_gb", float("nan")), "memory_gb is nan: it must be a finite"),
    ("a number for a path", put("warm_start", 5), "warm_start is 5: it must be a valid string"),
]


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("change", "line"), [case[1:] for case in CONFIGS], ids=[case[0] for case in CONFIGS]
)
def test_a_malformed_config_json_is_refused(
    command: str, change: Callable[[Config], object], line: str, planted: Dataset, copy: Path
) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    found = used(command, planted, copy)
    assert line in found
    assert f"{path}: " in found or line.startswith(("--", "'rowwise' is"))


@pytest.mark.parametrize("command", ["train", "evaluate", "export"])
def test_a_config_json_that_is_no_json_is_refused(
    command: str, planted: Dataset, copy: Path
) -> None:
    (copy / "config.json").write_text('{"seed": 0')
    line = used(command, planted, copy)
    assert f"{copy}/config.json: the run's configuration is not valid JSON" in line
    assert line.endswith(": make it anew")


@pytest.mark.parametrize("value", [None, "512", 0, 512.0])
def test_a_global_batch_that_is_no_number_is_refused(
    value: object, planted: Dataset, copy: Path
) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps(put("global_batch", value)(json.loads(path.read_text()))))
    line = used("train", planted, copy)
    assert f"{path}: global_batch: {value!r} is no number above 0: train anew" in line


def used(command: str, planted: Dataset, run: Path) -> str:
    """The line with which ``command`` refuses ``run``, which it leaves as it was."""
    before = contents(run.parent)
    if command == "train":
        result = train(planted.folder, run, "--resume")
    else:
        more = ["--out", str(run.parent / "export")] if command == "export" else []
        result = forked(command, "--run", run, *more)
    assert contents(run.parent) == before
    return refusal(result)


Index = dict[str, Any]
WEIGHT = "tables/dat.embeddings.user/weight"


def entry(index: Index, name: str = WEIGHT) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in index["tensors"] if one["name"] == name)
    return found


def of_entry(field: str, value: object) -> Callable[[Index], object]:
    def change(index: Index) -> Index:
        entry(index)[field] = value
        return index

    return change


def doubled_with_a_gap(index: Index) -> Index:
    """Two halves, the second one of which is the first again."""
    first = entry(index)
    first["shape"] = [602, 32]
    index["tensors"].append(dict(first))
    return index


def without_a_tensor(index: Index) -> Index:
    index["tensors"].remove(entry(index))
    return index


def without_a_field(index: Index) -> Index:
    del entry(index)["start"]
    return index


def moved(index: Index) -> Index:
    """Another block's bytes."""
    entry(index)["start"] += 128
    return index


INDEXES: list[tuple[str, Callable[[Index], object], str]] = [
    ("another version", put("version", 2), "checkpoint.json: not a checkpoint of version 1: use"),
    ("an array", lambda _: [], "checkpoint.json: not a checkpoint of version 1"),
    ("no tensors", without("tensors"), "tensors: a list is wanted, not None"),
    ("a text for tensors", put("tensors", "all"), "tensors: a list is wanted, not 'all'"),
    ("a missing tensor", without_a_tensor, f"holds no {WEIGHT}"),
    ("a missing field", without_a_field, "its index is malformed (no field 'start')"),
    ("a dtype that is none", of_entry("dtype", "F8"), f"{WEIGHT}: dtype 'F8' is none of ['F32'"),
    ("another dtype", of_entry("dtype", "F16"), f"does not hold {WEIGHT}@0,0"),
    ("a negative offset", of_entry("offsets", [-1, 0]), "offsets [-1, 0] and sizes [301, 32] go"),
    ("an offset beyond the shape", of_entry("offsets", [301, 0]), "go beyond the shape [301, 32]"),
    ("a fraction", of_entry("offsets", [0.5, 0]), "offsets [0.5, 0]: integers are wanted"),
    ("too few offsets", of_entry("offsets", [0]), "offsets [0] and sizes [301, 32] go beyond"),
    ("another folder's file", of_entry("file", "../x.safetensors"), "file '../x.safetensors': "),
    ("another kind of file", of_entry("file", "sha256.json"), "file 'sha256.json': "),
    ("a gap", of_entry("shape", [400, 32]), f"{WEIGHT}: its blocks leave gaps, or overlap"),
    ("twice the same", doubled_with_a_gap, f"{WEIGHT}: its blocks leave gaps, or overlap"),
    ("other bytes", moved, f"does not hold {WEIGHT}@0,0 at "),
    ("a start beyond the end", of_entry("start", 10**9), f"{WEIGHT}@0,0 at 1000000000"),
    ("a start that is a text", of_entry("start", "8"), "its index is malformed"),
]


def reseal(checkpoint: Path) -> None:
    """Let the digests be those of the files, so that only what stands in them is wrong."""
    names = [path.name for path in checkpoint.iterdir() if path.name != "sha256.json"]
    digests = {name: sha256(checkpoint / name) for name in names}
    (checkpoint / "sha256.json").write_text(json.dumps(digests))


def spoil_index(run: Path, change: Callable[[Index], object]) -> Path:
    (checkpoint,) = (run / "checkpoints").iterdir()
    path = checkpoint / "checkpoint.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    reseal(checkpoint)
    return checkpoint


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("change", "line"), [case[1:] for case in INDEXES], ids=[case[0] for case in INDEXES]
)
def test_a_malformed_index_is_refused(
    command: str, change: Callable[[Index], object], line: str, planted: Dataset, copy: Path
) -> None:
    checkpoint = spoil_index(copy, change)
    found = used(command, planted, copy)
    assert line in found
    assert str(checkpoint) in found
    assert "train anew" in found


def test_a_checkpoint_of_another_global_batch_or_step_is_not_resumed(
    planted: Dataset, copy: Path
) -> None:
    spoil_index(copy, put("global_batch", 256))
    assert "step 16 of global batches of 256, not step 16 of 512" in used("train", planted, copy)
    spoil_index(copy, put("step", "16"))
    assert "step '16' of global batches" in used("train", planted, copy)


def test_a_tensor_of_another_shape_than_the_models_is_refused(planted: Dataset, copy: Path) -> None:
    """A checkpoint, whole in itself, of a model with 8 columns."""
    other = copy.parent / "other"
    done(train(planted.folder, other, "--model.embedding-dim", "8"))
    shutil.rmtree(copy / "checkpoints")
    shutil.copytree(other / "checkpoints", copy / "checkpoints")
    for command in ("train", "evaluate", "export"):
        line = used(command, planted, copy)
        assert "weight is [" in line
        assert "8], and not [" in line
        assert "use the options and the version that it was made with, or train anew" in line


def test_a_state_of_adam_of_another_shape_is_refused(planted: Dataset, copy: Path) -> None:
    (checkpoint,) = (copy / "checkpoints").iterdir()
    path = checkpoint / "checkpoint.json"
    index = json.loads(path.read_text())
    adam = [one["name"] for one in index["tensors"] if one["name"].endswith("/exp_avg")]
    weight, bias = (next(n for n in adam if n.endswith(f"{p}/exp_avg")) for p in ("weight", "bias"))
    swapped = entry(index, weight), entry(index, bias)
    swapped[0]["name"], swapped[1]["name"] = bias, weight
    path.write_text(json.dumps(index))
    rename_blocks(next(checkpoint.glob("*.safetensors")), index)
    reseal(checkpoint)
    line = used("train", planted, copy)
    assert f"{weight} is [" in line
    assert "and not [" in line
    done(forked("evaluate", "--run", copy))  # needs no Adam: the file itself is sound


def rename_blocks(file: Path, index: Index) -> None:
    """Write the file's header anew, as long as before, from the index."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = {}
    for one in index["tensors"]:
        key = f"{one['name']}@{','.join(map(str, one['offsets']))}"
        begin = one["start"] - 8 - length
        items = {"F32": 4, "I64": 8}[one["dtype"]]
        for size in one["sizes"]:
            items *= size
        places = [begin, begin + items]
        header[key] = {"dtype": one["dtype"], "shape": one["sizes"], "data_offsets": places}
    text = json.dumps(header).encode()
    assert len(text) <= length
    file.write_bytes(data[:8] + text.ljust(length) + data[8 + length :])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip_a_bit, cut, Path.unlink])
@pytest.mark.parametrize("file", ["rank-0000-of-0001.safetensors", "checkpoint.json"])
def test_when_every_checkpoint_is_damaged_all_are_told_and_none_is_lost(
    damage: Callable[[Path], None], file: str, planted: Dataset, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    for checkpoint in (out / "checkpoints").iterdir():
        damage(checkpoint / file)
    for command in ("train", "evaluate"):
        line = used(command, planted, out)
        assert f"{out}: every checkpoint is damaged: train anew, with --overwrite" in line


@pytest.mark.parametrize("text", ["[]", "null", '{"a\\u0000b": "0", "checkpoint.json": "0"}', "{"])
def test_malformed_digests_are_damage(text: str, planted: Dataset, copy: Path) -> None:
    (checkpoint,) = (copy / "checkpoints").iterdir()
    (checkpoint / "sha256.json").write_text(text)
    assert "every checkpoint is damaged" in used("train", planted, copy)


def test_a_file_without_a_digest_is_refused(planted: Dataset, copy: Path) -> None:
    (checkpoint,) = (copy / "checkpoints").iterdir()
    digests = {"checkpoint.json": sha256(checkpoint / "checkpoint.json")}
    (checkpoint / "sha256.json").write_text(json.dumps(digests))
    for command in ("train", "evaluate"):
        line = used(command, planted, copy)
        assert "file 'rank-0000-of-0001.safetensors': sha256.json does not name it" in line


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00"])
def test_an_index_that_is_no_json_is_refused(text: str, planted: Dataset, copy: Path) -> None:
    (checkpoint,) = (copy / "checkpoints").iterdir()
    (checkpoint / "checkpoint.json").write_text(text)
    reseal(checkpoint)
    for command in ("train", "evaluate"):
        assert "the checkpoint's index is not valid JSON" in used(command, planted, copy)


class Bomb:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("file", ["rank-0000-of-0001.safetensors", "checkpoint.json"])
def test_a_pickle_in_a_files_place_is_not_executed(
    file: str, planted: Dataset, copy: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    witness = tmp_path_factory.mktemp("witness") / "executed"
    (checkpoint,) = (copy / "checkpoints").iterdir()
    size = (checkpoint / file).stat().st_size
    (checkpoint / file).write_bytes(pickle.dumps(Bomb(witness)).ljust(size, b"\x00"))
    reseal(checkpoint)
    for command in ("train", "evaluate", "export"):
        line = used(command, planted, copy)
        assert "is no safetensors file" in line or "is not valid JSON" in line
        assert not witness.exists()
    pickle.loads((checkpoint / file).read_bytes())
    assert witness.exists(), "the pickle shows nothing"


def spoilt(
    planted: Dataset, folder: Path, file: str, change: Callable[[pa.Table], pa.Table]
) -> Path:
    """The planted world with one of its files changed."""
    shutil.copytree(planted.folder, folder)
    path = folder / f"{file}.parquet"
    table = change(pq.read_table(path))
    path.unlink()
    pq.write_table(table, path, row_group_size=3_000)
    if file.startswith("examples/"):
        files = (ExampleFile(f"{file}.parquet", table.num_rows),)
        replace(planted.schema, example_files=files).save(folder)
    return folder


def value_at(name: str, row: int, value: object, kind: pa.DataType) -> Callable[..., pa.Table]:
    """The column as ``kind``, with one value of its own."""

    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        return table.set_column(table.column_names.index(name), name, pa.array(values, kind))

    return change


def column_of(name: str, kind: pa.DataType) -> Callable[..., pa.Table]:
    """The column's values as another kind: numbers as lists of one, lists as their lengths."""

    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        if pa.types.is_list(kind) and not isinstance(values[0], list):
            values = [[value] for value in values]
        elif not pa.types.is_list(kind) and isinstance(values[0], list):
            values = [len(value) for value in values]
        return table.set_column(table.column_names.index(name), name, pa.array(values, kind))

    return change


EXAMPLES = "examples/part-00000"
ROW = 8_000
"""In the last row group: what is wrong there is found before the run's folder is touched."""
int64, uint64 = pa.int64(), pa.uint64()
STREAMS: list[tuple[str, Callable[..., pa.Table], Sequence[str]]] = [
    *(
        (file, value_at(name, row, value, kind), (f"column {name!r}, row ", f"holds id {value}, "))
        for file, name, row, size in (
            (EXAMPLES, "user", ROW, 301),
            (EXAMPLES, "item", ROW, 201),
            (EXAMPLES, "item_index", ROW, 200),
            ("items", "item", 7, 201),
            ("items", "category", 7, 6),
            ("users", "user", 7, 301),
        )
        for value, kind in ((size, int64), (-1, int64), (2**63, uint64))
    ),
    *(
        (file, value_at(name, row, None, int64), (f"column {name!r} holds nulls: use 0",))
        for file, name, row in (
            (EXAMPLES, "user", ROW),
            (EXAMPLES, "item", ROW),
            ("items", "item", 7),
        )
    ),
    *(
        (file, column_of(name, kind), (f"column {name!r} is ", ", not an integer: prepare the"))
        for file, name in ((EXAMPLES, "user"), (EXAMPLES, "item_index"), ("items", "category"))
        for kind in (pa.float64(), pa.list_(int64))
    ),
    *(
        (
            file,
            value_at("history", row, [1, value], pa.list_(kind)),
            ("'history', row ", str(value)),
        )
        for file, row in ((EXAMPLES, ROW), ("users", 7))
        for value, kind in ((201, int64), (-1, int64), (2**63, uint64))
    ),
    (EXAMPLES, column_of("history", pa.list_(pa.float32())), ("not a list of integers: prepare",)),
    (EXAMPLES, column_of("history", int64), ("column 'history' is int64, not a list of integers",)),
]


@pytest.mark.parametrize(("file", "change", "words"), STREAMS)
def test_a_bad_id_is_refused_and_the_run_in_its_place_stays(
    file: str,
    change: Callable[[pa.Table], pa.Table],
    words: Sequence[str],
    planted: Dataset,
    run: Path,
    tmp_path: Path,
) -> None:
    before = contents(run)
    data = spoilt(planted, tmp_path / "data", file, change)
    line = refusal(train(data, run, "--overwrite"))
    for word in (f"{data}/{file}.parquet", *words):
        assert word in line
    assert "prepare the dataset anew" in line or "use 0 for unknown" in line
    assert contents(run) == before


def test_a_null_within_a_list_stops_before_a_checkpoint(planted: Dataset, tmp_path: Path) -> None:
    change = value_at("history", ROW, [1, None], pa.list_(int64))
    data = spoilt(planted, tmp_path / "data", EXAMPLES, change)
    result = train(data, tmp_path / "run")
    assert result.returncode == 2
    assert "column 'history' holds nulls: use 0 for unknown" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize("value", [-1, 200])
def test_an_item_index_beyond_the_catalogue_is_refused_even_where_ids_may_be_unknown(
    value: int, planted: Dataset, run: Path, tmp_path: Path
) -> None:
    before = contents(run)
    data = spoilt(planted, tmp_path / "data", EXAMPLES, value_at("item_index", ROW, value, int64))
    line = refusal(train(data, run, "--overwrite", "--examples.bad-ids", "unknown"))
    assert f"column 'item_index', row {ROW - 6_000} (from 0), holds id {value}, outside" in line
    assert "--examples.bad-ids" not in line
    assert contents(run) == before


BAD = {
    EXAMPLES: {
        "user": {5: 2**63, 4_000: 301, ROW: 2**64 - 1},
        "item": {17: 201},
        "history": {9: [3, -1, 4], ROW: [-(2**63)]},
    },
    "items": {"category": {3: -5}},
    "users": {"history": {11: [500, 2]}},
}
ZERO = {
    EXAMPLES: {
        "user": {5: 0, 4_000: 0, ROW: 0},
        "item": {17: 0},
        "history": {9: [3, 0, 4], ROW: [0]},
    },
    "items": {"category": {3: 0}},
    "users": {"history": {11: [0, 2]}},
}


def with_values(planted: Dataset, folder: Path, values: dict[str, Any]) -> Path:
    shutil.copytree(planted.folder, folder)
    for file, columns in values.items():
        path = folder / f"{file}.parquet"
        table = pq.read_table(path)
        for name, places in columns.items():
            for row, value in places.items():
                kind: pa.DataType = uint64 if name == "user" else int64
                kind = pa.list_(int64) if name == "history" else kind
                table = value_at(name, row, value, kind)(table)
        pq.write_table(table, path, row_group_size=3_000)
    return folder


def test_bad_ids_train_the_unknown_row_and_no_other(planted: Dataset, tmp_path: Path) -> None:
    bad = with_values(planted, tmp_path / "bad", BAD)
    zero = with_values(planted, tmp_path / "zero", ZERO)
    unknown = ("--examples.bad-ids", "unknown")
    done(train(bad, tmp_path / "run-bad", *unknown))
    done(train(zero, tmp_path / "run-zero"))
    ours, theirs = (
        saved_digests(tmp_path / run / "checkpoints/step-00000016")
        for run in ("run-bad", "run-zero")
    )
    assert ours == theirs
    ours, theirs = (
        json.loads((tmp_path / run / "train.json").read_text()) for run in ("run-bad", "run-zero")
    )
    assert ours["bad_ids"] == {"user": 3, "item": 1, "history": 2, "category": 1}
    assert theirs["bad_ids"] == {}
    assert ours["loss"] == theirs["loss"]
    # What was trained as unknown is evaluated as unknown.
    figures = []
    for run in ("run-bad", "run-zero"):
        done(forked("evaluate", "--run", tmp_path / run))
        figures.append(json.loads((tmp_path / run / "metrics.json").read_text()))
    assert figures[0] == figures[1]
    assert "--examples.bad-ids unknown" in refusal(train(bad, tmp_path / "refused"))
