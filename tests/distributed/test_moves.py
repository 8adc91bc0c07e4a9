"""Checkpoints of every sharding type and world size, loaded under every other.

A quarter of the moves: from every type on every world to every type, and to every type on every
world from every type. ``DAT_REC_TEST_CASES=1`` takes all, ``DAT_REC_WRITE_DOCS=1`` too, and writes
what was found into docs/checkpoints.md.
"""

import os
from itertools import product
from pathlib import Path

import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.install import CHECKOUT
from dat_rec.sharding_rules import SHARDING_TYPES
from tests.cases import WHOLE
from tests.distributed.exactness import Case
from tests.distributed.moves import load_all, refusals, save_all
from tests.distributed.ranks import run_ranks

PAGE = CHECKOUT / "docs" / "checkpoints.md"
WORLDS = (1, 2, 3, 4)
OPTIMIZERS = ("rowwise_adagrad", "adagrad")
Move = tuple[str, int, str, int]
"""Saved type and world, and loaded type and world."""
Verdicts = dict[Move, str]


def moves_of(optimizer: str) -> set[Move]:
    """Those that are made; of each optimizer another quarter."""
    shift = 2 * OPTIMIZERS.index(optimizer)
    return {
        (saved, a, loaded, b)
        for (i, saved), (j, loaded) in product(enumerate(SHARDING_TYPES), repeat=2)
        for a, b in product(WORLDS, repeat=2)
        if WHOLE or os.environ.get("DAT_REC_WRITE_DOCS") or (i + j + a + b + shift) % 4 == 0
    }


def move_all(dataset: Dataset, folder: Path, optimizer: str) -> Verdicts:
    cases = {
        kind: Case(pins=(f"*={kind},min_partition:4",), optimizer=optimizer)
        for kind in SHARDING_TYPES
    }
    for world in WORLDS:
        named = {f"{kind}-{world}": case for kind, case in cases.items()}
        run_ranks(save_all, world, dataset, folder, named)
    found: Verdicts = {}
    for world in WORLDS:
        wanted = {(f"{a}-{n}", b) for a, n, b, to in moves_of(optimizer) if to == world}
        for verdicts in run_ranks(load_all, world, dataset, folder, cases, wanted):
            for (source, kind), verdict in verdicts.items():
                saved, _, saved_world = source.rpartition("-")
                move = (saved, int(saved_world), kind, world)
                # A rank that finds a fault has the last word.
                if verdict != "exact" or move not in found:
                    found[move] = verdict
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("moves")


@pytest.fixture(scope="module")
def moves(divisible: Dataset, folder: Path) -> dict[str, Verdicts]:
    return {kind: move_all(divisible, folder / kind, kind) for kind in OPTIMIZERS}


@pytest.fixture(scope="module")
def refused(divisible: Dataset, folder: Path, moves: dict[str, Verdicts]) -> dict[str, str]:
    found: dict[str, str]
    (found,) = run_ranks(refusals, 1, divisible, folder / OPTIMIZERS[0] / "row_wise-2")
    if os.environ.get("DAT_REC_WRITE_DOCS"):
        PAGE.write_text(page(moves, found))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_checkpoint_loads_bit_for_bit_under_every_plan_and_world(
    optimizer: str, moves: dict[str, Verdicts]
) -> None:
    found = moves[optimizer]
    assert found.keys() == moves_of(optimizer)
    assert {move: verdict for move, verdict in found.items() if verdict != "exact"} == {}


def test_what_does_not_fit_is_refused_with_the_reason(refused: dict[str, str]) -> None:
    reasons = {
        "`--optimizer.table adagrad`": "accumulator is [301], and not [301, 8]",
        "without augmented vectors": "towers/dat.query_tower.layers.0.weight is [16, 32], and not",
        "`--model.embedding-dim 4`": "weight is [301, 8], and not [301, 4]",
        "another global batch": "step 2 of global batches of 96, not step 2 of 192",
    }
    assert refused.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert "does not fit the model" in refused[name]
        assert reason in refused[name]


def page(moves: dict[str, Verdicts], refused: dict[str, str]) -> str:
    lines = [
        "# Checkpoints that move",
        "",
        "Written by a test:",
        "`DAT_REC_WRITE_DOCS=1 make pytest PYTEST_FLAGS=tests/distributed/test_moves.py`.",
        "",
        "A model is trained for two steps under the row's sharding type on 1, 2, 3 and 4 ranks and",
        "saved; each checkpoint is loaded under the column's type on 1, 2, 3 and 4 ranks. A cell",
        "counts the pairs of worlds, of 16, in which everything is bit for bit what was saved,",
        "as the `safetensors` library reads it: tables, accumulators, towers, Adam's moments and",
        "step.",
    ]
    for optimizer, found in moves.items():
        lines += ["", f"## `--optimizer.table {optimizer}`", ""]
        lines.append("| saved as ↓, loaded as → | " + " | ".join(SHARDING_TYPES) + " |")
        lines.append("|---" * (1 + len(SHARDING_TYPES)) + "|")
        for saved in SHARDING_TYPES:
            cells = []
            for loaded in SHARDING_TYPES:
                verdicts = [found[saved, a, loaded, b] for a in WORLDS for b in WORLDS]
                wrong = sorted({verdict for verdict in verdicts if verdict != "exact"})
                cells.append("; ".join([f"exact × {verdicts.count('exact')}", *wrong]))
            lines.append(f"| {saved} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Refused",
        "",
        "What a checkpoint cannot become, and the reason that the program gives, exit code 2:",
        "",
        "| loaded with | reason |",
        "|---|---|",
    ]
    for name, said in refused.items():
        reason = said.partition("(")[2].rpartition(")")[0].split(": ", 1)[-1]
        lines.append(f"| {name} | {reason} |")
    lines += [
        "| another seed, loss or any option that decides numbers | `--resume with --seed 9 (0)` |",
        "| another dataset, even of equal sizes | its users, items or values stand in other rows "
        "(`--warm-start` matches rows by what they mean) |",
        "| a damaged file | its SHA-256 differs; the newest whole checkpoint is used, said aloud |",
    ]
    return "\n".join(lines) + "\n"
