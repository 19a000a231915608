"""Make the virtual environment: the locked packages, every file checked by its hash, and this project.

    python3 tools/make_venv.py DIR

Debian's python3 comes without ensurepip and pip; then pip itself is brought from the package index, in the
one version pinned here. Which index, which proxy and which certificates: the environment says, as for pip
(PIP_INDEX_URL, https_proxy, PIP_CERT). The standard library is enough, and old Pythons can read this file.
"""

import base64
import hashlib
import html.parser
import importlib.util
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

OLDEST = (3, 11)
PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
TIMEOUT_S = 60.0
ROOT = Path(__file__).resolve().parent.parent
#: In the order of installation: what builds source packages comes before the first of them.
LOCKS = ("build.lock", "dev.lock")
STAMP = ".installed"


class _Links(html.parser.HTMLParser):
    """The addresses on a page of the simple index."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: "list[tuple[str, str | None]]") -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _open(url: str) -> bytes:
    """Read an address; a user name and password in it are sent as basic authentication."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
    if parts.username:
        login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as reply:
        content: bytes = reply.read()
        return content


def fetch_pip(index: str, folder: Path) -> Path:
    """Download the pinned wheel of pip and check it.

    Raises:
        SystemExit: the index does not answer, does not have it, or has something else under its name.
    """
    page = index.rstrip("/") + "/pip/"
    shown = urllib.parse.urlsplit(page).hostname or page  # never the address: it may hold a password
    links = _Links()
    try:
        links.feed(_open(page).decode())
        for link in links.found:
            url = urllib.parse.urldefrag(urllib.parse.urljoin(page, link))[0]
            if url.rpartition("/")[2] == PIP_WHEEL:
                content = _open(url)
                break
        else:
            sys.exit(f"pip cannot be installed: {shown} does not have {PIP_WHEEL}")
    except OSError as error:  # urllib's errors are of this kind
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        sys.exit(
            f"pip cannot be installed: {shown}: {getattr(error, 'reason', error)}. Set PIP_INDEX_URL and "
            f"https_proxy as your network needs them, or install the python3-venv package"
        )
    got = hashlib.sha256(content).hexdigest()
    if got != PIP_SHA256:
        sys.exit(f"pip cannot be installed: {PIP_WHEEL} from {shown} has the checksum {got}, expected {PIP_SHA256}")
    wheel = folder / PIP_WHEEL
    wheel.write_bytes(content)
    return wheel


def _works(python: Path) -> bool:
    """Whether the environment is there, of a Python that still exists, with a pip."""
    if not python.exists():
        return False
    asked = [str(python), "-c", f"import pip, sys; sys.exit(sys.version_info < {OLDEST})"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def _create(venv: Path) -> None:
    if importlib.util.find_spec("venv") is None:
        sys.exit(f"{sys.executable} has no venv module; on Debian and Ubuntu install python3, not python3-minimal")
    shutil.rmtree(venv, ignore_errors=True)
    bare = importlib.util.find_spec("ensurepip") is None
    options = ["--without-pip"] if bare else []
    subprocess.run([sys.executable, "-m", "venv", *options, str(venv)], check=True)
    if bare:
        with tempfile.TemporaryDirectory() as folder:
            index = os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
            wheel = fetch_pip(index, Path(folder))
            # a wheel is a zip file that Python can run: pip installs itself
            install = [str(venv / "bin" / "python"), f"{wheel}/pip", "install", "-q", "--no-index", str(wheel)]
            subprocess.run(install, check=True)


def main() -> None:
    if sys.version_info < OLDEST:
        sys.exit(
            f"{sys.executable} is Python {sys.version_info.major}.{sys.version_info.minor}; this project needs "
            f"{OLDEST[0]}.{OLDEST[1]} or newer. Name one: make PYTHON=/path/to/python3.11 …"
        )
    if len(sys.argv) != 2:
        sys.exit("usage: make_venv.py DIR")
    venv = Path(sys.argv[1]).resolve()
    python = venv / "bin" / "python"
    (venv / STAMP).unlink(missing_ok=True)
    if not _works(python):
        print(f"making {venv.name}", flush=True)
        _create(venv)
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-build-isolation"]
    if os.geteuid() == 0:
        pip.append("--root-user-action=ignore")
    for lock in LOCKS:
        print(f"installing requirements/{lock}", flush=True)
        subprocess.run([*pip, "--require-hashes", "-r", str(ROOT / "requirements" / lock)], check=True)
    subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)
    (venv / STAMP).touch()


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(f"{' '.join(map(str, failed.cmd[:4]))} … ended with status {failed.returncode}")
