"""Where a server listens, and the token of those who may ask."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dat_rec.errors import UserError

TOKEN = "DAT_REC_SERVE_TOKEN"
"""Environment variable of the token."""


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """The socket, taken before the export is read: a port that is taken is said at once.

    Raises:
        UserError: it is taken, or the host is not this one.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--host {host} --port {port}: {error.strerror}: name others"
            ) from error
        yield sock


def url(host: str, sock: socket.socket) -> str:
    """What to ask at."""
    return f"http://{host}:{sock.getsockname()[1]}"


def read_token(file: Path | None) -> str | None:
    """The token of a file, or else of the environment.

    Raises:
        UserError: the file cannot be read, or the token is not what a header can hold.
    """
    where, token = TOKEN, os.environ.get(TOKEN)
    if file is not None:
        where = f"--token-file {file}"
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where}: {error}: name a file of one line") from error
    if token is None:
        return None
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where}: write 16 or more letters and digits, as `openssl rand -hex 32`")
    return token
