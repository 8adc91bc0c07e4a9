"""A torch.export program as its file tells it in, its output out: operator by operator.

``torch.export.load`` imports PyTorch's compiler, which takes seconds. To be run, a program needs
none of it: its file lists the operators with their arguments, and PyTorch has the operators. They
are called here as the loaded program would call them, so that the output has the same bits. What
this file does not know raises ``UnknownProgramError``: such a program is for ``torch.export.load``.

The file's format is that of ``torch/_export/serde/schema.py``.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SCHEMA = 8
"""Major version of the format that is known here."""
OPERATORS = "torch.ops.aten."
AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"
CHECK = "torch.ops.aten._assert_tensor_metadata.default"
"""Compares what a tensor is with what it was when the program was made; computes nothing."""
FILES = {"from_file", "save"}
"""Operators that reach for files, which no tower does."""
DTYPES = {
    2: torch.int8,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
STRIDED = 7
"""The layout of tensors that are not sparse."""
PLAIN = {"as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string"}
"""Kinds of arguments that stand in the file as they are."""
POSITIONAL = 1
SUMS = (False, 0, False, None, True, None)
"""What stands behind the table, values and offsets of a bag that is a plain sum."""


def embedding_bag(weight: Tensor, values: Tensor, offsets: Tensor, *how: Any) -> tuple[Any, ...]:
    """torch.embedding_bag; where there is one bag of one value, its row is taken as it is."""
    if how == SUMS and values.shape[0] == 1 and offsets.shape[0] == 2:
        return torch.embedding(weight, values), None, None, None
    found: tuple[Any, ...] = torch.embedding_bag(weight, values, offsets, *how)
    return found


QUICK: dict[str, Callable[..., Any]] = {
    "arange.default": torch.arange,
    "cat.default": torch.cat,
    "clamp.default": torch.clamp,
    "clamp_min.default": torch.clamp_min,
    "diff.default": torch.diff,
    "div.Tensor": torch.div,
    "embedding.default": torch.embedding,
    "embedding_bag.padding_idx": embedding_bag,
    "expand_as.default": torch.Tensor.expand_as,
    "linalg_vector_norm.default": torch.linalg.vector_norm,
    "linear.default": torch.nn.functional.linear,
    "mul.Tensor": torch.mul,
    "pad.default": torch.nn.functional.pad,
    "relu_.default": torch.relu_,
    "sym_size.int": torch.Tensor.size,
    "to.dtype": torch.Tensor.to,
    "unsqueeze.default": torch.unsqueeze,
}
"""Operators that towers have, as PyTorch's own Python functions: they take the same arguments, and
need half the time to read them."""

Json = Mapping[str, Any]
Values = dict[str, Any]


class UnknownProgramError(Exception):
    """The program has something that is not known here; the message says what."""


class Program:
    """A program that takes dictionaries of tensors and gives one tensor.

    Args:
        model: the file's JSON of the program.
        weights: its parameters and buffers, by name.

    Raises:
        UnknownProgramError: it has something that is not known here.
    """

    def __init__(self, model: bytes, weights: Mapping[str, Tensor]) -> None:
        try:
            found = json.loads(model)
            if found["schema_version"]["major"] != SCHEMA:
                raise UnknownProgramError(f"schema version {found['schema_version']}")
            module = found["graph_module"]
            self._weights, self._inputs = _inputs(module["signature"], weights)
            self._keys = _keys(module["module_call_graph"][0]["signature"])
            if sum(map(len, self._keys)) != len(self._inputs):
                raise UnknownProgramError("inputs that are not the dictionaries' tensors")
            self._steps = _read_graph(module["graph"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UnknownProgramError(f"{type(error).__name__}: {error}") from error

    def __call__(self, *inputs: Mapping[str, Tensor]) -> Tensor:
        """Run it. Each dictionary has the keys that its example had when the program was made."""
        flat = [given[key] for given, keys in zip(inputs, self._keys, strict=True) for key in keys]
        values = {**self._weights, **dict(zip(self._inputs, flat, strict=True))}
        (output,) = _run(self._steps, values)
        result: Tensor = output
        return result


def tensor_of(meta: Json, content: bytes) -> Tensor:
    """A weight of the file.

    Args:
        meta: its dtype, sizes and strides, as the file tells them.
        content: its numbers.

    Raises:
        UnknownProgramError: it is no plain tensor.
    """
    tensor_meta = meta["tensor_meta"]
    sizes = [size["as_int"] for size in tensor_meta["sizes"]]
    strides = [stride["as_int"] for stride in tensor_meta["strides"]]
    dense = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
    if meta["use_pickle"] or strides != dense or tensor_meta["storage_offset"]["as_int"]:
        raise UnknownProgramError("a weight that is not one block of numbers")
    dtype = _dtype(tensor_meta["dtype"])
    if not content:
        return torch.empty(sizes, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).view(sizes)


def _inputs(signature: Json, weights: Mapping[str, Tensor]) -> tuple[Values, list[str]]:
    """What the graph calls its weights, and its inputs in their order."""
    called: Values = {}
    inputs = []
    for spec in signature["input_specs"]:
        ((kind, value),) = spec.items()
        if kind in ("parameter", "buffer"):
            called[value["arg"]["name"]] = weights[value[f"{kind}_name"]]
        elif kind == "user_input":
            inputs.append(value["arg"]["as_tensor"]["name"])
        else:
            raise UnknownProgramError(f"input {kind}")
    if [list(spec) for spec in signature["output_specs"]] != [["user_output"]]:
        raise UnknownProgramError("outputs other than one tensor")
    return called, inputs


def _keys(signature: Json) -> list[list[str]]:
    """The keys of each dictionary that the program takes."""
    positional, named = json.loads(signature["in_spec"])[1]["children_spec"]
    kinds = {spec["type"] for spec in positional["children_spec"]}
    if kinds != {"builtins.dict"} or named["children_spec"]:
        raise UnknownProgramError("inputs other than dictionaries")
    return [json.loads(spec["context"]) for spec in positional["children_spec"]]


class Name(str):
    """An argument that is a value of the graph: what it is called."""


class Many(list[Any]):
    """An argument that is a list, of which some are ``Name``."""


class Step(NamedTuple):
    """A node of the graph, read once; run many times."""

    operator: Callable[..., Any] | None
    """None: steps within autocast."""
    positional: list[Any]
    values: list[tuple[int, Name]]
    """Places in ``positional`` of values of the graph, and what these are called."""
    lists: list[tuple[int, Many]]
    """The same of lists of them."""
    named: dict[str, Any]
    results: list[str]
    inner: "Steps | None" = None


class Steps(NamedTuple):
    """A graph's nodes in their order."""

    inputs: list[str]
    steps: list[Step]
    outputs: list[str]


