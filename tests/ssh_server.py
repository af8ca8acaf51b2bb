"""A real OpenSSH server on a free port of 127.0.0.1, with keys and settings of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def why_there_is_none() -> str | None:
    """Say why no server can be started here, or None."""
    if not Path(SSHD).exists():
        return "no OpenSSH server is installed (apt install openssh-server)"
    if shutil.which("ssh-keygen") is None:
        return "no ssh-keygen is installed"
    return None


@dataclass
class Server:
    """A server, and the settings with which a client reaches it as `board`."""

    folder: Path
    port: int

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stderr=(self.folder / "log").open("w"),
            start_new_session=True,
        )
        for _ in range(30_000):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End the server and all its connections."""
        self.drop_connections()
        self._process.kill()
        self._process.wait()

    def drop_connections(self) -> int:
        """Kill what serves the connections, not the server; return how many there were."""
        children = self._children(self._process.pid)
        for child in children:
            for grandchild in self._children(child):  # the one without privileges
                if b"sshd" in Path(f"/proc/{grandchild}/cmdline").read_bytes():
                    os.kill(grandchild, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
        return len(children)

    def change_host_key(self) -> None:
        (self.folder / "host_key").unlink()
        make_key(self.folder / "host_key")

    @staticmethod
    def _children(process: int) -> list[int]:
        try:
            text = Path(f"/proc/{process}/task/{process}/children").read_text()
        except OSError:
            return []
        return [int(word) for word in text.split()]


def make_key(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_server(folder: Path) -> Server:
    """Write keys and settings; the server is not started."""
    server = Server(folder, free_port())
    make_key(folder / "host_key")
    make_key(folder / "user_key")
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"Port {server.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\n"
        "PermitRootLogin yes\n"
    )
    server.config.write_text(
        f"Host board\n HostName 127.0.0.1\n Port {server.port}\n User {getpass.getuser()}\n"
        f" IdentityFile {folder}/user_key\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {server.known_hosts}\n GlobalKnownHostsFile /dev/null\n"
    )
    public = (folder / "host_key.pub").read_text().split()[:2]
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {' '.join(public)}\n")
    return server
