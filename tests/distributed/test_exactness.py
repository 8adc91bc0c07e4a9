"""Every sharding type, world size and loss preset against one unsharded process.

``DAT_REC_WRITE_DOCS=1`` writes the differences that were found into docs/exactness.md;
without it, the page that stands there must have a figure for each case of today.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dat_rec.config import PRESETS
from dat_rec.data.dataset import Dataset
from dat_rec.install import CHECKOUT
from dat_rec.sharding_rules import SHARDING_TYPES
from tests.distributed.exactness import Case, Outcome, run_cases, run_references
from tests.distributed.ranks import run_ranks

PAGE = CHECKOUT / "docs" / "exactness.md"
WORLDS = {1: 1, 2: 1, 4: 2}
"""Hosts that the ranks of a world stand on."""
EXACT = 5e-7
"""Largest difference that float32 tables and another order of addition may make in three steps,
of parameters of size 0.2 and steps of 0.05; losses are some 7."""


@dataclass(frozen=True)
class Kind:
    """A case for every sharding type, and how far it may be from the reference."""

    title: str
    case: Case
    loss: float = EXACT
    parameters: float = EXACT
    worlds: tuple[int, ...] = (1, 2, 4)


KINDS = [
    *(Kind(f"`{preset}`", Case(preset)) for preset in PRESETS),
    Kind("`modern`, `--optimizer.table adagrad`", Case(optimizer="adagrad")),
    # Adagrad's step is as long for a tiny gradient: where rounding turns a ReLU, a row that
    # learned from little else steps elsewhere.
    Kind("`modern`, `--comms fp16`", Case(comms="fp16"), 1e-2, 1e-1, (2,)),
    Kind("`modern`, `--model.fp16-tables '*'`", Case(fp16_tables=("*",)), 1e-2, 1e-1, (2,)),
]


def pinned(case: Case, kind: str) -> Case:
    return replace(case, pins=(f"*={kind},min_partition:4",))


def cells(kind: Kind) -> list[tuple[str, int]]:
    types = [t for t in SHARDING_TYPES if not (kind.case.fp16_tables and t == "data_parallel")]
    return [(sharding, world) for sharding in types for world in kind.worlds]


@dataclass(frozen=True)
class Difference:
    loss: float
    parameters: float


def difference(outcome: Outcome, reference: Outcome) -> Difference:
    assert outcome.parameters.keys() == reference.parameters.keys()
    return Difference(
        max(abs(a - b) for a, b in zip(outcome.losses, reference.losses, strict=True)),
        max(
            float((outcome.parameters[name].double() - expected.double()).abs().max())
            for name, expected in reference.parameters.items()
        ),
    )


@pytest.fixture(scope="module")
def differences(divisible: Dataset) -> dict[tuple[str, str, int], Difference]:
    """By kind's title, sharding type and world size."""
    # Unsharded, half-precision tables and messages are those of float32.
    plain = [Case(kind.case.preset, (), kind.case.optimizer) for kind in KINDS]
    references = run_ranks(run_references, 1, divisible, plain)[0]
    found = {}
    for world, hosts in WORLDS.items():
        places = [
            (kind, sharding, reference)
            for kind, reference in zip(KINDS, references, strict=True)
            for sharding, size in cells(kind)
            if size == world
        ]
        cases = [pinned(kind.case, sharding) for kind, sharding, _ in places]
        ranks = run_ranks(run_cases, world, divisible, cases, hosts=hosts)
        for (kind, sharding, reference), *outcomes in zip(places, *ranks, strict=True):
            for outcome in outcomes:
                assert {row["sharding_type"] for row in outcome.plan} == {sharding}
                assert outcome.losses == outcomes[0].losses
            found[kind.title, sharding, world] = difference(outcomes[0], reference)
    if os.environ.get("DAT_REC_WRITE_DOCS"):
        PAGE.write_text(page(found))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title.replace("`", ""))
def test_every_plan_trains_as_one_process_does(
    kind: Kind, differences: dict[tuple[str, str, int], Difference]
) -> None:
    for sharding, world in cells(kind):
        found = differences[kind.title, sharding, world]
        assert found.loss <= kind.loss, (sharding, world, found)
        assert found.parameters <= kind.parameters, (sharding, world, found)


def test_half_precision_is_really_used(
    differences: dict[tuple[str, str, int], Difference],
) -> None:
    for title in (KINDS[-1].title, KINDS[-2].title):
        assert differences[title, "row_wise", 2].parameters > 10 * EXACT


def page(found: dict[tuple[str, str, int], Difference]) -> str:
    lines = [
        "# How exact sharded training is",
        "",
        "Written by a test, which fails where a figure exceeds its bound:",
        "`DAT_REC_WRITE_DOCS=1 make pytest PYTEST_FLAGS=tests/distributed/test_exactness.py`.",
        "",
        "Largest difference of the loss / of any parameter after three steps from one unsharded",
        "process on the same global batches: plain autograd on `nn.EmbeddingBag`, Adagrad written",
        "out, PyTorch's Adam. A small planted world; towers and losses in float64, tables, as",
        "FBGEMM has them, in float32: 1e-7 is the last bit of a weight. Every table is pinned to",
        "the type, columns cut in parts of four; 4 ranks stand on two hosts. The steps are a plain",
        "loop; runs through TorchRec's pipeline are compared in `tests/end_to_end`.",
        "",
        "In half precision the bounds are wide, for Adagrad's step is as long for a tiny gradient:",
        "a row that learned from little else may move by a whole step of 0.05 elsewhere.",
        "float16 tables round to nearest, on GPUs too: a step of less than half a unit in the",
        "last place is lost, and a resumed run has the same bits.",
        "",
        "Column-wise types match because the shards of a row share its RowWiseAdagrad sum",
        "(`dat_rec/sharding/rowwise_adagrad.py`); in TorchRec each has its own, which is another",
        "optimizer under every plan.",
    ]
    for kind in KINDS:
        head = " | ".join(f"{world} rank{'s' if world > 1 else ''}" for world in kind.worlds)
        lines += [
            "",
            f"## {kind.title}",
            "",
            f"Bound: loss {kind.loss:g}, parameters {kind.parameters:g}.",
            "",
            f"| sharding type | {head} |",
            "|---" * (1 + len(kind.worlds)) + "|",
        ]
        for sharding in dict.fromkeys(sharding for sharding, _ in cells(kind)):
            row = [found[kind.title, sharding, world] for world in kind.worlds]
            figures = " | ".join(f"{one.loss:.1e} / {one.parameters:.1e}" for one in row)
            lines.append(f"| {sharding} | {figures} |")
    return "\n".join(lines) + "\n"


def test_the_page_has_a_figure_within_its_bound_for_every_case() -> None:
    sections = re.split(r"^## ", Path(PAGE).read_text(), flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections] == [kind.title for kind in KINDS]
    for kind, section in zip(KINDS, sections, strict=True):
        rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", section, re.MULTILINE))
        for sharding in {sharding for sharding, _ in cells(kind)}:
            figures = [cell.split(" / ") for cell in rows[sharding].split(" | ")]
            assert len(figures) == len(kind.worlds)
            assert all(float(loss) <= kind.loss for loss, _ in figures)
            assert all(float(parameters) <= kind.parameters for _, parameters in figures)
