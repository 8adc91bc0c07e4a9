"""A dataset's folder in, the SHA-256 of its files out, which stand in it as sha256.json."""

from collections.abc import Sequence
from pathlib import Path

from dat_rec.data.progress import Progress
from dat_rec.files import sha256

DIGESTS = "sha256.json"
"""Holds the SHA-256 of every other file of a dataset."""


def files_below(folder: Path) -> list[str]:
    """The paths, below the folder, of all files but the digests; hidden ones do not count."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    return sorted({path.relative_to(folder).as_posix() for path in found} - {DIGESTS})


def digests_of(
    folder: Path, names: Sequence[str], progress: Progress, threads: int
) -> dict[str, str]:
    """Path below the folder → SHA-256 of each file."""

    def digest(number: int) -> str:
        found = sha256(folder / names[number])
        progress.add((folder / names[number]).stat().st_size)
        return found

    return dict(zip(names, progress.in_threads(digest, range(len(names)), threads), strict=True))
