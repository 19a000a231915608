"""A Docker engine of a test's own, beside the machine's: other socket, other data, stopped by its process id.

It changes no firewall rule: its containers use the host's network or none. It has a bridge of its own all the same,
since an engine that is told to have none removes `docker0`, which is the machine's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import docker

from tests.sidecar_process import free_port


class SecondEngine:
    """One dockerd with a containerd of its own. Needs root.

    Args:
        hosts: where it listens besides its Unix socket, each an argument of `--host`.
        options: further arguments.
    """

    def __init__(self, *, hosts: tuple[str, ...] = (), options: tuple[str, ...] = ()) -> None:
        # not below pytest's own folders: the path of a socket may have 107 characters
        self.folder = Path(tempfile.mkdtemp(prefix="engine-"))
        self.socket = self.folder / "d.sock"
        self._bridge = f"jpt{os.urandom(5).hex()}"
        self._arguments = [
            "dockerd",
            *("--data-root", str(self.folder / "data")),
            *("--exec-root", str(self.folder / "exec")),
            *("--pidfile", str(self.folder / "pid")),
            *("--host", f"unix://{self.socket}"),
            *(word for host in hosts for word in ("--host", host)),
            *("--containerd", str(self.folder / "c.sock")),
            f"--bridge={self._bridge}",
            "--ip-masq=false",
            "--iptables=false",
            "--ip-forward=false",
            *options,
        ]
        self.tls_endpoint = ""
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it, or start it again with the same data."""
        config = self.folder / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{self.folder}/c-root"\nstate = "{self.folder}/c-state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.folder}/c.sock"\n'
        )
        self._run(["containerd", "--config", str(config)])
        self._until((self.folder / "c.sock").exists)
        self._make_bridge()
        self._run(self._arguments)
        self._until(self._answers)

    def _make_bridge(self) -> None:
        if (Path("/sys/class/net") / self._bridge).exists():
            return
        third, fourth = os.urandom(2)
        for words in (
            f"link add {self._bridge} type bridge",
            f"addr add 198.18.{third}.{fourth & 0xFC | 1}/30 dev {self._bridge}",
            f"link set {self._bridge} up",
        ):
            subprocess.run(["ip", *words.split()], check=True)

    def _run(self, arguments: list[str]) -> None:
        with (self.folder / "log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
            )

    def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        try:
            client = docker.APIClient(base_url=self.endpoint, version="auto", timeout=5)
        except docker.errors.DockerException:
            return False
        client.close()
        return True

    def _until(self, true: Callable[[], bool], within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not true():
            ended = [run for run in self._processes if run.poll() is not None]
            assert not ended, f"the second engine ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"the second engine does not answer:\n{self.log()}"
            time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def client(self) -> docker.APIClient:
        return docker.APIClient(base_url=self.endpoint, version="auto", timeout=60)

    def load(self, image: str) -> None:
        """Bring an image over from the machine's own engine, unless it is there."""
        client = self.client()
        try:
            if client.images(image):
                return
        finally:
            client.close()
        save = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
        try:
            subprocess.run(
                ["docker", "--host", self.endpoint, "load", "--quiet"],
                stdin=save.stdout,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=300,
            )
        finally:
            if save.stdout:
                save.stdout.close()
            assert save.wait(timeout=60) == 0

    def with_tls(self) -> SecondEngine:
        """Let it listen on loopback with TLS too; before its start."""
        folder, port = self.folder / "tls", free_port()
        folder.mkdir()
        certificates(folder)
        self.tls_endpoint = f"tcp://127.0.0.1:{port}"
        self._arguments += ["--host", self.tls_endpoint, *tls_options(folder)]
        return self

    def files(self, name: str = "client", ca: str = "ca") -> dict[str, str]:
        """The files of a provider's `tls`."""
        folder = self.folder / "tls"
        return {"ca": f"{folder}/{ca}.pem", "cert": f"{folder}/{name}.pem", "key": f"{folder}/{name}-key.pem"}

    def freeze(self) -> None:
        """It does not answer any more; its containers run on."""
        self._processes[-1].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._processes[-1].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it; what it holds stays on disk."""
        for run in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                run.send_signal(signal.SIGCONT)
                run.terminate()
            try:
                run.wait(timeout=30)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait(timeout=10)
        self._processes.clear()

    def remove(self) -> None:
        """End it with everything that it holds."""
        if self._processes:
            client = self.client()
            try:
                for container in client.containers(all=True, quiet=True):
                    client.remove_container(container["Id"], force=True, v=True)
            finally:
                client.close()
        self.stop()
        if (Path("/sys/class/net") / self._bridge).exists():
            subprocess.run(["ip", "link", "delete", self._bridge], check=True)
        _unmount_below(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not self.folder.exists(), f"left: {self.folder}"


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)


def openssl(*words: str, folder: Path) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


def certificates(folder: Path) -> None:
    """An authority, the engine's certificate, ours, and one of another authority."""
    for ca in ("ca", "other"):
        openssl(*f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={ca} -keyout {ca}-key.pem -out {ca}.pem".split(),
                folder=folder)  # fmt: skip
    for name, ca, more in (
        ("server", "ca", "subjectAltName=IP:127.0.0.1"),
        ("client", "ca", "extendedKeyUsage=clientAuth"),
        ("stranger", "other", "extendedKeyUsage=clientAuth"),
    ):
        openssl(*f"req -newkey rsa:2048 -nodes -subj /CN={name} -addext {more} -keyout {name}-key.pem -out {name}.csr"
                .split(), folder=folder)  # fmt: skip
        openssl(*f"x509 -req -in {name}.csr -copy_extensions copy -days 2 -CA {ca}.pem -CAkey {ca}-key.pem "
                f"-CAcreateserial -out {name}.pem".split(), folder=folder)  # fmt: skip


def tls_options(folder: Path) -> tuple[str, ...]:
    """Arguments by which an engine wants a certificate of our authority, and shows its own."""
    files = (("--tlscacert", "ca.pem"), ("--tlscert", "server.pem"), ("--tlskey", "server-key.pem"))
    return ("--tlsverify", *(word for option, name in files for word in (option, str(folder / name))))


def why_not() -> str:
    """Why there can be no second engine here; empty if there can."""
    if os.geteuid() != 0:
        return "a second Docker engine needs root"
    missing = [program for program in ("dockerd", "containerd", "docker", "ip") if shutil.which(program) is None]
    return f"no {', '.join(missing)} here" if missing else ""
