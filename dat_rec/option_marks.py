"""Marks that a configuration's fields carry in their annotations, and what follows from them.

The options themselves are declared in ``config.py``.

As in ``keep_best: Annotated[int, Ge(0), MAY_CHANGE] = 0``. pydantic reads the bounds
(``files.checked``) and passes over the marks.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from dat_rec.errors import UserError
from dat_rec.files import checked

MAY_CHANGE = "may change on --resume"
"""Mark of an option that does not decide a run's numbers, but for rounding."""


@dataclass(frozen=True)
class Absent:
    """Mark of an option that the previous release did not have."""

    value: Any
    """The value that its runs had: what a config.json without the option stands for."""


@dataclass(frozen=True)
class Void:
    """Mark of an option that does nothing beside another one, and is refused there."""

    beside: str
    """The other option, in words."""
    holds: Callable[[Any], bool]
    """Whether a configuration has the other option."""


def marks_of(kind: type, prefix: str = "") -> dict[str, tuple[object, ...]]:
    """Bounds and marks of every option by its dotted name, as in ``model.hidden``."""
    found: dict[str, tuple[object, ...]] = {}
    for one in dataclasses.fields(kind):
        if group := _group(one):
            found |= marks_of(group, f"{prefix}{one.name}.")
        else:
            found[prefix + one.name] = getattr(one.type, "__metadata__", ())
    return found


def _group(field: "dataclasses.Field[Any]") -> type | None:
    """The dataclass of a field that is a group of options; None for an option."""
    kind = field.type
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def path_options(kind: type) -> frozenset[str]:
    """The options of a configuration that are paths, as the command line calls them."""
    types = get_type_hints(kind).items()
    return frozenset(option(name) for name, of in types if Path in (of, *get_args(of)))


def option(name: str) -> str:
    """How the command line calls a field, as in ``--model.hidden`` for ``model.hidden[1]``."""
    return f"--{name.partition('[')[0].replace('_', '-')}"


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as JSON values: tuples as lists, paths absolute."""
    text = json.dumps(dataclasses.asdict(config), default=lambda path: str(path.resolve()))
    value: dict[str, Any] = json.loads(text)
    return value


def check_bounds(config: Any) -> None:
    """Compare every option with its type and bounds.

    Raises:
        UserError: names the option, its value and the bound.
    """
    value = to_json(config)
    for name, one in flatten(value).items():
        for text in one if isinstance(one, list) else [one]:
            # As Python has names of files that are not UTF-8; a run's config.json could not.
            if isinstance(text, str) and not _is_utf8(text):
                raise UserError(f"{option(name)} is {text!r}: it must be UTF-8: rename it")
    checked(type(config), value, name=option)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration's JSON values by the dotted names of their options."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat |= flatten(inner, f"{prefix}{name}.")
        else:
            flat[prefix + name] = inner
    return flat


def refuse_void(
    config: Any,
    values: Mapping[str, Any],
    usual: Mapping[str, Any],
    by_data: Mapping[str, Collection[Any]] = MappingProxyType({}),
) -> None:
    """Refuse an option that was set, and that another one makes void.

    Args:
        config: a configuration.
        values: its values by dotted name.
        usual: those that it would have, had nobody set them.
        by_data: other values that options may have then.

    Raises:
        UserError: names the option, its value, and the other option.
    """
    for name, marks in marks_of(type(config)).items():
        value = values[name]
        # A weight or number of 0 asks for nothing.
        unset = value == usual[name] or value in by_data.get(name, ())
        if unset or (value == 0 and value is not False):
            continue
        for mark in marks:
            if isinstance(mark, Void) and mark.holds(config):
                raise UserError(
                    f"{option(name)} is {value}, and does nothing {mark.beside}: leave it out"
                )


def complete(kind: type, value: Any, where: str, cure: str, prefix: str = "") -> Any:
    """Fill in the options that the previous release did not have, and no other: defaults change.

    Args:
        kind: the configuration's dataclass.
        value: its JSON value.
        where: its file, for the message.
        cure: of a field that is missing.
        prefix: of the names of a group's options.

    Raises:
        UserError: another field is missing.
    """
    if not isinstance(value, dict):
        return value
    full = dict(value)
    for one in dataclasses.fields(kind):
        name = prefix + one.name
        if one.name not in full:
            marks = getattr(one.type, "__metadata__", ())
            absent = next((mark for mark in marks if isinstance(mark, Absent)), None)
            if absent is None:
                raise UserError(f"{where}: {name} is missing: {cure}")
            full[one.name] = absent.value
        elif group := _group(one):
            full[one.name] = complete(group, full[one.name], where, cure, f"{name}.")
    return full
