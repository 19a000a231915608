"""Download a real Jenkins: the LTS war and the plugins of pins.toml, each checked against its SHA-256.

    python jenkins-test/fetch.py [--cache DIR] [--mirror URL]

They go to ~/.cache/jenkins-provisioner/ (jenkins.war, plugins/NAME.jpi), where the tests look for them.
A broken download is taken up where it stopped. What is in the folder and did not come from here is never
touched. Proxies come from the environment (https_proxy, no_proxy). The standard library is enough.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path

CACHE = Path.home() / ".cache" / "jenkins-provisioner"
MIRROR = "https://get.jenkins.io/"
PINS = Path(__file__).with_name("pins.toml")
#: What this program put into the cache: {path: checksum}. Other files there belong to somebody else.
RECORD = "fetched.json"
TIMEOUT_S = 60.0
ATTEMPTS = 4
PARALLEL = 4
BLOCK_BYTES = 1 << 20


class FetchError(Exception):
    """Something that the person has to decide or repair; the message says what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One pinned file: where it is below the mirror and where it goes below the cache."""

    name: str
    version: str
    sha256: str
    source: str
    target: str

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pins:
    """The war and its plugins."""

    core: Wanted
    plugins: tuple[Wanted, ...]

    def __iter__(self) -> Iterator[Wanted]:
        yield self.core
        yield from self.plugins


def read_pins(path: Path = PINS) -> Pins:
    data = tomllib.loads(path.read_text())
    core = data["core"]
    version = core["version"]
    return Pins(
        core=Wanted(
            name="jenkins.war",
            version=version,
            sha256=core["sha256"],
            source=f"war-stable/{version}/jenkins.war",
            target="jenkins.war",
        ),
        plugins=tuple(
            Wanted(
                name=name,
                version=pin["version"],
                sha256=pin["sha256"],
                source=f"plugins/{name}/{pin['version']}/{name}.hpi",
                target=f"plugins/{name}.jpi",
            )
            for name, pin in data["plugins"].items()
        ),
    )


def fetch(
    pins: Pins,
    cache: Path,
    *,
    mirror: str = MIRROR,
    say: Callable[[str], None] = print,
    retry_wait_s: float = 2.0,
) -> None:
    """Bring the cache to exactly these pins; what is there already is only checked.

    Raises:
        FetchError: a foreign file is in the way, a download failed, or the plugins do not fit together.
    """
    (cache / "plugins").mkdir(parents=True, exist_ok=True)
    record = _read_record(cache)
    _refuse_foreign(pins, cache, record)
    missing = [wanted for wanted in pins if _sha256(cache / wanted.target) != wanted.sha256]
    say(f"{len(list(pins)) - len(missing)} of {len(list(pins))} files are there; downloading {len(missing)}")

    def bring(wanted: Wanted) -> Wanted:
        _download(wanted, cache, mirror=mirror, retry_wait_s=retry_wait_s)
        return wanted

    problems: list[str] = []
    with ThreadPoolExecutor(PARALLEL) as pool:
        for wanted, done in [(wanted, pool.submit(bring, wanted)) for wanted in missing]:
            try:
                done.result()
            except FetchError as error:
                problems.append(str(error))
                continue
            record[wanted.target] = wanted.sha256
            _write_record(cache, record)  # after each file: an interrupted run knows what is its own
            say(f"  {wanted.label}")
    if problems:
        raise FetchError("\n".join(problems))
    _drop_stale(pins, cache, record)
    problems = misfits(pins, cache)
    if problems:
        raise FetchError("\n".join(["the pinned plugins do not fit together:", *problems]))


def _refuse_foreign(pins: Pins, cache: Path, record: dict[str, str]) -> None:
    expected = {wanted.target: wanted.sha256 for wanted in pins}
    found = [cache / "jenkins.war", *sorted((cache / "plugins").glob("*.[jh]pi"))]
    foreign = []
    for path in found:
        name = path.relative_to(cache).as_posix()
        if path.exists() and _sha256(path) not in {expected.get(name), record.get(name)}:
            foreign.append(name)
    if foreign:
        raise FetchError(
            f"{cache} holds files that this program did not put there ({', '.join(foreign[:3])}"
            f"{f' and {len(foreign) - 3} more' if len(foreign) > 3 else ''}); they are left alone. "
            f"Use them as they are, or choose another folder with --cache DIR and point JENKINS_WAR and "
            f"JENKINS_PLUGINS_DIR at it"
        )


def _drop_stale(pins: Pins, cache: Path, record: dict[str, str]) -> None:
    """Remove what an earlier version of the pins brought."""
    wanted = {file.target for file in pins}
    for name in [name for name in record if name not in wanted]:
        (cache / name).unlink(missing_ok=True)
        del record[name]
    _write_record(cache, record)


def _download(wanted: Wanted, cache: Path, *, mirror: str, retry_wait_s: float) -> None:
    url = mirror.rstrip("/") + "/" + urllib.parse.quote(wanted.source)
    target = cache / wanted.target
    part = target.with_name(f".{target.name}.{wanted.sha256[:12]}.part")
    why = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(retry_wait_s * attempt)
        try:
            _continue(url, part)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise FetchError(
                    f"{wanted.label}: the mirror does not have it (404, {url}); try another --mirror, or check the pin"
                ) from error
            if error.code == 416:  # the part is longer than the file: it is not a part of it
                part.unlink(missing_ok=True)
            why = f"HTTP {error.code}"
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
    else:
        raise FetchError(f"{wanted.label}: {why} ({url}, {ATTEMPTS} attempts); run it again to go on where it stopped")
    got = _sha256(part)
    if got != wanted.sha256:
        part.unlink()
        raise FetchError(
            f"{wanted.label}: the checksum is {got}, pinned is {wanted.sha256} ({url}); the download was thrown away"
        )
    part.replace(target)


def _continue(url: str, part: Path) -> None:
    """Read the rest of a file behind what is there.

    Raises:
        OSError, http.client.HTTPException: it broke; what came is kept.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    opener = urllib.request.build_opener()  # not urlopen's, which remembers the first proxy it saw
    with opener.open(request, timeout=TIMEOUT_S) as reply:
        resumed = reply.status == http.HTTPStatus.PARTIAL_CONTENT
        with part.open("ab" if resumed else "wb") as out:
            length = reply.headers.get("Content-Length")
            came = 0
            while block := reply.read(BLOCK_BYTES):
                out.write(block)
                came += len(block)
    # read(n) ends without an error when the peer closes too early
    if length is not None and came < int(length):
        raise OSError(f"the connection closed after {came} of {length} bytes")


