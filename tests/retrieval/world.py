"""A small world to evaluate and export: random questions, a dataset, an untrained run."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dat_rec.checkpoint.write_tensors import Block, write_blocks
from dat_rec.config import LossConfig, ModelConfig, preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import ExampleFile, Feature, Schema
from dat_rec.files import sha256, write_json
from dat_rec.option_marks import to_json
from dat_rec.retrieval.protocol import Protocol
from dat_rec.sharding.table_shards import is_table, table_shards
from dat_rec.training.objective import TrainTask

USERS, ITEMS, TRAINED_ITEMS, QUERIES = 30, 60, 45, 400
SERVED = 9
"""Width of the vectors that are served: 8, and what popularity adds."""


def random_protocol(seed: int) -> Protocol:
    """Some users ask once, some dozens of times; some users and items are untrained."""
    rng = np.random.default_rng(seed)
    weight = rng.pareto(1.0, USERS)
    user_row = rng.choice(USERS, QUERIES, p=weight / weight.sum())
    item_index = rng.integers(0, ITEMS, QUERIES)
    user_trained = rng.random(USERS) < 0.8
    seen = (rng.random((USERS, TRAINED_ITEMS)) < 0.3) & user_trained[:, None]
    count = seen * rng.integers(1, 4, seen.shape)
    count[np.flatnonzero(user_trained)[0]] += 1  # no item without a training interaction
    owner, item = np.nonzero(count)
    return Protocol(
        user_row=user_row,
        item_index=item_index,
        user_trained=user_trained,
        train_count=np.append(count.sum(axis=0), np.zeros(ITEMS - TRAINED_ITEMS, np.int64)),
        category=rng.integers(0, 3, ITEMS),
        category_names=("toys", "books", "tools"),
        seen_offsets=np.searchsorted(owner, np.arange(USERS + 1)),
        seen_item=item,
        seen_count=count[owner, item],
    )


def write_examples(folder: Path, protocol: Protocol, seed: int) -> int:
    """Write who took what when, in two row groups, shuffled; return how many."""
    rng = np.random.default_rng([seed, 1])
    owner = np.repeat(np.arange(USERS), np.diff(protocol.seen_offsets))
    pair = rng.permutation(np.repeat(np.arange(len(owner)), protocol.seen_count))
    columns = {
        "user": owner[pair] + 1,
        "item_index": protocol.seen_item[pair],
        "time": rng.integers(0, 1000, len(pair)),
    }
    (folder / "examples").mkdir()
    path = folder / "examples" / "part-0.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=len(pair) // 2 + 1)
    return len(pair)


def write_dataset(folder: Path, seed: int = 0, *, validation: bool = False) -> Path:
    """Write a prepared dataset by hand: text user ids, numbered items, ragged history."""
    rng = np.random.default_rng(seed)
    protocol = random_protocol(seed)
    folder.mkdir(parents=True)
    known = np.arange(USERS) * protocol.user_trained
    users = {
        "user_id": [f"u{number}" for number in range(USERS)],
        "trained": protocol.user_trained,
        "user": known,
        "age": rng.integers(0, 4, USERS),
        "history": [
            list(protocol.seen_item[protocol.seen_slice(user)] + 1) for user in range(USERS)
        ],
    }
    row = np.arange(ITEMS)
    items = {
        "item_id": 1000 + row,
        "title": [None if i % 10 == 9 else f"title {i}" for i in row],
        "category_name": [protocol.category_names[number] for number in protocol.category],
        "train_count": protocol.train_count,
        "item": np.where(row < TRAINED_ITEMS, row + 1, 0),
        "category": protocol.category + 1,
    }
    # Sorted by user only, as the contract has it: items fall where Protocol wants them rising.
    order = np.lexsort(
        (-protocol.seen_item, np.repeat(np.arange(USERS), np.diff(protocol.seen_offsets)))
    )
    seen = {
        "user_row": np.repeat(np.arange(USERS), np.diff(protocol.seen_offsets)),
        "item_index": protocol.seen_item[order],
        "count": protocol.seen_count[order],
    }
    test = {"user_row": protocol.user_row, "item_index": protocol.item_index}
    test["time"] = np.arange(QUERIES)
    history = pa.list_(pa.int64())
    pq.write_table(
        pa.table(users | {"history": pa.array(users["history"], history)}), folder / "users.parquet"
    )
    held_out = {"test": test}
    if validation:
        other = random_protocol(seed + 100)
        held_out["validation"] = test | {"item_index": other.item_index}
    for name, columns in {"items": items, "seen": seen, **held_out}.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    examples = write_examples(folder, protocol, seed)
    Schema(
        source="by hand",
        features=(
            Feature("user", "query", "user", USERS),
            Feature("age", "query", "age", 4),
            Feature("history", "query", "item", TRAINED_ITEMS + 1, multi_valued=True),
            Feature("item", "item", "item", TRAINED_ITEMS + 1),
            Feature("category", "item", "category", 4),
        ),
        category="category",
        history_length=TRAINED_ITEMS,
        users=USERS,
        items=ITEMS,
        trained_items=TRAINED_ITEMS,
        examples=examples,
        tests=QUERIES,
        example_files=(ExampleFile("examples/part-0.parquet", examples),),
        split="random",
        rows_read=QUERIES,
        rejected={},
        validation=QUERIES if validation else 0,
    ).save(folder)
    return folder


def write_run(
    folder: Path,
    data: Path,
    *,
    augment: bool = True,
    generate: bool = False,
    precision: Literal["float32", "float64", "bfloat16"] = "float32",
    bad_ids: Literal["refuse", "unknown"] = "refuse",
    loss: LossConfig | None = None,
) -> Path:
    """A run whose one checkpoint holds random weights: as good as trained for what follows."""
    config = preset("modern", data, folder)
    config = replace(config, model=ModelConfig(embedding_dim=8, hidden=(16,), output_dim=8))
    config = replace(config, model=replace(config.model, augment=augment, precision=precision))
    config = replace(config, model=replace(config.model, generate=generate))
    config = replace(config, loss=loss or config.loss)
    config = replace(config, examples=replace(config.examples, bad_ids=bad_ids))
    torch.manual_seed(7)
    task = TrainTask(Schema.load(data), config.model, config.loss)
    with torch.no_grad():
        for name, weight in task.named_parameters():
            if ".embedding_bags." in name:
                weight.normal_()
    folder.mkdir(parents=True)
    digest = Dataset.open(data).row_digest()
    write_json(folder / "config.json", to_json(config) | {"world_size": 1, "row_digest": digest})
    step = folder / "checkpoints" / "step-00000012"
    step.mkdir(parents=True)
    blocks = [
        Block(f"tables/{shard.table}/weight", shard.weights, (0, 0), shard.shape)
        for shard in table_shards(task)
    ]
    blocks += [
        Block(f"towers/{name}", tower.detach(), (0,) * tower.dim(), tuple(tower.shape))
        for name, tower in task.named_parameters()
        if not is_table(name)
    ]
    tensors, _ = write_blocks(step / "rank-0000-of-0001.safetensors", blocks)
    write_json(step / "checkpoint.json", {"version": 1, "step": 12, "tensors": tensors})
    write_json(step / "sha256.json", {path.name: sha256(path) for path in step.iterdir()})
    return folder
