"""A transport with which the controller dials, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from provisioner.model.errors import LaunchError
from provisioner.transports.dialling import Instance, NotYet, Whom


@dataclass
class FakeDialled:
    """Says `NotYet` so many times to each agent, then whom to dial."""

    looks: int = 1
    fail_with: LaunchError | None = None
    met: list[Instance] = field(default_factory=list)
    parted: list[str] = field(default_factory=list)

    async def meet(self, instance: Instance) -> Whom | NotYet:
        if self.fail_with is not None:
            raise self.fail_with
        self.met.append(instance)
        address = await instance.address()
        if address is None:
            return NotYet(text="the instance has no address yet", missing_address=True)
        if sum(one.agent == instance.agent for one in self.met) <= self.looks:
            return NotYet(text="nothing answers")
        return Whom(
            address=address,
            host_key=f"ssh-ed25519 {instance.agent}",
            user="jenkins",
            private_key=f"key of {instance.secret}",
            java=instance.java,
        )

    async def last_words(self, agent: str) -> tuple[str, ...]:
        return ()

    async def part(self, agent: str) -> None:
        self.parted.append(agent)