def _read_graph(graph: Json) -> Steps:
    """Read a graph; what is not known is found out here, before it is run."""
    steps = [_read_node(node) for node in graph["nodes"] if node["target"] != CHECK]
    return Steps(_names(graph["inputs"]), steps, _names(graph["outputs"]))


def _read_node(node: Json) -> Step:
    target, inner = node["target"], None
    operator = None if target == AUTOCAST else _operator(target)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for one in node["inputs"]:
        ((kind, value),) = one["arg"].items()
        if kind == "as_graph" and operator is None:
            inner = _read_graph(value["graph"])
            continue
        if kind not in PLAIN | _READERS.keys():
            raise UnknownProgramError(f"{target}: argument {kind}")
        found = value if kind in PLAIN else _READERS[kind](value)
        if one["kind"] == POSITIONAL:
            positional.append(found)
        else:
            named[one["name"]] = found
    if operator is None and (inner is None or named):
        raise UnknownProgramError(f"{target}: other arguments than autocast's")
    values = [(place, one) for place, one in enumerate(positional) if type(one) is Name]
    lists = [(place, one) for place, one in enumerate(positional) if type(one) is Many]
    return Step(operator, positional, values, lists, named, _names(node["outputs"]), inner)


def _run(steps: Steps, values: Values) -> list[Any]:
    """Run steps in their order; return the outputs.

    Args:
        steps: of a graph.
        values: what its inputs are, by name; results are added.
    """
    for operator, positional, own, lists, named, results, inner in steps.steps:
        arguments = positional.copy()
        for place, name in own:
            arguments[place] = values[name]
        for place, many in lists:
            arguments[place] = _value(many, values)
        if operator is None:
            assert inner is not None
            found: Any = _run_autocast(inner, *arguments)
        elif named:
            more = {name: _value(one, values) for name, one in named.items()}
            found = operator(*arguments, **more)
        else:
            found = operator(*arguments)
        if isinstance(found, (tuple, list)):
            values.update(zip(results, found, strict=True))
        else:
            (result,) = results
            values[result] = found
    return [values[name] for name in steps.outputs]


def _run_autocast(
    steps: Steps, device: str, dtype: torch.dtype, enabled: bool, cached: bool, *operands: Any
) -> list[Any]:
    """Run steps within autocast; where it is neither on nor to be, it need not be entered."""
    inputs = dict(zip(steps.inputs, operands, strict=True))
    if not enabled and not torch.is_autocast_enabled(device):
        return _run(steps, inputs)
    with torch.autocast(device, dtype, enabled, cached):
        return _run(steps, inputs)


def _value(argument: Any, values: Values) -> Any:
    if type(argument) is Name:
        return values[argument]
    if type(argument) is Many:
        return [_value(one, values) for one in argument]
    return argument


def _names(outputs: Sequence[Json]) -> list[str]:
    """What the results are called."""
    names: list[str] = []
    for output in outputs:
        ((kind, value),) = output.items()
        if kind == "as_tensor":
            names.append(value["name"])
        elif kind == "as_tensors":
            names += [one["name"] for one in value]
        elif kind == "as_sym_int" and "as_name" in value:
            names.append(value["as_name"])
        else:
            raise UnknownProgramError(f"result {kind}")
    return names


def _operator(target: str) -> Callable[..., Any]:
    """The operator that ``torch.ops.aten.NAME.OVERLOAD`` names."""
    parts = target.removeprefix(OPERATORS).split(".")
    if not target.startswith(OPERATORS) or len(parts) != 2 or parts[0] in FILES:
        raise UnknownProgramError(target)
    if (quick := QUICK.get(".".join(parts))) is not None:
        return quick
    try:
        found: Callable[..., Any] = getattr(getattr(torch.ops.aten, parts[0]), parts[1])
    except AttributeError as error:
        raise UnknownProgramError(target) from error
    return found


def _dtype(number: int) -> torch.dtype:
    if number not in DTYPES:
        raise UnknownProgramError(f"dtype {number}")
    return DTYPES[number]


def _layout(number: int) -> torch.layout:
    if number != STRIDED:
        raise UnknownProgramError(f"layout {number}")
    return torch.strided


def _sym_int(value: Json) -> Any:
    return value["as_int"] if "as_int" in value else Name(value["as_name"])


_READERS: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda _value: None,
    "as_tensor": lambda value: Name(value["name"]),
    "as_tensors": lambda value: Many(Name(one["name"]) for one in value),
    "as_sym_int": _sym_int,
    "as_sym_ints": lambda value: Many(map(_sym_int, value)),
    "as_scalar_type": _dtype,
    "as_device": lambda value: torch.device(value["type"]),
    "as_layout": _layout,
}
"""How an argument of each other kind is read."""
