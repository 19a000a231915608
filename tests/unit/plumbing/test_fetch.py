"""The downloader of the real Jenkins against a server that breaks, lies and lacks files."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.plumbing.plumbing_site import Site, load

if TYPE_CHECKING:
    from types import ModuleType

fetching: ModuleType = load("jenkins-test/fetch.py")

WAR = b"a war file\n" * 5000


def hpi(*, needs: str = "", core: str = "2.500.1") -> bytes:
    lines = f"Manifest-Version: 1.0\r\nJenkins-Version: {core}\r\n"
    if needs:
        long = f"Plugin-Dependencies: {needs}"
        lines += long[:72] + "".join(f"\r\n {long[at : at + 71]}" for at in range(72, len(long), 71)) + "\r\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        # of a time of its own: the same bytes whenever it is made
        archive.writestr(zipfile.ZipInfo("META-INF/MANIFEST.MF"), lines + "\r\n")
    return packed.getvalue()


def put(site: Site, tmp_path: Path, plugins: dict[str, tuple[str, bytes]], war: bytes = WAR) -> Any:
    """Fill the mirror and return the pins that fit to it."""
    site.files["/war-stable/2.528.3/jenkins.war"] = war
    pins = f'[core]\nversion = "2.528.3"\nsha256 = "{hashlib.sha256(war).hexdigest()}"\n[plugins]\n'
    for name, (version, content) in plugins.items():
        site.files[f"/plugins/{name}/{version}/{name}.hpi"] = content
        pins += f'{name} = {{ version = "{version}", sha256 = "{hashlib.sha256(content).hexdigest()}" }}\n'
    file = tmp_path / "pins.toml"
    file.write_text(pins)
    return fetching.read_pins(file)


def fetch(pins: Any, cache: Path, site: Site, mirror: str | None = None) -> list[str]:
    said: list[str] = []
    fetching.fetch(pins, cache, mirror=mirror or site.url, say=said.append, retry_wait_s=0)
    return said


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_war_and_plugins_arrive_and_a_second_run_asks_for_nothing(site: Site, tmp_path: Path, cache: Path) -> None:
    pins = put(site, tmp_path, {"structs": ("362.va_b", hpi())})
    fetch(pins, cache, site)
    assert (cache / "jenkins.war").read_bytes() == WAR
    assert (cache / "plugins" / "structs.jpi").read_bytes() == hpi()
    assert not list(cache.rglob("*.part"))
    site.requests.clear()
    fetch(pins, cache, site)
    assert site.requests == []


def test_a_broken_download_goes_on_where_it_stopped(site: Site, tmp_path: Path, cache: Path) -> None:
    pins = put(site, tmp_path, {})
    site.break_after["/war-stable/2.528.3/jenkins.war"] = [20_000, 10_000]
    fetch(pins, cache, site)
    assert (cache / "jenkins.war").read_bytes() == WAR
    assert [wanted for _, wanted in site.requests] == [None, "bytes=20000-", "bytes=30000-"]


def test_a_later_run_goes_on_after_all_attempts_broke(site: Site, tmp_path: Path, cache: Path) -> None:
    pins = put(site, tmp_path, {})
    site.break_after["/war-stable/2.528.3/jenkins.war"] = [10_000] * fetching.ATTEMPTS
    with pytest.raises(fetching.FetchError, match=r"jenkins.war 2\.528\.3: .*run it again to go on"):
        fetch(pins, cache, site)
    assert not (cache / "jenkins.war").exists()
    fetch(pins, cache, site)
    assert site.requests[-1][1] == f"bytes={10_000 * fetching.ATTEMPTS}-"


def test_a_mirror_that_cannot_continue_sends_it_whole(site: Site, tmp_path: Path, cache: Path) -> None:
    pins = put(site, tmp_path, {})
    site.ranges = False
    site.break_after["/war-stable/2.528.3/jenkins.war"] = [20_000]
    fetch(pins, cache, site)
    assert (cache / "jenkins.war").read_bytes() == WAR


def test_a_part_longer_than_the_file_is_begun_again(site: Site, tmp_path: Path, cache: Path) -> None:
    pins = put(site, tmp_path, {})
    (cache / "plugins").mkdir(parents=True)
    (cache / f".jenkins.war.{pins.core.sha256[:12]}.part").write_bytes(WAR + b"x")
    fetch(pins, cache, site)
    assert (cache / "jenkins.war").read_bytes() == WAR


def test_another_content_is_refused_and_thrown_away(site: Site, tmp_path: Path, cache: Path) -> None:
    pins = put(site, tmp_path, {})
    site.files["/war-stable/2.528.3/jenkins.war"] = WAR[:-1] + b"!"
    with pytest.raises(fetching.FetchError, match="the checksum is"):
        fetch(pins, cache, site)
    assert not (cache / "jenkins.war").exists()
    assert not list(cache.rglob("*.part"))


def test_a_missing_file_is_named_and_the_others_still_arrive(site: Site, tmp_path: Path, cache: Path) -> None:
    pins = put(site, tmp_path, {"structs": ("362", hpi()), "variant": ("70", hpi(core="2.400"))})
    del site.files["/plugins/structs/362/structs.hpi"]
    with pytest.raises(fetching.FetchError, match="structs 362: the mirror does not have it"):
        fetch(pins, cache, site)
    assert (cache / "plugins" / "variant.jpi").exists()


def test_the_proxy_of_the_environment_is_used(
    site: Site, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = put(site, tmp_path, {})
    monkeypatch.setenv("http_proxy", site.url)
    fetch(pins, cache, site, mirror="http://mirror.invalid/")
    assert site.requests == [("http://mirror.invalid/war-stable/2.528.3/jenkins.war", None)]


@pytest.mark.parametrize("name", ["jenkins.war", "plugins/mine.jpi", "plugins/structs.jpi"])
def test_a_file_of_somebody_else_is_left_alone(site: Site, tmp_path: Path, cache: Path, name: str) -> None:
    pins = put(site, tmp_path, {"structs": ("362", hpi())})
    (cache / "plugins").mkdir(parents=True)
    (cache / name).write_bytes(b"made by hand")
    with pytest.raises(fetching.FetchError, match=f"did not put there \\({name}\\)"):
        fetch(pins, cache, site)
    assert (cache / name).read_bytes() == b"made by hand"
    assert site.requests == []


def test_new_pins_replace_what_the_old_ones_brought(site: Site, tmp_path: Path, cache: Path) -> None:
    fetch(put(site, tmp_path, {"structs": ("1", hpi()), "old": ("1", hpi(core="2.1"))}), cache, site)
    newer = hpi(core="2.528.3")
    fetch(put(site, tmp_path, {"structs": ("2", newer)}, war=WAR * 2), cache, site)
    assert (cache / "jenkins.war").read_bytes() == WAR * 2
    assert (cache / "plugins" / "structs.jpi").read_bytes() == newer
    assert not (cache / "plugins" / "old.jpi").exists()
    assert set(json.loads((cache / fetching.RECORD).read_text())) == {"jenkins.war", "plugins/structs.jpi"}


def test_plugins_that_do_not_fit_together_are_named(site: Site, tmp_path: Path, cache: Path) -> None:
    needs = "structs:363.vb,absent:1.0,extra:1;resolution:=optional,variant:60.v72,credentials:1000.very_long_version"
    pins = put(
        site,
        tmp_path,
        {
            "a": ("1", hpi(needs=needs)),
            "structs": ("362.va", hpi(core="2.541.1")),
            "variant": ("70.va", hpi()),
            "credentials": ("1480.v22", hpi()),
        },
    )
    with pytest.raises(fetching.FetchError) as failed:
        fetch(pins, cache, site)
    assert str(failed.value).splitlines()[1:] == [
        "a 1 needs structs 363.vb, pinned is 362.va",
        "a 1 needs absent 1.0, which is not pinned",
        "structs 362.va needs Jenkins 2.541.1, pinned is 2.528.3",
    ]


def test_the_pins_of_the_project_are_whole() -> None:
    pins = fetching.read_pins()
    assert all(len(bytes.fromhex(wanted.sha256)) == 32 for wanted in pins)
    assert len({wanted.sha256 for wanted in pins}) == len(list(pins))
    names = {plugin.name for plugin in pins.plugins}
    assert {"workflow-aggregator", "ssh-slaves", "configuration-as-code", "matrix-project"} <= names
