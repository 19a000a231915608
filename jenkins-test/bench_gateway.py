"""The gateway beside a plain OpenSSH hop: a gibibyte each way, and fifty agents at once.

    python jenkins-test/bench_gateway.py [--mebibytes 1024] [--turns 3]

Both run the same commands for the same client with the cipher that Jenkins' SSH library uses, in turn. Needs the
program ssh, a Docker engine and the image jenkins-provisioner-test/sshd (jenkins-test/images.sh).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import asyncssh

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from provisioner.gateway.client import Gate  # noqa: E402
from tests.gateway_house import JAR, House  # noqa: E402

IMAGE = "jenkins-provisioner-test/sshd:latest"
CIPHER = ("-c", "aes128-ctr", "-m", "hmac-sha2-256-etm@openssh.com")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(kw_only=True)
class Figures:
    seconds: float
    cpu_s: float
    rss_mib: float


def stat(pid: int) -> tuple[float, float]:
    """Processor seconds so far, and the most memory it ever had, MiB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    most = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / TICKS, most / 1024


def measured(pids: Iterable[int], before: dict[int, float], began: float) -> Figures:
    now = {pid: stat(pid) for pid in pids}
    return Figures(
        seconds=time.monotonic() - began,
        cpu_s=sum(cpu - before.get(pid, 0.0) for pid, (cpu, _) in now.items()),
        rss_mib=sum(rss for _, rss in now.values()),
    )


def drain(process: subprocess.Popen[bytes], size: int) -> None:
    assert isinstance(process.stdout, io.BufferedReader)
    left = size
    while left:
        piece = process.stdout.read1(1 << 20)
        assert piece, f"{left} bytes missing"
        left -= len(piece)


