"""``dat-rec serve``: answer requests over HTTP, from an export."""

import os
from dataclasses import dataclass
from pathlib import Path

from dat_rec.commands.parse import Arguments, parse
from dat_rec.commands.without_pandas import leave_pandas_out
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.versions import require_torch


@dataclass(frozen=True)
class ServeOptions:
    """Serve recommendations of an export over HTTP; GET / lists the paths."""

    export: Location
    """Folder of the export that `dat-rec export` made, a link to it, or its address. When another
    one stands there, it is served from then on."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all of this machine's."""
    port: int = 8080
    """Port to listen at; 0 for a free one, which the first line names."""
    token_file: Path | None = None
    """File with the token that requests must carry as `Authorization: Bearer …`; without it, that
    of the environment variable DAT_REC_SERVE_TOKEN, if there is one."""
    workers: int = 1
    """Number of processes, which serve the port together; each takes about a core."""
    watch_s: float = 2.0
    """Seconds between two looks at EXPORT for a new one; 0 for none: send SIGHUP, or POST
    /reload."""
    drain_s: float = 30.0
    """Maximum seconds after SIGTERM in which open requests are answered."""
    max_k: int = 1000
    """Maximum length of a list."""
    max_users: int = 256
    """Maximum number of users in a request."""
    max_ids: int = 10_000
    """Maximum number of ids to exclude, or that are available, in a request."""
    max_body_bytes: int = 2**20
    """Maximum bytes of a request's body."""
    max_waiting: int = 1024
    """Maximum number of requests that wait; with more, the answer is 503 with Retry-After."""
    filter_s: float = 2.0
    """Maximum seconds that a filter may take."""


def run(arguments: Arguments) -> None:
    """Serve until SIGTERM."""
    options: ServeOptions = parse("serve", ServeOptions, arguments)
    _check(options)
    from dat_rec.serve.access import bound, read_token, url
    from dat_rec.serve.limits import Limits
    from dat_rec.serve.metrics import say
    from dat_rec.serve.options import Options

    token = read_token(options.token_file)
    if token is None and options.host not in ("127.0.0.1", "::1", "localhost"):
        say(f"listens at {options.host} without a token: whoever reaches it may ask")
    limits = Limits(
        k=options.max_k,
        users=options.max_users,
        ids=options.max_ids,
        body_bytes=options.max_body_bytes,
        filter_s=options.filter_s,
        waiting=options.max_waiting,
    )
    each = Options(
        options.export,
        options.host,
        options.port,
        token,
        limits,
        watch_s=options.watch_s,
        drain_s=options.drain_s,
    )
    if options.workers > 1:
        from dat_rec.serve.workers import Workers

        Workers(each, options.workers, _prepare).run()
        return
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # One process adds nobody's figures up.
    _prepare()
    from dat_rec.serve.run import serve

    with bound(options.host, options.port) as sock:
        address = url(options.host, sock)
        serve(each, sock, ready=lambda export: say(f"serves export {export} at {address}"))


def _prepare() -> None:
    """What a process does first that serves."""
    leave_pandas_out()
    require_torch()


def _check(options: ServeOptions) -> None:
    """Refuse numbers that mean nothing."""
    least = {
        "max_k": 1,
        "max_users": 1,
        "max_ids": 1,
        "max_body_bytes": 1,
        "max_waiting": 1,
        "workers": 1,
    }
    for name, low in (least | {"watch_s": 0, "drain_s": 0, "filter_s": 0.001, "port": 0}).items():
        if not getattr(options, name) >= low:
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} is {getattr(options, name)}: it must be {low} or more")
    if options.port > 65535:
        raise UserError(f"--port is {options.port}: it must be 65535 or less")
