"""What a container with a read-only root can still write to."""

from __future__ import annotations

import pytest

from provisioner.backends.contract import Order, SecretFile
from provisioner.backends.docker.container import body
from provisioner.backends.docker.read_only import MEMORY_OPTIONS, writable


def order(*links: str, root: str = "/home/jenkins/agent", **template: object) -> Order:
    files = tuple(SecretFile(name=f"{i}", content=b"x", at=at) for i, at in enumerate(links))
    return Order(
        agent="a-1", owner="o", image="i", command=("x",), remote_fs=root, files=files, template=dict(template)
    )


@pytest.mark.parametrize(
    ("asked", "mounted", "on_disk", "in_memory"),
    [
        (order(), [], ("/home/jenkins/agent",), ("/tmp", "/run")),
        (order(tmpfs=["/var/cache", "/run"]), [], ("/home/jenkins/agent",), ("/tmp", "/run", "/var/cache")),
        # the folder of a link, once, and not where it is in a volume anyway
        (order("/etc/app/a", "/etc/app/b"), [], ("/home/jenkins/agent", "/etc/app"), ("/tmp", "/run")),
        (order("/home/jenkins/agent/.m2/settings.xml"), [], ("/home/jenkins/agent",), ("/tmp", "/run")),
        (order("/c/x/file"), ["/c"], ("/home/jenkins/agent",), ("/tmp", "/run")),
        (order("/a/x", "/a/b/y"), [], ("/home/jenkins/agent", "/a"), ("/tmp", "/run")),
        # what is in memory is mounted too late for a link
        (order("/tmp/x"), [], ("/home/jenkins/agent", "/tmp"), ("/run",)),
        (order("/run/secrets/x"), [], ("/home/jenkins/agent", "/run/secrets"), ("/tmp", "/run")),
        (order("/w/cache/x", root="/w", tmpfs=["/w/cache"]), [], ("/w", "/w/cache"), ("/tmp", "/run")),
        # one mount for one place
        (order(root="/w/"), ["/w"], (), ("/tmp", "/run")),
        (order(root="/tmp"), [], ("/tmp",), ("/run",)),
    ],
)
def test_folders_that_can_be_written(
    asked: Order, mounted: list[str], on_disk: tuple[str, ...], in_memory: tuple[str, ...]
) -> None:
    assert writable(asked, mounted) == (on_disk, in_memory)


def test_container_is_made_with_them() -> None:
    asked = order("/etc/app/a", read_only=True, volumes=[{"cache": "c", "at": "/c"}])
    host = body(asked, java=["java"], network=None, runtime=None, shared=[])["HostConfig"]
    assert isinstance(host, dict)
    assert host["ReadonlyRootfs"] is True
    assert host["Tmpfs"] == {"/tmp": MEMORY_OPTIONS, "/run": MEMORY_OPTIONS}
    volumes = {mount["Target"]: mount for mount in host["Mounts"]}
    assert list(volumes) == ["/run/jenkins-provisioner", "/c", "/home/jenkins/agent", "/etc/app"]
    own = volumes["/home/jenkins/agent"]
    assert "Source" not in own, "it goes with the container"
    assert own["VolumeOptions"]["Labels"] == {"jenkins-provisioner.owner": "o", "jenkins-provisioner.agent": "a-1"}
    assert own["VolumeOptions"]["NoCopy"] is False


def test_without_the_key_nothing_changes() -> None:
    host = body(order("/etc/app/a"), java=["java"], network=None, runtime=None, shared=[])["HostConfig"]
    assert isinstance(host, dict)
    assert "ReadonlyRootfs" not in host
    assert "Tmpfs" not in host
    assert [mount["Target"] for mount in host["Mounts"]] == ["/run/jenkins-provisioner"]
