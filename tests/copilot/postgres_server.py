"""A PostgreSQL server of its own for the tests: a fresh cluster in a temporary folder, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ADMIN, ADMIN_PASSWORD = "admin", "adm1n-s3cret"


def find_binaries() -> Path | None:
    """The newest folder that has a server: Debian keeps it off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    usable = [folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()]
    return usable[-1] if usable else None


def _unprivileged() -> dict[str, Any]:
    """The server refuses to run as root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("there is no user to run a server as")


class Server:
    """A running server; `admin_url` may do everything, `url` is for any role."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder = binaries, folder
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the cluster; every login needs its password."""
        who = _unprivileged()
        if who:
            os.chown(self.folder, who["user"], who["group"])
        password = self.folder / "password"
        password.write_text(ADMIN_PASSWORD)
        password.chmod(0o644)
        command = [
            self.binaries / "initdb",
            "-D",
            self.folder / "data",
            "-U",
            ADMIN,
            f"--pwfile={password}",
            "-A",
            "scram-sha-256",
        ]
        command += ["--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **who)

    def start(self) -> None:
        """Start it, and wait until it takes logins."""
        import psycopg

        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", "fsync=off"]
        settings += ["shared_buffers=16MB", "max_connections=30", "autovacuum=off", "max_wal_size=64MB"]
        command = [str(self.binaries / "postgres"), "-D", str(self.folder / "data"), *(p for s in settings for p in ("-c", s))]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=self.folder, **_unprivileged())
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            time.sleep(0.1)
        for _ in range(100):  # it listens before it takes logins
            with contextlib.suppress(psycopg.OperationalError):
                self.run("SELECT 1")
                return
            time.sleep(0.1)
        raise RuntimeError("the server did not start")

    def stop(self) -> None:
        """At once: nothing is worth keeping."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)
            self.process = None

    def url(self, user: str, password: str, name: str = "postgres") -> str:
        """A URL for the role."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{name}"

    @property
    def admin_url(self) -> str:
        """Of the superuser."""
        return self.url(ADMIN, ADMIN_PASSWORD)

    def run(self, *statements: str, name: str = "postgres") -> None:
        """As the superuser."""
        import psycopg

        with psycopg.connect(self.url(ADMIN, ADMIN_PASSWORD, name), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_server(binaries: Path) -> Iterator[Server]:
    """For the time of a `with`."""
    folder = Path(tempfile.mkdtemp(prefix="openarctic-pg-"))
    server = Server(binaries, folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
