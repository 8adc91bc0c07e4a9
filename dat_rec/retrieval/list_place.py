"""Where lists are written: a Parquet file, or on several ranks a folder with one of each."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.errors import UserError
from dat_rec.retrieval.ranks import folder_of_all_ranks
from dat_rec.storage.address import Location, holds
from dat_rec.storage.publish import whole_file, whole_folder
from dat_rec.storage.read import exists, is_folder

PART = "part-{:05}.parquet"
"""Name of a rank's file, where there are several ranks."""


def check_place(
    out: Location, inputs: Sequence[Location], *, overwrite: bool, option: str = "--out"
) -> None:
    """Refuse a place where nothing may be written.

    Args:
        out: where a file shall stand; on several ranks, a folder.
        inputs: what is read, and not to be written to.
        overwrite: whether to replace what is there.
        option: that names ``out``.

    Raises:
        UserError: it is taken, or of another kind.
    """
    of_ranks, there, folder = rank_and_ranks()[1] > 1, exists(out), is_folder(out)
    if there and not overwrite:
        raise UserError(f"{out} is already there: name another file, or pass --overwrite")
    mixed = any(holds(one, out) or holds(out, one) for one in inputs)
    if (folder and not of_ranks) or mixed:
        raise UserError(f"{option} {out}: a folder, or part of the input: name another file")
    if there and not folder and of_ranks:
        raise UserError(
            f"{option} {out}: a file, and several ranks write a folder: name another one"
        )


@contextmanager
def writing(out: Location, option: str = "--out") -> Iterator[None]:
    """Say in one line what cannot be written, and which option named it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{option} {out}: cannot be written ({error}): free the disk, or name another place"
        ) from error


def open_place(
    publication: ExitStack, out: Location, *, overwrite: bool, option: str = "--out"
) -> Path:
    """Return the path that this rank writes to; it is published when the stack is closed.

    Args:
        publication: is closed on success.
        out: of ``check_place``.
        overwrite: as of ``check_place``.
        option: as of ``check_place``.

    Raises:
        UserError: it is taken, cannot be written, or a rank does not see it.
    """
    publication.enter_context(writing(out, option))
    rank, ranks = rank_and_ranks()
    if ranks == 1:
        return publication.enter_context(whole_file(out))
    whole = whole_folder(out, marker=PART.format(0), overwrite=overwrite)
    return folder_of_all_ranks(publication, whole, out) / PART.format(rank)
