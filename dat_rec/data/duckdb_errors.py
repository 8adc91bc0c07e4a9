"""An error of DuckDB or of the disk in, one line out that says what, where and the cure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from dat_rec.errors import UserError


@contextmanager
def errors_in_one_line(inputs: tuple[Path, ...], out: Path, memory_limit: str) -> Iterator[None]:
    """Turn what a user can mend (disk, rights, memory, a damaged file) into one line.

    Args:
        inputs: the files and folders that are read.
        out: the dataset's folder.
        memory_limit: maximum memory of DuckDB, as the user gave it.

    Raises:
        UserError: in place of an error of DuckDB, or of the disk.
        KeyboardInterrupt: in place of DuckDB's own words for Ctrl-C.
    """
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except RuntimeError as error:
        # As DuckDB says it where Ctrl-C comes while a statement runs.
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from error
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"--memory-limit {memory_limit} is too little ({_first_line(error)}): raise it"
        ) from error
    except duckdb.Error as error:
        raise UserError(
            _csv_error(str(error))
            or (isinstance(error, duckdb.InvalidInputException) and _mixed_ends(inputs))
            or f"{_first_line(error)}: check the input files, and the room at {out.parent}"
        ) from error
    except OSError as error:
        where = error.filename or out
        raise UserError(
            f"{where}: {error.strerror or error}: free the disk, or choose another --out"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _csv_error(text: str) -> str:
    """File, line and reason, which DuckDB spreads over its lines; nothing for other errors."""
    files = re.findall(r"^  file = (.+)$", text, re.MULTILINE)
    number = re.search(r"CSV Error on Line: (\d+)", text)
    if not (files and number):
        return ""
    # The line itself, which may be anything, then the reason, then what a programmer could do.
    reason = text.split("\nPossible ")[0].rstrip().splitlines()[-1].rstrip(".")
    return f"{files[-1]}: line {number[1]}: {reason}: correct or remove the line"


def _mixed_ends(inputs: tuple[Path, ...]) -> str:
    """Name a text file whose lines end in CR LF and in LF, which DuckDB cannot read or name."""
    for path in inputs:
        for file in sorted(path.glob("*")) if path.is_dir() else [path]:
            if file.suffix not in (".csv", ".dat") or not file.is_file():
                continue
            with file.open("rb") as lines:
                first = next(lines, b"").endswith(b"\r\n")
                ends = ("CR LF", "LF") if first else ("LF", "CR LF")
                for number, line in enumerate(lines, 2):
                    if line.endswith(b"\n") and line.endswith(b"\r\n") != first:
                        return (
                            f"{file}: line 1 ends in {ends[0]}, line {number} in {ends[1]}: "
                            "convert the line ends, e.g. by dos2unix"
                        )
    return ""
