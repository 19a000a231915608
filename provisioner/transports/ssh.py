"""The controller dials the instance: an SSH server there, with keys that are made for this one agent.

The server is our own (`provisioner.sshd`), which needs nothing of the image, or OpenSSH's of the image. Either has the
agent's host key and lets in nobody but the bearer of the agent's user key.
"""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.model.errors import LaunchError, Reason
from provisioner.transports.dialling import Instance, NotYet, Whom
from provisioner.transports.java import FLAGS
from provisioner.transports.keys import agent_keys
from provisioner.transports.setup import File, Setup

#: What OpenSSH's server is told; its own configuration file is left aside, so that every image behaves the same.
_OPENSSH = {
    "AuthorizedKeysFile": "{secrets}/authorized_keys",
    "AuthenticationMethods": "publickey",
    "StrictModes": "no",  # the files are where we put them
    "UsePAM": "no",
    "PermitRootLogin": "prohibit-password",
    "DisableForwarding": "yes",
    "PermitTTY": "no",
    "PidFile": "none",
    "Subsystem": "sftp internal-sftp",
}


def command(setup: Setup) -> tuple[str, ...]:
    """The SSH server that the instance runs."""
    if _of_image(setup.template):
        options = [word for key, value in _OPENSSH.items() for word in ("-o", f"{key}={value}")]
        start = 'mkdir -p /run/sshd 2>/dev/null; exec "$(command -v sshd || echo /usr/sbin/sshd)" "$@"'
        return (
            "sh",
            "-c",
            start,
            "sshd",
            "-D",
            "-e",
            "-f",
            "/dev/null",
            "-p",
            "{port}",
            "-h",
            "{secrets}/host_key",
            *options,
        )
    return (
        *("{sshd}", "--port", "{port}", "--host-key", "{secrets}/host_key"),
        *("--authorized-keys", "{secrets}/authorized_keys", "--root", "{work}"),
        *("--", "{java}", *FLAGS, "-jar", "{jar}"),
    )


def files(setup: Setup) -> tuple[File, ...]:
    """The host's private key, and whom it lets in."""
    keys = agent_keys(setup.secret)
    return (
        File(name="host_key", content=keys.host.private.encode(), of_server=True),
        # OpenSSH's server reads it as the user who logs in
        File(name="authorized_keys", content=f"{keys.user.public}\n".encode(), public=True),
    )


def work_as(template: Mapping[str, object]) -> str | None:
    """Whose the agent's root is, if not the container's user: OpenSSH's server starts the agent as who logs in."""
    return login(template) if _of_image(template) else None


class Direct:
    """See `Dialled`: the instance's own server is dialled."""

    async def meet(self, instance: Instance) -> Whom | NotYet:
        """Look at the instance's server with our own eyes, as far as its host key."""
        address = await instance.address()
        if address is None:
            return NotYet(text="the instance has no address yet", missing_address=True)
        from provisioner.transports.probe import host_key_at  # noqa: PLC0415  (loads asyncssh: only when used)

        keys = agent_keys(instance.secret)
        seen = await host_key_at(address)
        if isinstance(seen, NotYet):
            return seen
        if seen != keys.host.public:
            raise LaunchError(
                f"the SSH server at {address.host} port {address.port} shows another host key than the one that "
                f"{instance.agent} was given",
                reason=Reason.HOST_KEY_MISMATCH,
            )
        own = not _of_image(instance.template)
        return Whom(
            address=address,
            host_key=keys.host.public,
            user=login(instance.template),
            private_key=keys.user.private,
            java=instance.java,
            java_options=() if own else FLAGS,  # our server starts Java as it was told to, whatever is asked for
        )

    async def last_words(self, agent: str) -> tuple[str, ...]:  # noqa: ARG002  (contract)
        """The provider keeps them."""
        return ()

    async def part(self, agent: str) -> None:
        """Nothing to forget."""


def login(template: Mapping[str, object]) -> str:
    """The user as whom the controller logs in; our own server takes any name and is the user that it runs as."""
    asked = _settings(template).get("user")
    user = str(template.get("run_as") or "").partition(":")[0]
    return str(asked or (user if user and not user.isdigit() else "root" if _of_image(template) else "jenkins"))


def _of_image(template: Mapping[str, object]) -> bool:
    return _settings(template).get("server") == "image"


def _settings(template: Mapping[str, object]) -> Mapping[str, object]:
    found = template.get("ssh")
    return found if isinstance(found, Mapping) else {}
