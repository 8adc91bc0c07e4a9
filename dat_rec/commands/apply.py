"""``dat-rec apply``: make a full export of an older one and the deltas since."""

import shlex
from dataclasses import dataclass

from dat_rec.commands.parse import Arguments, parse, refuse_repeated
from dat_rec.storage.address import Location
from dat_rec.versions import require_stack


@dataclass(frozen=True)
class ApplyOptions:
    """Make a full export of an older one and the deltas since: the bytes that `export` writes."""

    base: Location
    """Folder or address of the export that the first delta was made since: what `dat-rec export`
    wrote in full, or `dat-rec apply` made."""
    delta: tuple[Location, ...]
    """Folders or addresses of deltas, which `dat-rec export --since` wrote: one after the other,
    the oldest first."""
    out: Location
    """Folder or address of the full export, which is there whole or not at all."""
    overwrite: bool = False
    """Replace an export that is already in OUT, which may be BASE."""


def run(arguments: Arguments) -> None:
    """Apply, and print the next command."""
    refuse_repeated(arguments, ("--delta",))
    options: ApplyOptions = parse("apply", ApplyOptions, arguments)
    require_stack()
    from dat_rec.retrieval.delta.apply import apply

    done = apply(options.base, options.delta, options.out, overwrite=options.overwrite)
    gone = done.forgotten
    print(
        f"{options.out}: number {done.number} of its chain; {gone.items:,} items and "
        f"{gone.users:,} users forgotten since {options.base}; next: dat-rec recommend --export "
        f"{shlex.quote(str(options.out))} --out RECOMMENDATIONS.parquet"
    )
