"""Words of a command line in, a command's options out."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from dat_rec.errors import UserError
from dat_rec.files import local_path
from dat_rec.storage.address import Address, location

Arguments = Sequence[str]


def parse(
    command: str,
    options: Any,
    arguments: Arguments,
    *,
    read: Callable[[str], Path] = local_path,
    **more: Any,
) -> Any:
    """Read a command's options; ``--help`` and bad words end the process, as tyro does.

    Args:
        command: its name.
        options: a dataclass.
        arguments: words behind the name.
        read: makes the path of an option that is one of a user's text.
        more: arguments of ``tyro.cli``.

    Raises:
        UserError: the address of a store stands where a local path must, or is malformed.
    """
    import tyro

    name = f"dat-rec {command}"
    return tyro.cli(options, prog=name, args=list(arguments), registry=path_rules(read), **more)


def path_rules(read: Callable[[str], Path] = local_path) -> Any:
    """How tyro reads options that are paths, which refuse addresses, or locations.

    Args:
        read: makes a path of a user's text.
    """
    from tyro.constructors import ConstructorRegistry

    registry = ConstructorRegistry()
    registry.primitive_rule(partial(_path_rule, read))
    return registry


def _path_rule(read_path: Callable[[str], Path], info: Any) -> Any:
    """The rule for an option of one type."""
    from tyro.constructors import PrimitiveConstructorSpec

    members = set(_members(info.type))
    if not {Path} <= members <= {Path, Address, NoneType}:
        return None
    read = location if Address in members else read_path
    far = read is not local_path
    may_lack = NoneType in members
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{'{None}|' if may_lack else ''}PATH{'|ADDRESS' if far else ''}",
        instance_from_str=lambda words: None if may_lack and words[0] == "None" else read(words[0]),
        is_instance=lambda value: isinstance(value, tuple(members)),
        str_from_instance=lambda value: [str(value)],
    )


def _members(kind: Any) -> Iterator[Any]:
    """The types that a union is made of, itself where it is none; without annotations."""
    if get_origin(kind) is Annotated:
        yield from _members(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            yield from _members(one)
    else:
        yield kind


RULES = ("--pin", "--model.fp16-tables", "--fp16-tables", "--log-to")
"""Options that are lists, which a second time would begin anew."""


def refuse_repeated(arguments: Arguments, options: Sequence[str] = RULES) -> None:
    """Refuse a list that is begun twice: tyro would forget the first, silently.

    Args:
        arguments: words behind the command's name.
        options: those that take several values.

    Raises:
        UserError: names the option.
    """
    given = [word.partition("=")[0].replace("_", "-") for word in arguments]
    for option in options:
        if given.count(option) > 1:
            raise UserError(f"{option} is given twice: give all its values behind one {option}")
