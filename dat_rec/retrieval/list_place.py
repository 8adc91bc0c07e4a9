"""Where lists are written: a Parquet file, or on several ranks a folder with one of each."""

from collections.abc import Sequence
from contextlib import ExitStack
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
    if (folder and not of_ranks) or any(holds(one, out) for one in inputs):
        raise UserError(f"{option} {out}: a folder, or part of the input: name another file")
    if there and not folder and of_ranks:
        raise UserError(
            f"{option} {out}: a file, and several ranks write a folder: name another one"
        )


def open_place(publication: ExitStack, out: Location, *, overwrite: bool) -> Path:
    """Return the path that this rank writes to; it is published when the stack is closed.

    Args:
        publication: is closed on success.
        out: of ``check_place``.
        overwrite: as of ``check_place``.

    Raises:
        UserError: it is taken, or a rank does not see it.
    """
    rank, ranks = rank_and_ranks()
    if ranks == 1:
        return publication.enter_context(whole_file(out))
    whole = whole_folder(out, marker=PART.format(0), overwrite=overwrite)
    return folder_of_all_ranks(publication, whole, out) / PART.format(rank)
