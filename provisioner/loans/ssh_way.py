"""A lent machine over SSH, with the host key that the configuration pins."""

from __future__ import annotations

import base64
import binascii
import contextlib
import shlex

import paramiko

from provisioner.config import LoanMachine
from provisioner.loans.machine import Input, MachineError, Output

_CONNECT_S = 15.0
_RUN_S = 60.0


class SshWay:
    """See `machine.Way`."""

    def __init__(self, machine: LoanMachine) -> None:
        self._machine = machine
        self.java = machine.java

    def run(self, script: str, given: Input | None) -> Output:
        """Run it in a session of its own."""
        user, _, address = self._machine.ssh.rpartition("@")
        host, port = _split(address)
        with paramiko.SSHClient() as client:
            name = host if port == 22 else f"[{host}]:{port}"
            key = self._host_key()
            client.get_host_keys().add(name, key.get_name(), key)
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            try:
                client.connect(
                    host,
                    port,
                    username=user,
                    key_filename=self._machine.key,
                    timeout=_CONNECT_S,
                    banner_timeout=_CONNECT_S,
                    auth_timeout=_CONNECT_S,
                    allow_agent=False,
                    look_for_keys=False,
                )
                return self._run(client, script, given)
            except paramiko.BadHostKeyException as error:
                raise MachineError(
                    f"{address} shows another host key than `loans.machines` has for it; look for who answers there"
                ) from error
            except (paramiko.SSHException, OSError) as error:
                raise MachineError(f"{self._machine.ssh} cannot be used: {_words(error)}") from error

    def _run(self, client: paramiko.SSHClient, script: str, given: Input | None) -> Output:
        stdin, stdout, _ = client.exec_command(f"/bin/sh -c {shlex.quote(script)} 2>&1", timeout=_RUN_S)
        if given is not None:
            # a step that failed before it had read all says why
            with contextlib.suppress(OSError):
                stdin.write(given.secret.encode() + b"\n" + given.jar)
                stdin.flush()
        with contextlib.suppress(OSError):
            stdin.channel.shutdown_write()
        text = stdout.read().decode("utf-8", "replace")
        return Output(status=stdout.channel.recv_exit_status(), text=text)

    def _host_key(self) -> paramiko.PKey:
        kind, _, rest = self._machine.host_key.partition(" ")
        try:
            return paramiko.PKey.from_type_string(kind, base64.b64decode(rest.split(" ")[0], validate=True))
        except (paramiko.SSHException, binascii.Error, ValueError) as error:
            raise MachineError(f"the host key of {self._machine.node} in `loans.machines` cannot be read") from error


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        return address.strip("[]"), 22
    return host.strip("[]"), int(port)


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
