"""What a server is started with."""

from dataclasses import dataclass

from dat_rec.serve.limits import Limits
from dat_rec.storage.address import Location


@dataclass(frozen=True)
class Options:
    """Of one server, or of each of several."""

    export: Location
    host: str
    port: int
    token: str | None
    """Who has it may ask; None: everybody may."""
    limits: Limits
    watch_s: float
    """Seconds between two looks for a new export; 0 for none."""
    drain_s: float
    """Maximum seconds in which open requests are answered at the end."""
