"""A look at an SSH server from outside: whether it answers, and with which host key."""

from __future__ import annotations

import asyncio

import asyncssh

from provisioner.model.errors import LaunchError, Reason
from provisioner.transports.dialling import Address, NotYet

#: For one look.
_LOOK_S = 5.0
_ALGORITHM = "ssh-ed25519"


async def host_key_at(address: Address) -> str | NotYet:
    """The host key that an SSH server shows, `ssh-ed25519 AAAA…`; it is not logged in to.

    Raises:
        LaunchError: host_key_mismatch; a server that has no key of that kind, so it is not the one that we started.
    """
    where = f"{address.host} port {address.port}"
    try:
        async with asyncio.timeout(_LOOK_S):
            key = await asyncssh.get_server_host_key(
                address.host, address.port, server_host_key_algs=[_ALGORITHM], config=None
            )
    except TimeoutError:
        return NotYet(text=f"the SSH server at {where} did not answer within {_LOOK_S:.0f} s")
    except asyncssh.KeyExchangeFailed as error:
        raise LaunchError(
            f"the SSH server at {where} has no {_ALGORITHM} host key, so it is not the one that was started",
            reason=Reason.HOST_KEY_MISMATCH,
        ) from error
    except (OSError, asyncssh.Error) as error:
        return NotYet(text=f"no SSH server answers at {where}: {error}")
    if key is None:
        return NotYet(text=f"no SSH server answers at {where}")
    return str(key.export_public_key().decode()).strip()
