"""Name a sharded model's and its optimizer's tensors so that no sharding plan changes them.

    tables/dat.embeddings.item/weight        (N, D)
    tables/dat.embeddings.item/accumulator   (N,) RowWiseAdagrad, (N, D) Adagrad
    towers/dat.query_tower.layers.0.weight
    adam/dat.query_tower.layers.0.weight/exp_avg, exp_avg_sq, step
    queue/vectors, index, offset, sizes         with --loss.queue

TorchRec's state dicts name and shape the same tensors by the sharding type. From these names, any
plan at any world size reads its own shards.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from dat_rec.checkpoint.read_tensors import TensorFiles
from dat_rec.checkpoint.write_tensors import Block, row_chunks
from dat_rec.errors import UserError
from dat_rec.model.losses import CandidateQueue
from dat_rec.model.towers import GIVEN
from dat_rec.sharding.table_shards import TableShard, is_table, plain_name, table_shards

ADAM = ("exp_avg", "exp_avg_sq", "step")


def blocks_of(model: nn.Module, optimizer: CombinedOptimizer, copies: int = 1) -> list[Block]:
    """Return what this rank has to write, so that all ranks together write everything once.

    Args:
        model: sharded.
        optimizer: of ``build_optimizer``.
        copies: number of copies of the tables (2D parallelism); the ranks of the first copy write.
    """
    rank = dist.get_rank()
    blocks = []
    for shard in table_shards(model, optimizer):
        if rank == 0 if shard.replicated else rank % copies == 0:
            blocks += _shard_blocks(shard)
    if rank == 0:
        blocks += [
            Block(name, tensor.detach(), (0,) * tensor.dim(), tuple(tensor.shape))
            for name, tensor in (_towers(model, optimizer) | _queued(model)).items()
        ]
    return blocks


def _shard_blocks(shard: TableShard) -> list[Block]:
    name, offsets, sums = f"tables/{shard.table}", (shard.row, shard.column), shard.accumulator
    blocks = [Block(f"{name}/weight", shard.weights, offsets, shard.shape)]
    # If there is one sum for each row, all column shards hold the same.
    if sums is not None and (sums.dim() == 2 or shard.column == 0):
        dims = sums.dim()
        blocks.append(Block(f"{name}/accumulator", sums, offsets[:dims], shard.shape[:dims]))
    return blocks


def _towers(model: nn.Module, optimizer: CombinedOptimizer) -> dict[str, Tensor]:
    """Return the towers' parameters and Adam's state of them, the same on every rank."""
    found: dict[str, Tensor] = {
        f"towers/{plain_name(name)}": parameter
        for name, parameter in model.named_parameters()
        if not is_table(name)
    }
    tower_optimizer = _tower_optimizer(optimizer)
    for name, parameter in tower_optimizer.params.items():
        state = tower_optimizer.state.get(parameter, {})
        found |= {f"adam/{plain_name(name)}/{key}": state[key] for key in ADAM if key in state}
    return found


def _queue(model: nn.Module) -> CandidateQueue | None:
    return next((one for one in model.modules() if isinstance(one, CandidateQueue)), None)


def _queued(model: nn.Module) -> dict[str, Tensor]:
    """Return the candidates of earlier batches, the same on every rank."""
    queue = _queue(model)
    kept = {} if queue is None else queue.state()
    return {f"queue/{name}": tensor for name, tensor in kept.items()}


def _tower_optimizer(optimizer: CombinedOptimizer) -> KeyedOptimizerWrapper:
    return next(part for name, part in optimizer.optimizers if name == "towers")


def copied(blocks: list[Block]) -> list[Block]:
    """Return copies of the blocks in the host's memory.

    Those of an accelerator are copied into page-locked memory, one after the other without a wait,
    and waited for together.
    """

    def copy(tensor: Tensor) -> Tensor:
        far = tensor.device.type != "cpu"
        room = torch.empty_like(tensor, device="cpu", requires_grad=False, pin_memory=far)
        return room.copy_(tensor, non_blocking=far)

    copies = [Block(b.name, copy(b.tensor), b.offsets, b.shape) for b in blocks]
    for device in {b.tensor.device for b in blocks if b.tensor.device.type == "cuda"}:
        torch.cuda.current_stream(device).synchronize()
    return copies


@torch.no_grad()
def load_into(files: TensorFiles, model: nn.Module, optimizer: CombinedOptimizer) -> None:
    """Fill model and optimizer, sharded by any plan, from tensors that any other plan has written.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    for shard in table_shards(model, optimizer):
        name = f"tables/{shard.table}"
        offsets = (shard.row, shard.column)
        files.read_into(f"{name}/weight", shard.weights, offsets, shard.shape)
        if (sums := shard.accumulator) is not None:
            dims = sums.dim()
            files.read_into(f"{name}/accumulator", sums, offsets[:dims], shard.shape[:dims])
    load_towers(files, model)
    tower_optimizer = _tower_optimizer(optimizer)
    for name, parameter in tower_optimizer.params.items():
        for key in ADAM:
            # Adam makes its state in its first step, so that there may be none to fill.
            shape = () if key == "step" else parameter.shape
            saved = files.read(f"adam/{plain_name(name)}/{key}", shape)
            device = torch.device("cpu") if key == "step" else parameter.device
            tower_optimizer.state[parameter][key] = saved.to(device)
    if (queue := _queue(model)) is not None:
        names = ("vectors", "index", "offset", "sizes")
        kept = {name: files.read(f"queue/{name}", files.kind(f"queue/{name}")[1]) for name in names}
        queue.load_state(kept, next(iter(tower_optimizer.params.values())).device)


@torch.no_grad()
def load_towers(files: TensorFiles, model: nn.Module, may_lack: str | None = None) -> None:
    """Fill the parameters that are no tables.

    Args:
        files: of the checkpoint.
        model: sharded or not.
        may_lack: beginning of the names of parameters that stay as they are if the checkpoint has
            none of them. None: all must be there.

    Raises:
        UserError: the checkpoint holds another kind of towers, or a parameter is missing or has
            another shape.
    """
    ours = {
        f"towers/{plain_name(name)}" for name, _ in model.named_parameters() if not is_table(name)
    }
    theirs = {name for name in files.names() if name.startswith("towers/")}
    if any(f".{GIVEN}." in name for name in ours ^ theirs):
        raise UserError("it was trained with another tower: give the same one as `tower`")
    for name, parameter in model.named_parameters():
        if not is_table(name):
            plain = plain_name(name)
            if may_lack and plain.startswith(may_lack) and f"towers/{plain}" not in theirs:
                continue
            shape = tuple(parameter.shape)
            zero = (0,) * len(shape)
            files.read_into(f"towers/{plain}", parameter.data, zero, shape)


def check_finite(blocks: list[Block]) -> None:
    """Keep a diverged model from replacing a good checkpoint.

    Raises:
        UserError: a number is not finite; the message names its tensor.
    """
    for block in blocks:
        if not all(part.isfinite().all() for part in row_chunks(block.tensor)):
            raise UserError(
                f"{block.name} is not finite: lower the learning rates in a new --out; the older "
                "checkpoints are whole"
            )
