"""The two key pairs of one agent that is dialled: its user's and its host's.

They are made of the node's secret, which the controller alone can give and which is another one for each name, so
nothing of them is ever stored by us: whoever may ask for the secret can make them again, after a crash too. Names
are never used twice, and so are keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import textwrap
from dataclasses import dataclass, field

_KIND = b"ssh-ed25519"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPair:
    """One ed25519 key pair in OpenSSH's forms."""

    private: str = field(repr=False)
    public: str  # `ssh-ed25519 AAAA…`


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentKeys:
    """The keys of one agent."""

    user: KeyPair  # the controller proves itself with it; the private half lives in its credentials entry alone
    host: KeyPair  # the instance proves itself with it; the private half lives in its secret volume alone


def agent_keys(secret: str) -> AgentKeys:
    """The keys of the agent whose node has this secret; the same ones each time."""
    return AgentKeys(user=_pair(secret, "user"), host=_pair(secret, "host"))


def _pair(secret: str, use: str) -> KeyPair:
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415  (only when used)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    seed = hmac.new(secret.encode(), f"jenkins-provisioner ssh {use} key".encode(), hashlib.sha256).digest()
    public = (
        Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
    )
    told = _string(_KIND) + _string(public)
    return KeyPair(private=_openssh(seed, public, told), public=f"{_KIND.decode()} {base64.b64encode(told).decode()}")


def _openssh(seed: bytes, public: bytes, told: bytes) -> str:
    """A private key as `ssh-keygen` writes it, but always the same text; libraries put a random number into it.

    See PROTOCOL.key of OpenSSH.
    """
    check = hashlib.sha256(public).digest()[:4]  # twice, to see whether a passphrase was right; there is none
    inner = check + check + told + _string(seed + public) + _string(b"")
    inner += bytes(range(1, 1 + -len(inner) % 8))
    none = _string(b"none")
    outer = b"openssh-key-v1\0" + none + none + _string(b"") + (1).to_bytes(4, "big") + _string(told) + _string(inner)
    lines = textwrap.wrap(base64.b64encode(outer).decode(), 70)
    return "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----", ""])


def _string(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content
