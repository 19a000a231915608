"""A controller: where it is and how we speak with it."""

from __future__ import annotations

from pydantic import Field

from provisioner.config.kinds import BridgeChoice
from provisioner.config.part import Part
from provisioner.config.providers import Provider
from provisioner.config.secret import SecretRef
from provisioner.config.values import Duration, HttpUrl, Name, PositiveCount, Text


class Controller(Part):
    """A Jenkins controller whose queue is served."""

    name: Name = Field(description="name of the controller in tables, metrics and `templates[].controllers`")
    url: HttpUrl = Field(description="URL of the controller as the provisioner reaches it")
    agent_url: HttpUrl | None = Field(
        None, description="URL of the controller as agents reach it; default: `url`; a provider may have its own"
    )
    user: Text = Field(description="account of the provisioner at the controller")
    token: SecretRef = Field(description="API token of that account: {env: VARIABLE} or {file: PATH}")
    max_agents: PositiveCount | None = Field(
        None, description="most agents for the builds of this controller at any instant; default: no limit"
    )
    bridge: BridgeChoice = Field(BridgeChoice.AUTO, description="how the bridge may come into the controller")
    poll_interval_s: Duration = Field(
        1.0, alias="poll_interval", ge=0.1, description="pace of the polls where there is no bridge, at least 0.1"
    )
    timeout_s: Duration = Field(
        30.0, alias="timeout", ge=1, description="longest wait for one answer of the controller, at least 1s"
    )

    def url_for_agents(self, provider: Provider) -> str:
        """The URL that agents at a provider dial; ends with a slash."""
        return provider.agent_url or self.agent_url or self.url
