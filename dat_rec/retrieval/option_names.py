"""What messages call what was asked for: a command's options, or the fields of a request."""

from typing import NamedTuple


class Names(NamedTuple):
    """How whoever asks has called restrictions."""

    filter: str
    quota: str
    """With ``{column}`` and ``{most}``."""
    exclude_seen: str
    exclude: str
    """How to leave out items otherwise."""
    blend_history: str


OPTIONS = Names(
    filter="--filter",
    quota="--quota {column}={most}",
    exclude_seen="--exclude-seen",
    exclude="name a file of pairs by --exclude",
    blend_history="--blend-history",
)
FIELDS = Names(
    filter="filter",
    quota="quotas: {column}={most}",
    exclude_seen="exclude_seen",
    exclude="name the items by exclude",
    blend_history="blend_history",
)
"""Of ``dat-rec serve``."""
