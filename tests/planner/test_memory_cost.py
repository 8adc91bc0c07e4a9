"""A part's memory, by hand: weights, optimizer state, and a step's inputs and outputs."""

from typing import Any

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from dat_rec.planner.hardware import Cluster, Hardware
from dat_rec.planner.plan_request import PlanResult, find_plan, towers_bytes
from dat_rec.planner.table_file import Table
from tests.planner.described import request

ROWS, DIM, FACTOR, BATCH, WORLD = 1_000_000, 64, 3.0, 128, 4
WEIGHTS = ROWS * DIM * 4
STATE = ROWS * 4
# Ids are int64; every example of every rank asks for three rows, and gets one pooled vector.
IDS, VECTORS = BATCH * 3 * WORLD * 8, BATCH * WORLD * DIM * 4


def asked(kind: str, device: str = "cuda", **changed: Any) -> PlanResult:
    table = Table("one", ROWS, DIM, FACTOR, fp16=changed.pop("fp16", False))
    return find_plan(
        request(
            [table],
            Cluster(Hardware("here", device, 16, 64), 1, WORLD),
            batch_size=BATCH,
            pins=(f"one={kind}",),
            **changed,
        )
    )


def device_bytes(result: PlanResult) -> list[int]:
    return list(result.main_bytes().values())


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_whole_table_lies_on_one_rank_which_serves_all(device: str) -> None:
    sizes = device_bytes(asked("table_wise", device))
    assert sorted(sizes) == [0, 0, 0, WEIGHTS + STATE + IDS + VECTORS]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_rows_are_cut_in_quarters_and_each_rank_pools_its_part_for_all(device: str) -> None:
    # A quarter of the ids, and partial sums for every example of every rank.
    each = WEIGHTS // 4 + STATE // 4 + IDS // 4 + VECTORS
    assert device_bytes(asked("row_wise", device)) == [each] * 4


def test_columns_are_cut_in_halves_each_with_a_sum_for_every_row() -> None:
    each = WEIGHTS // 2 + STATE + IDS + VECTORS // 2
    assert sorted(device_bytes(asked("column_wise"))) == [0, 0, each, each]


def test_a_table_on_every_rank_has_a_gradient_of_its_size() -> None:
    each = 2 * WEIGHTS + STATE + (IDS + VECTORS) // WORLD
    assert device_bytes(asked("data_parallel")) == [each] * 4


def test_float16_halves_the_weights_and_not_the_sums() -> None:
    result = asked("table_wise", fp16=True)
    assert max(device_bytes(result)) == WEIGHTS // 2 + STATE + IDS + VECTORS // 2
    assert result.estimate is not None
    (one,) = result.estimate.ranks.values()
    assert (one.weights_bytes, one.state_bytes) == (WEIGHTS // 2, STATE)


def test_adagrad_has_a_float32_sum_for_each_weight_of_either_type() -> None:
    for fp16, weights in ((False, WEIGHTS), (True, WEIGHTS // 2)):
        result = asked("row_wise", fp16=fp16, optimizer="adagrad")
        assert result.estimate is not None
        for one in result.estimate.ranks.values():
            assert (one.weights_bytes, one.state_bytes) == (weights // 4, WEIGHTS // 4)
        ids, vectors = IDS // 4, VECTORS // (2 if fp16 else 1)
        assert device_bytes(result) == [weights // 4 + WEIGHTS // 4 + ids + vectors] * 4


def test_a_cache_holds_its_share_of_rows_and_the_host_all() -> None:
    result = asked("table_wise,fused_uvm_caching,cache_load_factor:0.25")
    assert result.estimate is not None
    (one,) = result.estimate.ranks.values()
    assert one.host_bytes == WEIGHTS + STATE
    # FBGEMM's books of the cache: 4 bytes for each row, 16 for each that is in it.
    books = 4 * ROWS + 16 * ROWS // 4
    assert one.device_bytes == (WEIGHTS + STATE) // 4 + books + IDS + VECTORS


@pytest.mark.parametrize(
    ("kind", "per_row"), [(EmbOptimType.EXACT_ROWWISE_ADAGRAD, 1), (EmbOptimType.EXACT_ADAGRAD, 16)]
)
def test_fbgemm_keeps_the_sums_of_float16_weights_in_float32(
    kind: EmbOptimType, per_row: int
) -> None:
    """What TorchRec's estimate leaves out, seen in the kernel itself."""
    lookup = SplitTableBatchedEmbeddingBagsCodegen(
        [(100, 16, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=kind,
        weights_precision=SparseType.FP16,
    )
    ((state,),) = lookup.split_optimizer_states()
    assert state.dtype == torch.float32
    assert state.numel() == 100 * per_row


def test_towers_are_told_beside_the_tables() -> None:
    tables = request([Table("one", 100, 16)], Cluster(Hardware("here", "cpu", 1, 4), 1, 1)).model(
        ()
    )
    both = torch.nn.ModuleDict({"tables": tables, "tower": torch.nn.Linear(10, 5)})
    # 55 numbers of 4 bytes: weight, gradient, Adam's two moments.
    assert towers_bytes(both) == 55 * 4 * 4
