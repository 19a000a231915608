"""`ssh: {server: injected}`: an SSH server for images without one, as a volume that all containers of an engine share.

It is `provisioner.sshd` with the Python that runs us, its standard library, the packages that the server loads, and
this machine's loader and C library. Nothing of the image is used: neither a shell, nor a list of users, nor a place
to write to.
"""

from __future__ import annotations

import hashlib
import json
import py_compile
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provisioner.backends.contract import Order
from provisioner.backends.docker.archive import Archive
from provisioner.backends.docker.container import SSHD_AT
from provisioner.backends.docker.relocated import Bringing, problem_of
from provisioner.backends.docker.shared import Shared, SharedVolumes

_LAYOUT = "2"  # to be raised when what is made of the same parts changes
_BRINGING = Bringing(key="`ssh: {server: injected}`", what="SSH server", instead="`ssh: {server: image}`")
_PROGRAM = f"{SSHD_AT}/sshd"
#: Parts of the standard library that no server needs; some want libraries that a small machine lacks.
_LEFT_OUT = frozenset(
    {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "distutils", "pydoc_data", "site-packages",
     "dist-packages", "__pycache__", "unittest", "sqlite3", "dbm", "curses", "venv"}
)  # fmt: skip
_START = "import sys\nfrom provisioner.sshd.__main__ import main\nsys.exit(main())\n"
#: Tells the files of all modules that the server loads.
_LOADED = (
    "import json, sys, provisioner.sshd.__main__; "
    "print(json.dumps(sorted({f for m in sys.modules.values() if (f := getattr(m, '__file__', None))})))"
)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What comes along, each from where to where below the volume."""

    python: Path
    libraries: tuple[Path, ...]
    files: tuple[tuple[Path, str], ...]
    loaded: frozenset[Path]  # the sources to be compiled beforehand
    digest: str


class SshServer:
    """The server as it is installed beside us; found out once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: _Parts | None = None

    def ensure(self, volumes: SharedVolumes, order: Order) -> Shared:
        """A volume that holds the server. Blocks, for seconds at the first time on an engine.

        Raises:
            RefusedError: the engine's own words.
            LaunchError: template_invalid, if this machine cannot bring it or the engine's machine is another;
                provider_unreachable, or another sidecar's filling does not end.
        """
        with self._lock:
            if self._parts is None:
                self._parts = _find()
            parts = self._parts
        shared = Shared(name=f"jenkins-provisioner-sshd-{parts.digest[:32]}", kind="sshd", at=SSHD_AT, slow=True)
        return _BRINGING.volume(volumes, order, shared, lambda: _pack(parts))


def problem() -> str | None:
    """What keeps us from bringing an SSH server; None: nothing."""
    return problem_of(_find)


def _find() -> _Parts:
    loaded = [Path(file) for file in json.loads(_BRINGING.run(sys.executable, "-I", "-c", _LOADED))]
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    files = [*_standard(standard), *_packages(loaded)]
    python = Path(sys.executable).resolve()
    objects = [python, *(file for file, _ in files if file.suffix == ".so" and _is_needed(file, loaded))]
    libraries = _BRINGING.libraries(python, objects, search="", within=Path("/nonexistent"))
    needed = tuple((file, at) for file, at in files if file.suffix != ".so" or _is_needed(file, loaded))
    digest = hashlib.sha256(f"{_LAYOUT} {sys.version} {SSHD_AT}".encode())
    for file in (*libraries, *(file for file in loaded if standard not in file.parents)):
        digest.update(file.read_bytes())
    return _Parts(python, libraries, needed, frozenset(loaded), digest.hexdigest())


def _is_needed(file: Path, loaded: list[Path]) -> bool:
    """Of the compiled modules those that are loaded, as each may want a library of its own."""
    return file in loaded


def _standard(standard: Path) -> Iterator[tuple[Path, str]]:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for file in sorted(standard.rglob("*")):
        below = file.relative_to(standard)
        if file.is_file() and file.suffix in (".py", ".so") and not _LEFT_OUT.intersection(below.parts):
            yield file, f"lib/python{version}/{below}"


def _packages(loaded: list[Path]) -> Iterator[tuple[Path, str]]:
    """Every package of which anything is loaded, whole; of ourselves only the server."""
    ours = Path(__file__).parents[2]
    places = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    for place in places:
        for top in sorted({place / file.relative_to(place).parts[0] for file in loaded if place in file.parents}):
            if top == ours:
                continue
            for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if file.is_file() and file.suffix in (".py", ".so"):
                    yield file, f"sshd/{file.relative_to(place)}"
    for file in [ours / "__init__.py", *sorted((ours / "sshd").glob("*.py"))]:
        yield file, f"sshd/{ours.name}/{file.relative_to(ours)}"


def _pack(parts: _Parts) -> bytes:
    archive = Archive()
    loader = f"{SSHD_AT}/lib/{parts.libraries[0].name}"
    python = _BRINGING.relocated(parts.python, loader=loader, libraries=f"{SSHD_AT}/lib")
    archive.file(f"{SSHD_AT}/bin/python", python, uid=0, mode=0o555)
    for library in parts.libraries:
        archive.file(f"{SSHD_AT}/lib/{library.name}", _BRINGING.unbound(library), uid=0, mode=0o555)
    archive.file(f"{_PROGRAM}/__main__.py", _START.encode(), uid=0, mode=0o444)
    with tempfile.TemporaryDirectory(prefix="jenkins-provisioner-sshd-") as folder:
        for file, at in parts.files:
            content = _BRINGING.unbound(file) if file.suffix == ".so" else file.read_bytes()
            archive.file(f"{SSHD_AT}/{at}", content, uid=0, mode=0o555 if file.suffix == ".so" else 0o444)
            if file in parts.loaded and file.suffix == ".py":
                compiled = Path(folder) / "compiled"
                # valid whatever the dates of the files become; the folder is read-only and cannot keep any made later
                mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
                py_compile.compile(str(file), str(compiled), f"{SSHD_AT}/{at}", doraise=True, invalidation_mode=mode)
                place = Path(at)
                name = f"{place.stem}.{sys.implementation.cache_tag}.pyc"
                archive.file(f"{SSHD_AT}/{place.parent}/__pycache__/{name}", compiled.read_bytes(), uid=0, mode=0o444)
    return archive.content()
