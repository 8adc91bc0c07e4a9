"""How long does a checkpoint keep training waiting, and how fast is it written and read?

    python -m benchmarks.checkpoint [--rows 4000000] [--repeats 5]

Trains a planted world whose user table has that many rows, and saves again and again, in turn
from a copy beside training and with training waiting. The copy alone is timed too: it is what
a save in the background may cost. The result is a JSON line.
"""

import dataclasses
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.on_data import built
from benchmarks.options import Options, parse
from benchmarks.record import percentiles
from dat_rec.checkpoint.find import newest_whole
from dat_rec.checkpoint.model_state import blocks_of, copied
from dat_rec.checkpoint.restore import restore
from dat_rec.checkpoint.writer import CheckpointWriter
from dat_rec.config import Device, preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.dist.process_group import process_group
from dat_rec.training.build import reader_options


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Seconds that training waits for a checkpoint."""

    rows: int = 4_000_000
    """Rows of the user's two tables, of 32 numbers each."""
    repeats: int = 5
    """Saves of each kind."""


def enlarge(data: Path, rows: int) -> None:
    """Give the user table more rows than there are users."""
    schema = json.loads((data / "schema.json").read_text())
    for feature in schema["features"]:
        if feature["table"] == "user":
            feature["rows"] = rows
    (data / "schema.json").write_text(json.dumps(schema))


def measure(data: Path, run: Path, repeats: int, device: Device) -> dict[str, Any]:
    """Every figure of ``repeats`` saves of each kind, interleaved."""
    config = preset("modern", data, run)
    config = dataclasses.replace(config, batch_size=512, device=device)
    seconds: dict[str, list[float]] = {
        name: [] for name in ("copy", "background_stall", "background_write", "waiting_stall")
    }
    with process_group(config.timeout_s, device=config.device) as context:
        dataset = Dataset.open(data)
        model, optimizer = built(config, dataset, context)
        batches = iter(ExampleReader(dataset, reader_options(config, config.batch_size)))
        writers = {
            kind: CheckpointWriter(run / kind, context, keep=1, background=kind == "background")
            for kind in ("background", "waiting")
        }
        global_batch = {"global_batch": config.batch_size}
        for number in tqdm(range(1, repeats + 1), desc="saves"):
            optimizer.zero_grad()
            model(next(batches))[0].backward()
            optimizer.step()
            blocks = blocks_of(model, optimizer)
            begin = time.perf_counter()
            copied(blocks)
            seconds["copy"].append(time.perf_counter() - begin)
            for kind, writer in writers.items():
                begin = time.perf_counter()
                writer.save(number, model, optimizer, global_batch)
                seconds[f"{kind}_stall"].append(time.perf_counter() - begin)
                writer.finish()
                if kind == "background":
                    seconds["background_write"].append(time.perf_counter() - begin)
        size = sum(block.tensor.numel() * block.tensor.element_size() for block in blocks)
        begin = time.perf_counter()
        found = newest_whole(run / "waiting")
        assert found is not None
        restore(found, model, optimizer, config.batch_size)
        read = time.perf_counter() - begin
        for writer in writers.values():
            writer.close()
    return {
        "bytes": size,
        **{f"{name}_s": percentiles(values) for name, values in seconds.items()},
        "verify_and_read_s": read,
    }


def main() -> None:
    """Measure once and append the result."""
    arguments = parse(Arguments)
    rows, repeats = (10_000, 2) if arguments.smoke else (arguments.rows, arguments.repeats)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        prepare(Synthetic(out=data, users=500, items=300, interactions=20_000))
        enlarge(data, rows)
        result = measure(data, Path(scratch) / "run", repeats, arguments.device)
    arguments.report("checkpoint", {"rows": rows} | result)


if __name__ == "__main__":
    main()
