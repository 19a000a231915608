"""What is put into a container before it starts: secrets, folders with their owners, jars of earlier agents."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath

from provisioner.backends.contract import Order
from provisioner.backends.docker.archive import Archive, first_file
from provisioner.backends.docker.container import SECRETS_AT, caches, workspace_at
from provisioner.backends.docker.engine import Engine, RefusedError, name
from provisioner.backends.docker.fetched import GIVEN_MTIME
from provisioner.backends.docker.images import Images
from provisioner.backends.docker.read_only import is_read_only
from provisioner.backends.docker.removal import remove_container


class Filling:
    """Fills the containers of one engine.

    Args:
        engine: where.
        images: what is known of its images.
    """

    def __init__(self, *, engine: Engine, images: Images) -> None:
        self._engine = engine
        self._images = images
        self._uids: dict[tuple[str, str], int | None] = {}
        self._there: dict[tuple[str, str], bool] = {}  # folders of an image
        self._lock = threading.Lock()

    def fill(
        self,
        order: Order,
        container: str,
        labels: Mapping[str, str],
        *,
        jars: Mapping[str, bytes],
        folders: Iterable[str] = (),
    ) -> None:
        """Put in all that a container gets; it has been made and not started.

        Args:
            order: what was asked for.
            container: its id.
            labels: the marks of whatever has to be made for that.
            jars: what earlier agents fetched, by the path below the folder of jars.
            folders: below the work folder, to be made for the agent.

        Raises:
            RefusedError: the engine's own words.
        """
        archive = self._archive(order, container, labels, jars, folders)
        if not is_read_only(order):
            self._put(container, archive)
            return
        # the engine puts nothing at the root of such a container, so another one with its volumes is filled instead;
        # one by name, since the engine forgets who has the others: while this one is in use, `stop` looks for us
        secrets = {"Type": "volume", "Source": order.agent, "Target": SECRETS_AT, "VolumeOptions": {"NoCopy": True}}
        with self._aside(order.image or "", labels, {"VolumesFrom": [container], "Mounts": [secrets]}) as filler:
            self._put(filler, archive)

    def _put(self, container: str, archive: bytes) -> None:
        self._engine.call("PUT", f"/containers/{container}/archive", query={"path": "/"}, archive=archive)

    @contextmanager
    def _aside(self, image: str, labels: Mapping[str, str], host: Mapping[str, object]) -> Iterator[str]:
        """A container that is never started, for the time of the block."""
        body = {"Image": image, "Entrypoint": ["never-started"], "Labels": dict(labels)}
        body["HostConfig"] = {"NetworkMode": "none", **host}
        made = self._engine.call("POST", "/containers/create", body=body).json()
        container = str(made["Id"]) if isinstance(made, Mapping) else ""
        try:
            yield container
        finally:
            remove_container(self._engine, container)  # volumes that another container has, too, stay

    def _archive(
        self,
        order: Order,
        container: str,
        labels: Mapping[str, str],
        jars: Mapping[str, bytes],
        folders: Iterable[str],
    ) -> bytes:
        """All that a container gets, to be unpacked below `/`."""
        server, _, _ = (order.run_as or self._image_user(order)).partition(":")
        user, _, group = (order.work_as or order.run_as or self._image_user(order)).partition(":")
        uid, server_uid = self._uid(order, container, user), self._uid(order, container, server)
        gid = int(group) if group.isdigit() else 0
        # without its number the user cannot own anything; nobody else is in this container
        open_to, folder_mode = (0o444, 0o777) if uid is None else (0o400, 0o755)
        archive = Archive()
        for file in order.files:
            owner, mode = (server_uid or 0, 0o400) if file.of_server and order.work_as else (uid or 0, open_to)
            archive.file(f"{SECRETS_AT}/{file.name}", file.content, uid=owner, mode=0o444 if file.public else mode)
        linked = {file.at: f"{SECRETS_AT}/{file.name}" for file in order.files if file.at}
        inside = [*(cache.at for cache in caches(order)), *([workspace_at(order)] if order.workspace_of else [])]
        above = self._missing_above([*linked, *inside], order, labels)
        for folder in dict.fromkeys([*above, *inside, order.remote_fs]):
            archive.folder(folder, uid=uid or 0, gid=gid, mode=folder_mode)
        for at, target in linked.items():
            archive.link(at, target, uid=uid or 0, gid=gid)
        wanted = {*folders, *(f"{order.jars_at}/{path.partition('/')[0]}" for path in jars)}
        for folder in _below(order.remote_fs, wanted):
            archive.folder(folder, uid=uid or 0, gid=gid, mode=folder_mode)
        for path, content in jars.items():
            mode = 0o666 if uid is None else 0o644
            archive.file(f"{order.jars_at}/{path}", content, uid=uid or 0, gid=gid, mode=mode, mtime=GIVEN_MTIME)
        return archive.content()

    def _missing_above(self, paths: Iterable[str], order: Order, labels: Mapping[str, str]) -> list[str]:
        """The folders above these that the image lacks; the engine would make them for root alone."""
        wanted = {str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"/"}
        if not wanted:
            return []
        known = self._images.known(order.image or "")
        image = known.id if known else order.image or ""
        with self._lock:
            new = sorted(path for path in wanted if (image, path) not in self._there)
            if new:
                self._there |= {(image, path): found for path, found in self._look_for(new, image, labels).items()}
            return sorted(path for path in wanted if not self._there[(image, path)])

    def _look_for(self, paths: Iterable[str], image: str, labels: Mapping[str, str]) -> dict[str, bool]:
        """Which folders an image has. A container with mounts would show those of the mounts, too."""
        with self._aside(image, labels, {}) as looker:
            return {path: self._has(looker, path) for path in paths}

    def _has(self, container: str, path: str) -> bool:
        try:
            self._engine.call("HEAD", f"/containers/{name(container)}/archive", query={"path": path})
        except RefusedError as refused:
            if refused.code == 404:
                return False
            raise
        return True

    def _image_user(self, order: Order) -> str:
        known = self._images.known(order.image or "")
        return known.user if known else ""

    def _uid(self, order: Order, container: str, user: str) -> int | None:
        """The number of a user; a name is looked up in the image once. None if the image does not know it."""
        if user.isdigit() or not user:
            return int(user or 0)
        known = self._images.known(order.image or "")
        key = (known.id if known else order.image or "", user)
        with self._lock:
            if key in self._uids:
                return self._uids[key]
        uid = self._look_up(container, user)
        with self._lock:
            self._uids[key] = uid
        return uid

    def _look_up(self, container: str, user: str) -> int | None:
        try:
            packed = self._engine.call("GET", f"/containers/{container}/archive", query={"path": "/etc/passwd"}).content
        except RefusedError as refused:
            if refused.code == 404:
                return None
            raise
        for line in first_file(packed).decode(errors="replace").splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[0] == user and fields[2].isdigit():
                return int(fields[2])
        return None


def _below(top: str, folders: Iterable[str]) -> list[str]:
    """These folders and those between them and the top, from above."""
    root = PurePosixPath(top)
    found = {one for folder in folders for one in (PurePosixPath(folder), *PurePosixPath(folder).parents)}
    return sorted(str(one) for one in found if root in one.parents)
