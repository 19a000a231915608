"""The Docker engine as the demo sees it: an image for its agents, and what carries its label."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from demo.interrupts import DemoError
from provisioner.backends.contract import CACHE_KEY, OWNER_KEY

_REPOSITORY = "jenkins-provisioner-demo"
_TIMEOUT_S = 60
_OTHERWISE = "or run the demo without BACKEND=docker"
#: What the shell steps and the stand-in's agent use.
_PROGRAMS = ("sh", "sleep", "mkdir", "mv", "cat")
#: Needed beside what the agent's own modules import: for its zip file, and for names of hosts.
_MODULES = ("zipimport", "encodings.idna", "encodings.latin_1", "encodings.ascii")
_NAME_MODULES = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
for module in list(sys.modules.values()):
    for file in {getattr(module, "__file__", None), getattr(module, "__cached__", None)} - {None}:
        print(file)
"""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: An engine may still be at work on a request whose sender is gone.
_QUIET_LOOKS = 3
_LOOK_EVERY_S = 0.15
_CLEAR_S = 30.0


class Engine:
    """One engine of this machine.

    Args:
        endpoint: unix:///PATH.
        owner: the demo's id, which is on everything that it makes.
    """

    def __init__(self, endpoint: str, owner: str) -> None:
        self.endpoint = endpoint
        self._owner = owner
        self._tag = f"{_REPOSITORY}:{owner}"
        self._client: Any = None
        self._caches: set[str] = set()

    def connect(self) -> str:
        """Its version."""
        if not self.endpoint.startswith("unix://"):
            raise DemoError(
                f"the demo's controller listens on loopback only, and the engine is at {self.endpoint}; "
                f"set DOCKER_HOST to an engine of this machine, {_OTHERWISE}"
            )
        try:
            import docker  # noqa: PLC0415  (only where it is asked for)
        except ModuleNotFoundError as error:
            raise DemoError(f"the Python library `docker` is not installed; `make venv`, {_OTHERWISE}") from error
        try:
            self._client = docker.APIClient(base_url=self.endpoint, version="auto", timeout=_TIMEOUT_S)
            version = str(self._client.version()["Version"])
        except Exception as error:
            raise DemoError(
                f"no Docker engine answers at {self.endpoint} ({_short(error)}); start one, {_OTHERWISE}"
            ) from error
        self._caches = self._cache_volumes()
        return version

    def present(self, image: str) -> str:
        """The image, which must be there already."""
        try:
            self._client.inspect_image(image)
        except Exception as error:
            raise DemoError(
                f"there is no image {image} on the engine ({_short(error)}); name one with Java 17 and a shell "
                f"in DEMO_IMAGE, {_OTHERWISE}"
            ) from error
        return image

    def make_image(self, java: Path, base: str | None) -> str:
        """An image with a shell, Python and the stand-in's `java`: on a base image with Python, or from this machine.

        From this machine means without any registry: its own Python and a few programs, with their libraries.
        """
        setup = [f"ENV PATH={_PATH}", f"LABEL {OWNER_KEY}={self._owner}"]
        try:
            if base is None:
                self._client.import_image_from_data(
                    _archive_of_this_machine(java), repository=_REPOSITORY, tag=self._owner, changes=setup
                )
            else:
                self._derive(self.present(base), java)
            self._client.inspect_image(self._tag)
        except DemoError:
            raise
        except Exception as error:
            raise DemoError(f"the engine did not take the image for the agents: {_short(error)}") from error
        return self._tag

    def _derive(self, base: str, java: Path) -> None:
        made = self._client.create_container(base, command=["true"], labels={OWNER_KEY: self._owner})
        try:
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as tar:
                _add(tar, "usr/local/bin/java", java)
            self._client.put_archive(made["Id"], "/", packed.getvalue())
            self._client.commit(
                made["Id"], repository=_REPOSITORY, tag=self._owner, changes=[f"LABEL {OWNER_KEY}={self._owner}"]
            )
        finally:
            self._client.remove_container(made["Id"], force=True)

    def left(self) -> list[str]:
        """Everything with our label but the image, which is the demo's own."""
        own = {"label": f"{OWNER_KEY}={self._owner}"}
        return [
            *(f"container {one['Names'][0].lstrip('/')}" for one in self._client.containers(all=True, filters=own)),
            *(f"volume {one['Name']}" for one in self._client.volumes(filters=own)["Volumes"] or ()),
            *(f"network {one['Name']}" for one in self._client.networks(filters=own)),
        ]

    def clear(self) -> list[str]:
        """Remove whatever has our label, until it stays away; then the image and the volumes of agent.jar."""
        if self._client is None:
            return []
        own = {"label": f"{OWNER_KEY}={self._owner}"}
        quiet, deadline = 0, time.monotonic() + _CLEAR_S
        while quiet < _QUIET_LOOKS and time.monotonic() < deadline:
            quiet = 0 if self.left() else quiet + 1
            for one in self._client.containers(all=True, filters=own):
                self._gone(self._client.remove_container, one["Id"], force=True, v=True)
            for one in self._client.volumes(filters=own)["Volumes"] or ():
                self._gone(self._client.remove_volume, one["Name"])
            for one in self._client.networks(filters=own):
                self._gone(self._client.remove_network, one["Id"])
            time.sleep(_LOOK_EVERY_S)
        for volume in self._cache_volumes() - self._caches:
            self._gone(self._client.remove_volume, volume)
        if self._client.images(name=_REPOSITORY, filters=own):
            self._gone(self._client.remove_image, self._tag, force=True)
        left = self.left()
        self._client.close()
        self._client = None
        return left

    def _cache_volumes(self) -> set[str]:
        found = self._client.volumes(filters={"label": CACHE_KEY})["Volumes"] or ()
        return {one["Name"] for one in found}

    def _gone(self, remove: Any, *args: Any, **options: Any) -> None:
        """Remove one thing; what is gone already, or in somebody else's use, is left as it is."""
        from docker.errors import APIError  # noqa: PLC0415

        try:
            remove(*args, **options)
        except APIError as error:
            if error.status_code not in (404, 409):
                raise


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _archive_of_this_machine(java: Path) -> bytes:
    """A root file system: Python with its library, a shell, and the libraries that they are linked with."""
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    programs = {name: found for name in _PROGRAMS if (found := shutil.which(name))}
    modules = _modules(python, java.parent / "agent")
    extensions = [path for path in modules if path.suffix == ".so"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for folder in ("tmp", "etc", "root", "proc", "sys", "dev"):
            _add_folder(tar, folder)
        _add(tar, str(python).lstrip("/"), python)
        link = tarfile.TarInfo("usr/local/bin/python3")  # Python finds its library from where a link leads
        link.type, link.linkname = tarfile.SYMTYPE, str(python)
        tar.addfile(link)
        _add(tar, "usr/local/bin/java", java)
        for name, found in programs.items():
            _add(tar, f"bin/{name}", Path(found).resolve())
        for linked in _libraries([python, *(Path(p).resolve() for p in programs.values()), *extensions]):
            _add(tar, linked.lstrip("/"), Path(linked).resolve())
        for source in modules:
            _add(tar, str(source).lstrip("/"), source)
    return packed.getvalue()


def _modules(python: Path, agent: Path) -> list[Path]:
    """The files of Python's library that the stand-in's agent needs; its start is quick, so it takes few."""
    trees = [ast.parse(source.read_text()) for source in agent.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    own = {source.stem for source in agent.glob("*.py")}
    told = subprocess.run(
        [str(python), "-I", "-S", "-c", _NAME_MODULES, *_MODULES, *sorted(imported - own)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return sorted({path for line in told.stdout.splitlines() if (path := Path(line)).is_file()})


def _libraries(binaries: list[Path]) -> set[str]:
    """Where the loader finds what these are linked with, the loader included."""
    try:
        told = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False, timeout=30)
    except OSError as error:
        raise DemoError(
            "there is no `ldd` here to make an image from this machine; name an image with Python 3 and a shell: "
            "BACKEND=docker DEMO_IMAGE=python:3-slim make demo"
        ) from error
    return set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", told.stdout, flags=re.MULTILINE))


def _add(tar: tarfile.TarFile, name: str, source: Path) -> None:
    entry = tarfile.TarInfo(name)
    content = source.read_bytes()
    entry.size = len(content)
    entry.mode = 0o755 if os.access(source, os.X_OK) else 0o644
    entry.mtime = int(source.stat().st_mtime)  # the compiled modules beside it go by it
    tar.addfile(entry, io.BytesIO(content))


def _add_folder(tar: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE
    entry.mode = 0o1777 if name == "tmp" else 0o755
    tar.addfile(entry)