def feed(process: subprocess.Popen[bytes], size: int) -> None:
    assert process.stdin is not None
    piece = bytes(1 << 18)
    for _ in range(size // len(piece)):
        process.stdin.write(piece)
    process.stdin.flush()


def script(size: int, *, out: bool) -> str:
    """What the far end runs: it sends so much, or takes so much; then it waits for the end of its input."""
    if out:
        return f"echo up; head -c {size} /dev/zero; cat"
    return f"echo up; head -c {size} >/dev/null; echo done; cat"


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        (folder / "key").touch(mode=0o600)
        (folder / "key").write_bytes(self.key.export_private_key())
        (folder / "jar").write_bytes(JAR)
        self.house = House(folder, key=self.key)
        self.client = self.house.client()
        self.number = 0

    def ssh(self, *words: str, known: str) -> list[str]:
        (self.folder / "known").write_text(known + "\n")
        options = ["-F", "none", "-i", str(self.folder / "key"), "-o", "IdentityAgent=none", "-o", "BatchMode=yes"]
        return [words[0], *options, "-o", f"UserKnownHostsFile={self.folder / 'known'}", *words[1:]]

    async def agent(self, script: str) -> tuple[Gate, str, str]:
        self.number += 1
        name = f"bench-{self.number}"
        return await self.house.agent(self.client, name, script), name, self.house.root(name)

    def gateway_pid(self) -> int:
        (pid,) = self.house.pids()
        return pid

    async def by_gateway(self, size: int, *, out: bool) -> Figures:
        gate, name, root = await self.agent(script(size, out=out))
        who, known = f"{name}@{gate.host}", f"[{gate.host}]:{gate.port} {gate.host_key}"
        command = f'cd "{root}" && java  -jar remoting.jar -workDir {root}'
        pids = [self.gateway_pid()]
        jar = f"{who}:{root}/remoting.jar"
        return await asyncio.to_thread(self._carry, who, gate.port, known, command, size, out, lambda: pids, jar)

    async def by_openssh(self, sshd: Sshd, size: int, *, out: bool) -> Figures:
        command = script(size, out=out)
        return await asyncio.to_thread(
            self._carry, "root@127.0.0.1", sshd.port, sshd.known, command, size, out, sshd.sessions, None
        )

    def _carry(
        self,
        who: str,
        port: int,
        known: str,
        command: str,
        size: int,
        out: bool,
        pids: Callable[[], list[int]],
        jar: str | None,
    ) -> Figures:
        """One connection of OpenSSH's client: the jar, if there is one to bring, then the command."""
        control = str(self.folder / "ctl")
        over = ("-o", f"ControlPath={control}")
        master = subprocess.Popen(self.ssh("ssh", *CIPHER, "-MN", *over, "-p", str(port), who, known=known))
        try:
            while not Path(control).exists():
                assert master.poll() is None
                time.sleep(0.02)
            if jar is not None:
                words = self.ssh("scp", "-q", *over, "-P", str(port), str(self.folder / "jar"), jar, known=known)
                subprocess.run(words, check=True)
            words = self.ssh("ssh", *over, "-p", str(port), who, command, known=known)
            with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                assert process.stdin is not None
                assert process.stdout.read(3) == b"up\n"
                watched = pids()
                before, began = {pid: stat(pid)[0] for pid in watched}, time.monotonic()
                if out:
                    drain(process, size)
                else:
                    feed(process, size)
                    assert process.stdout.read(5) == b"done\n"
                found = measured(watched, before, began)
                process.stdin.close()
                process.wait(timeout=30)
            return found
        finally:
            subprocess.run(["ssh", *over, "-O", "exit", who], capture_output=True, check=False)
            master.wait(timeout=10)

    async def fifty(self) -> tuple[float, float, float]:
        """Memory without, with fifty sessions that stand, and processor seconds per minute of standing."""
        pid = self.gateway_pid()
        rss = _rss(pid)
        sessions = []
        for _ in range(50):
            gate, name, _ = await self.agent("echo up; cat")
            sessions.append(await self.house.session(gate, name))
        with_all, began = _rss(pid), stat(pid)[0]
        await asyncio.sleep(20)
        idle = (stat(pid)[0] - began) * 3
        for process in sessions:
            connection = process.channel.get_connection()
            connection.close()
            await connection.wait_closed()
        return rss, with_all, idle


def _rss(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / (1 << 20)


class Sshd:
    """OpenSSH's server in a container on the host's network."""

    def __init__(self, public: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        script = (
            "mkdir -p /run/sshd /root/.ssh; chmod 700 /root/.ssh; "
            f"echo '{public}' > /root/.ssh/authorized_keys; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/bench; "
            f"exec /usr/sbin/sshd -D -e -o ListenAddress=127.0.0.1 -p {self.port} -h /etc/ssh/bench"
        )
        self.id = f"bench-gateway-{self.port}"
        made = ["docker", "run", "--detach", "--name", self.id, "--network", "host", "--entrypoint", "/bin/sh", IMAGE]
        subprocess.run([*made, "-c", script], check=True, capture_output=True)
        scan = ["ssh-keyscan", "-p", str(self.port), "-t", "ed25519", "127.0.0.1"]
        for _ in range(100):
            self.known = subprocess.run(scan, capture_output=True, text=True, check=False).stdout.strip()
            if self.known:
                break
            time.sleep(0.1)
        else:
            raise SystemExit("the SSH server does not start")

    def sessions(self) -> list[int]:
        """The processes of the sessions: all of the container's whose program is sshd, but the one that listens."""
        listed = subprocess.run(
            ["docker", "top", self.id, "-eo", "pid,args"], check=True, capture_output=True, text=True
        )
        return [int(line.split()[0]) for line in listed.stdout.splitlines() if "sshd: root" in line]

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", self.id], check=True, capture_output=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    size = args.mebibytes << 20
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as name:
        bench = Bench(Path(name))
        await bench.house.backend.open()
        sshd = Sshd(bench.key.export_public_key().decode().strip())
        rows: dict[tuple[str, str], list[Figures]] = {}
        try:
            for _ in range(args.turns):
                for direction in ("to Jenkins", "to the agent"):
                    out = direction == "to Jenkins"
                    rows.setdefault(("gateway", direction), []).append(await bench.by_gateway(size, out=out))
                    rows.setdefault(("OpenSSH", direction), []).append(await bench.by_openssh(sshd, size, out=out))
            for (who, direction), found in rows.items():
                seconds = statistics.median(one.seconds for one in found)
                cpu = statistics.median(one.cpu_s for one in found)
                rss = max(one.rss_mib for one in found)
                rate = args.mebibytes / seconds
                print(f"{who:8} {direction:13} {rate:6.0f} MiB/s  {cpu:6.2f} s of processor  {rss:6.1f} MiB at most")
            rss, with_all, idle = await bench.fifty()
            print(f"gateway with no agent {rss:.1f} MiB, with 50 at once {with_all:.1f} MiB")
            print(f"50 that stand: {idle:.2f} s of processor a minute")
            print(f"open files allowed: {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}")
        finally:
            sshd.remove()
            await bench.house.close()


if __name__ == "__main__":
    asyncio.run(main())
