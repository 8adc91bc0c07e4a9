"""Words of a command line in, a command's options out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dat_rec.errors import UserError
from dat_rec.files import local_path

Arguments = Sequence[str]


def parse(command: str, options: Any, arguments: Arguments, **more: Any) -> Any:
    """Read a command's options; ``--help`` and bad words end the process, as tyro does.

    Args:
        command: its name.
        options: a dataclass.
        arguments: words behind the name.
        more: arguments of ``tyro.cli``.

    Raises:
        UserError: a path is the address of another storage.
    """
    import tyro
    from tyro.constructors import ConstructorRegistry

    registry = ConstructorRegistry()
    registry.primitive_rule(_path_rule)
    name = f"dat-rec {command}"
    return tyro.cli(options, prog=name, args=list(arguments), registry=registry, **more)


def _path_rule(info: Any) -> Any:
    """How tyro reads each option that is a path: addresses such as s3://… are refused."""
    from tyro.constructors import PrimitiveConstructorSpec

    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: local_path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def refuse_repeated(arguments: Arguments) -> None:
    """Refuse a list of rules that is begun twice: tyro would forget the first, silently.

    Raises:
        UserError: names the option.
    """
    options = [word.partition("=")[0].replace("_", "-") for word in arguments]
    for option in ("--pin", "--model.fp16-tables", "--fp16-tables"):
        if options.count(option) > 1:
            raise UserError(f"{option} is given twice: give all its values behind one {option}")
