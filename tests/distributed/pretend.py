"""A pretend accelerator: what a training step would do on a GPU, as far as a CPU can tell.

Its tensors say that they are on the device ``pretend``, hold real numbers, and refuse to meet
tensors of the CPU, as a GPU's do. Every operation reaches PyTorch's kernels for the CPU through the
dispatcher, FBGEMM's and the collectives' too, so that results are those of the CPU. Streams, memory
and kernels of CUDA have no part in it.

It notes what a host would have to wait for (``WAITS``), and who asked for it.

Importing this renames PyTorch's spare backend, for the whole process.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
CROSSING = ("aten::copy_", "aten::_to_copy", "aten::_copy_from")
"""Operations that may have tensors of both devices."""
WAITING = {
    *("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero"),
    *("aten::masked_select", "aten::bincount", "aten::unique_consecutive", "aten::unique_dim"),
    *("aten::_unique", "aten::_unique2"),
}
"""Operations whose result, or its size, CUDA's host has to wait for."""


class Wait(NamedTuple):
    """What a GPU's host would wait for."""

    what: str
    """The operation."""
    whose: str
    """The innermost package on the stack but PyTorch: dat_rec, torchrec, …; or autograd."""
    where: str
    """File and line of its innermost frame."""


WAITS: list[Wait] = []
"""All that was waited for so far."""
_PINNED: dict[int, torch.UntypedStorage] = {}
"""Page-locked memory by its address; kept, so that no address means two things."""


class _Module:
    """What PyTorch asks of ``torch.pretend``."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def current_stream(self) -> None:
        """There are none."""

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        """There are no random numbers of its own."""

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, _Module())
DEVICE = torch.device(NAME, 0)


class PretendTensor(Tensor):
    """On the pretend accelerator; ``host`` holds its numbers."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "PretendTensor":
        made: PretendTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=DEVICE,
        )
        made.host = host
        return made

    # Python's part of PyTorch sees a tensor like any other.
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendTensor({self.host})"

    def tolist(self) -> Any:
        """PyTorch refuses it to subclasses."""
        _note_wait("tolist")
        return self.host.tolist()

    def as_subclass(self, cls: type[Tensor]) -> Tensor:  # type: ignore[override]
        """TorchRec makes parameters of a class of its own in this way."""
        both = type(
            f"Pretend{cls.__name__}", (PretendTensor, cls), {"__new__": PretendTensor.__new__}
        )
        made: Tensor = both.__new__(both, self.host)
        return made.requires_grad_(self.requires_grad)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


