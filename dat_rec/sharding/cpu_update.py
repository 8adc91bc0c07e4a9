"""FBGEMM's update of float32 tables by RowWiseAdagrad on a CPU, by the quicker of its two ways.

A table that one feature looks up is updated by a kernel that FBGEMM assembles at run time, which
mixes SSE's instructions with AVX's: on Intel's processors each row then waits for the switch
between them, some 400 ns. A table that several features look up goes another way, which a compiler
made: 10 to 20 times as fast there (benchmarks/LOG.md,
findings/fbgemm_updates_a_table_of_one_feature_ten_times_slower.sh). So the update is told of a
second feature for each such table, whose bags are all empty.

Shapes: T features, P with the second ones, B bags of each.
"""

from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection

from dat_rec.sharding.table_shards import fbgemm_kernels


def update_by_compiled_code(model: nn.Module) -> None:
    """Let the float32 tables of a model's kernels on CPU be updated by compiled code.

    Args:
        model: sharded; kernels of GPUs and of other optimizers stay as they are.
    """
    for module in model.modules():
        if not isinstance(module, ShardedEmbeddingBagCollection):
            continue
        for kernel in fbgemm_kernels(module):
            lookup = kernel.emb_module
            if (
                isinstance(lookup, SplitTableBatchedEmbeddingBagsCodegen)
                and lookup.hash_size_cumsum.device.type == "cpu"
                and lookup.optimizer == EmbOptimType.EXACT_ROWWISE_ADAGRAD
                and lookup.weights_precision == SparseType.FP32
            ):
                lookup.register_forward_hook(_Hook(lookup), with_kwargs=True)


class _Hook:
    """Puts ``_Update`` in place of FBGEMM's own backward of a lookup."""

    def __init__(self, kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
        self._kernel = kernel
        rows, columns = kernel.hash_size_cumsum, kernel.D_offsets
        changes = rows.diff()[:-1] != 0
        edge = changes.new_ones(1)
        alone_T = torch.cat([edge, changes]) & torch.cat([changes, edge])
        self._feature_P = torch.arange(len(alone_T)).repeat_interleave(1 + alone_T.long())
        """Of which feature each of the P is."""
        self._second_P = self._feature_P.diff(prepend=self._feature_P.new_tensor([-1])) == 0
        # A second feature stands behind its table's columns, and has none.
        begin_P = columns[self._feature_P + self._second_P.long()]
        feature_P = self._feature_P
        self._of_features = {
            "D_offsets": torch.cat([begin_P, columns[-1:]]),
            "hash_size_cumsum": torch.cat([rows[feature_P], rows[-1:]]),
            "weights_placements": kernel.weights_placements[feature_P],
            "weights_offsets": kernel.weights_offsets[feature_P],
            "momentum1_placements": kernel.momentum1_placements[feature_P],
            "momentum1_offsets": kernel.momentum1_offsets[feature_P],
        }

    def __call__(
        self, _: nn.Module, arguments: tuple[()], named: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        if not output.requires_grad:
            return None
        assert not arguments, "TorchRec names them"
        assert named.get("per_sample_weights") is None, "features have no weights"
        updated: Tensor = _Update.apply(  # type: ignore[no-untyped-call]
            self._kernel.weights_host, output.detach(), self, named["indices"], named["offsets"]
        )
        return updated

    def update(self, gradient: Tensor, indices: Tensor, offsets: Tensor) -> None:
        """Update weights and accumulators.

        Args:
            gradient: (B, columns of all features).
            indices: int64 ids of all bags, feature after feature.
            offsets: (T · B + 1,) int64, where bags begin.
        """
        kernel = self._kernel
        torch.ops.fbgemm.split_embedding_backward_codegen_rowwise_adagrad_cpu(
            grad_output=gradient.contiguous(),
            host_weights=kernel.weights_host,
            max_D=kernel.max_D,
            total_hash_size_bits=kernel.total_hash_size_bits,
            indices=indices,
            offsets=self._with_empty_bags(offsets),
            pooling_mode=kernel.pooling_mode.value,
            indice_weights=None,
            stochastic_rounding=False,
            momentum1_host=kernel.momentum1_host,
            learning_rate_tensor=kernel.learning_rate_tensor,
            eps=kernel.optimizer_args.eps,
            **self._of_features,
        )

    def _with_empty_bags(self, offsets: Tensor) -> Tensor:
        """(P · B + 1,): the offsets, with those of the second features' empty bags."""
        bags = (len(offsets) - 1) // (int(self._feature_P[-1]) + 1)
        begin_TB = offsets[:-1].view(-1, bags)
        longer = offsets.new_empty(len(self._feature_P) * bags + 1)
        longer[-1] = offsets[-1]
        longer_PB = longer[:-1].view(-1, bags)
        torch.index_select(begin_TB, 0, self._feature_P, out=longer_PB)
        end_T1 = offsets[bags::bags, None]
        longer_PB[self._second_P] = end_T1[self._feature_P[self._second_P]]
        return longer


class _Update(torch.autograd.Function):
    """The identity of a lookup's output; its backward updates the tables."""

    @staticmethod
    def forward(
        ctx: Any, _: Tensor, output: Tensor, hook: _Hook, indices: Tensor, offsets: Tensor
    ) -> Tensor:
        ctx.hook = hook
        ctx.save_for_backward(indices, offsets)
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        ctx.hook.update(gradient, *ctx.saved_tensors)
        return None, None, None, None, None
