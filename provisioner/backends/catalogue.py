"""Every backend there is: one folder and one entry in the table below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from provisioner.backends.contract import Backend
from provisioner.backends.endpoint_files import SshFiles, TlsFiles
from provisioner.model.errors import LaunchError, Reason


class ProviderSettings(Protocol):
    """What a backend needs to know of its provider; a configuration's provider is one."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def backend(self) -> str:
        """A key of the table below."""
        ...

    @property
    def endpoint(self) -> str | None:
        """Where the provider is; None: the backend's usual place."""
        ...

    @property
    def network(self) -> str | None:
        """What instances join; None: the engine's own."""
        ...

    @property
    def runtime(self) -> str | None:
        """What runs containers; None: the engine's own."""
        ...

    @property
    def java(self) -> str:
        """The Java program."""
        ...

    @property
    def work_dir(self) -> str | None:
        """Where `process` keeps its folders."""
        ...

    @property
    def tls(self) -> TlsFiles | None:
        """For a tcp:// endpoint."""
        ...

    @property
    def ssh(self) -> SshFiles | None:
        """For an ssh:// endpoint."""
        ...

    @property
    def ssh_host(self) -> str | None:
        """Where the controller reaches ports of instances; None: at their own addresses."""
        ...

    @property
    def timeout_s(self) -> float:
        """The longest wait for one answer, pulls apart."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryLogin:
    """Credentials for one image registry."""

    host: str
    username: str
    password: str = field(repr=False)


def make_backend(
    provider: ProviderSettings, *, registries: Sequence[RegistryLogin] = (), work_dir: Path | None = None
) -> Backend:
    """The backend of a provider, not opened yet.

    Args:
        provider: its settings.
        registries: credentials for pulling images.
        work_dir: where `process` keeps its folders if the provider does not say.

    Raises:
        LaunchError: template_invalid; no such backend here, or its library is not installed.
    """
    make = _BACKENDS.get(provider.backend)
    if make is None:
        raise LaunchError(
            f"provider {provider.name}: the backend `{provider.backend}` is not built in; "
            f"use one of {', '.join(sorted(_BACKENDS))}",
            reason=Reason.TEMPLATE_INVALID,
        )
    return make(provider, tuple(registries), work_dir)


def _process(provider: ProviderSettings, _registries: tuple[RegistryLogin, ...], work_dir: Path | None) -> Backend:
    from provisioner.backends.process.backend import ProcessBackend  # noqa: PLC0415  (only when used)

    folder = Path(provider.work_dir) if provider.work_dir else work_dir
    if folder is None:
        raise LaunchError(
            f"provider {provider.name}: `work_dir` is missing; name a folder for the agents",
            reason=Reason.TEMPLATE_INVALID,
        )
    return ProcessBackend(work_dir=folder, java=provider.java, ssh_host=provider.ssh_host)


def _docker(provider: ProviderSettings, registries: tuple[RegistryLogin, ...], _work_dir: Path | None) -> Backend:
    try:
        from provisioner.backends.docker.backend import DockerBackend  # noqa: PLC0415  (only when used)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "docker":
            raise  # something else is missing: no advice fits
        raise LaunchError(
            f"provider {provider.name}: the library `docker` is not installed; install jenkins-provisioner[docker]",
            reason=Reason.TEMPLATE_INVALID,
        ) from error
    return DockerBackend(
        endpoint=provider.endpoint,
        tls=provider.tls,
        ssh=provider.ssh,
        network=provider.network,
        runtime=provider.runtime,
        java=provider.java,
        timeout_s=provider.timeout_s,
        registries={login.host: (login.username, login.password) for login in registries},
        ssh_host=provider.ssh_host,
    )


_BACKENDS: Mapping[str, Callable[[ProviderSettings, tuple[RegistryLogin, ...], Path | None], Backend]] = {
    "docker": _docker,
    "process": _process,
}