class Accelerator(TorchDispatchMode):
    """In its block ``device="pretend"`` makes tensors of the pretend accelerator.

    The default process group, though it be gloo's, takes no tensor of the CPU there, as NCCL does.
    """

    def __enter__(self) -> "Accelerator":
        self._object_device = distributed_c10d._get_object_coll_device
        distributed_c10d._get_object_coll_device = self._device_for_objects
        super().__enter__()
        return self

    def __exit__(self, *of_error: Any) -> None:
        distributed_c10d._get_object_coll_device = self._object_device
        super().__exit__(*of_error)

    def _device_for_objects(self, group: dist.ProcessGroup | None = None) -> Any:
        return DEVICE if group in (None, dist.GroupMember.WORLD) else self._object_device(group)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    name: str = func._schema.name  # type: ignore[attr-defined]
    if name == "aten::is_pinned" and isinstance(args[0], PretendTensor):
        return False
    if kwargs.pop("pin_memory", None):
        return _pin_memory(func(*args, **kwargs))
    device = kwargs.get("device")
    tensors = [t for t in _pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    pretended = [t for t in tensors if isinstance(t, PretendTensor)]
    if name.startswith("c10d::") and name != "c10d::barrier":
        _refuse_cpu_in_default_group(func, args, tensors)
    if not pretended and (device is None or device.type != NAME):
        return func(*args, **kwargs)
    if pretended and name not in CROSSING:
        _refuse_mixed(func, [t for t in tensors if not isinstance(t, PretendTensor)])
    if device is not None and device.type == NAME:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    _note(name, args, kwargs, device)
    host_args, host_kwargs = _pytree.tree_map_only(PretendTensor, lambda t: t.host, (args, kwargs))
    out = func(*host_args, **host_kwargs)
    if device is not None and device.type == "cpu":
        return out
    if name == "aten::copy_" and not isinstance(args[0], PretendTensor):
        return args[0]
    wrapped = _pytree.tree_map_only(Tensor, PretendTensor, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if pretended else wrapped


def _note(name: str, args: Any, kwargs: Any, to: torch.device | None) -> None:
    """Note it if CUDA's host would wait for this operation."""
    if name in ("aten::index", "aten::index_put", "aten::index_put_"):
        if any(t.dtype == torch.bool for t in args[1] if t is not None):
            _note_wait(name)
    elif name in WAITING or (
        name == "aten::repeat_interleave" and kwargs.get("output_size") is None
    ):
        _note_wait(name)
    elif name == "aten::_to_copy" and to is not None:
        if not isinstance(args[0], PretendTensor):
            _note_crossing(args[0], kwargs.get("non_blocking"))
        elif to.type == "cpu" and not kwargs.get("non_blocking"):
            _note_wait(name)
    elif name == "aten::copy_":
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking")
        host = [t for t in args[:2] if not isinstance(t, PretendTensor)]
        if host:
            _note_crossing(host[0], non_blocking)


def _note_crossing(host: Tensor, non_blocking: bool | None) -> None:
    if not non_blocking or host.untyped_storage().data_ptr() not in _PINNED:
        _note_wait("copy" if non_blocking else "copy that blocks")


def _note_wait(what: str) -> None:
    frame, whose, where = sys._getframe(1), "autograd", ""
    while frame is not None:
        package = frame.f_globals["__name__"].partition(".")[0]
        if package not in ("torch", "threading") and frame.f_globals["__name__"] != __name__:
            whose, where = package, f"{frame.f_code.co_filename}:{frame.f_lineno}"
            break
        frame = frame.f_back
    WAITS.append(Wait(what, whose, where))


def _refuse_cpu_in_default_group(func: Any, args: Any, tensors: Sequence[Tensor]) -> None:
    groups = [arg for arg in args if isinstance(arg, torch.ScriptObject)]
    names = [_group_name(group) for group in groups]
    if dist.GroupMember.WORLD.group_name in names:
        for tensor in tensors:
            if not isinstance(tensor, PretendTensor):
                raise RuntimeError(f"{func}: no backend for a tensor of {tensor.device}: NCCL")


def _group_name(group: torch.ScriptObject) -> str | None:
    try:
        return str(dist.ProcessGroup.unbox(group).group_name)
    except RuntimeError:  # what is reduced by, or another thing
        return None


def _refuse_mixed(func: Any, others: Sequence[Tensor]) -> None:
    # As on a GPU, a scalar of the CPU may stand in elementwise arithmetic.
    scalars = torch.Tag.pointwise in func.tags
    for other in others:
        if other.device.type != "meta" and not (scalars and other.dim() == 0):
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, but found at least two "
                f"devices, {DEVICE} and {other.device}: {tuple(other.shape)}"
            )


# PyTorch makes tensors of numbers (``torch.tensor``) where it asks neither mode nor subclass.
_LIBRARY = torch.library.Library("aten", "IMPL")


def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
    with torch._C._DisableTorchDispatch():
        return PretendTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    source_host, target_host = (
        tensor.host if isinstance(tensor, PretendTensor) else tensor for tensor in (source, target)
    )
    _note_crossing(source if source_host is source else target, non_blocking)
    target_host.copy_(source_host)
    return target


def _is_pinned(host: Tensor, device: torch.device | None = None) -> bool:
    return host.untyped_storage().data_ptr() in _PINNED


def _pin_memory(host: Tensor, device: torch.device | None = None) -> Tensor:
    pinned = host.clone(memory_format=torch.contiguous_format)
    _PINNED[pinned.untyped_storage().data_ptr()] = pinned.untyped_storage()
    return pinned


_LIBRARY.impl("is_pinned", _is_pinned, "CPU")
_LIBRARY.impl("_pin_memory", _pin_memory, "CPU")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


class _OnHost(torch.autograd.Function):
    """A computation on the CPU, and its gradient, as one operation of the pretend accelerator.

    One, for autograd's threads are those of devices: with a graph on both, ranks would send their
    messages in different orders.
    """

    @staticmethod
    def forward(ctx: Any, given: PretendTensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.given = given.host.detach().requires_grad_()
        with torch.enable_grad():
            ctx.made = compute(ctx.given)
        return PretendTensor(ctx.made.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        assert isinstance(gradient, PretendTensor)
        ctx.made.backward(gradient.host)
        return None if ctx.given.grad is None else PretendTensor(ctx.given.grad), None


def _of_host(tree: Any) -> Any:
    return _pytree.tree_map_only(
        PretendTensor, lambda t: t.host.detach().requires_grad_(t.requires_grad), tree
    )


def _permute(pooled: PretendTensor, *rest: Any) -> Tensor:
    """FBGEMM has the gradient of this on CPU and CUDA alone."""
    on_host, operation = _of_host(rest), torch.ops.fbgemm.permute_pooled_embs_auto_grad_split
    made: Tensor = _OnHost.apply(pooled, lambda given: operation(given, *on_host))  # type: ignore[no-untyped-call]
    return made


_FBGEMM = torch.library.Library("fbgemm", "IMPL")
_FBGEMM.impl("permute_pooled_embs_auto_grad_split", _permute, "AutogradPrivateUse1")


def _look_up(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """FBGEMM's kernel, whose C++ looks at addresses: it gets the tensors that hold the numbers."""
    given = [t for t in _pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not any(isinstance(t, PretendTensor) for t in given):
        return _kernel(self, *args, **kwargs)
    assert all(isinstance(t, PretendTensor) for t in given), "ids of two devices"
    twin = copy.copy(self)
    twin.__dict__ |= _of_host(self.__dict__)
    host_args, host_kwargs = _of_host((args, kwargs))
    # Its weights' gradient is in the update, and no business of autograd's.
    anchor = PretendTensor(torch.zeros(0)).requires_grad_()
    made: Tensor = _OnHost.apply(anchor, lambda _: _kernel(twin, *host_args, **host_kwargs))  # type: ignore[no-untyped-call]
    return made


_kernel = SplitTableBatchedEmbeddingBagsCodegen.forward
SplitTableBatchedEmbeddingBagsCodegen.forward = _look_up