def misfits(pins: Pins, cache: Path) -> list[str]:
    """What the plugins' own manifests ask for and this set does not give."""
    versions = {plugin.name: plugin.version for plugin in pins.plugins}
    found = []
    for plugin in pins.plugins:
        with zipfile.ZipFile(cache / plugin.target) as archive:
            manifest = BytesParser().parsebytes(archive.read("META-INF/MANIFEST.MF"))
        core = _unfold(manifest["Jenkins-Version"])
        if core and _older(pins.core.version, core):
            found.append(f"{plugin.label} needs Jenkins {core}, pinned is {pins.core.version}")
        for need in filter(None, _unfold(manifest["Plugin-Dependencies"]).split(",")):
            name, _, version = need.partition(";")[0].partition(":")
            if "resolution:=optional" in need:
                continue
            if name not in versions:
                found.append(f"{plugin.label} needs {name} {version}, which is not pinned")
            elif _older(versions[name], version):
                found.append(f"{plugin.label} needs {name} {version}, pinned is {versions[name]}")
    return found


def _unfold(value: str | None) -> str:
    """Manifest lines are cut after 72 bytes, wherever that is."""
    return (value or "").replace("\r\n ", "").replace("\n ", "")


def _older(left: str, right: str) -> bool:
    """Whether a version is older; only the leading numbers count, the rest is a commit's name."""
    return _numbers(left) < _numbers(right)


def _numbers(version: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for piece in version.replace("-", ".").split("."):
        if not piece.isdigit():
            break
        numbers.append(int(piece))
    return tuple(numbers)


def _read_record(cache: Path) -> dict[str, str]:
    try:
        record: dict[str, str] = json.loads((cache / RECORD).read_text())
    except FileNotFoundError:
        return {}
    return record


def _write_record(cache: Path, record: dict[str, str]) -> None:
    part = cache / f".{RECORD}.part"
    part.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    part.replace(cache / RECORD)


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Download a real Jenkins for the tests.")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where to put it (default: %(default)s)")
    parser.add_argument(
        "--mirror",
        default=os.environ.get("JENKINS_MIRROR", MIRROR),
        help="a site laid out like %(default)s; also $JENKINS_MIRROR",
    )
    options = parser.parse_args(arguments)
    try:
        fetch(read_pins(), options.cache.resolve(), mirror=options.mirror)
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"ready: JENKINS_WAR={options.cache}/jenkins.war JENKINS_PLUGINS_DIR={options.cache}/plugins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
