"""The tiers of the suite: what each needs, which of them this machine can run, and what became of them.

A test belongs to the most demanding tier that it is marked with, and is skipped, with the reason, when the
machine lacks what any of its marks needs. The same reasons fill the closing table.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

CACHE = Path.home() / ".cache" / "jenkins-provisioner"
IMAGES = ("jenkins-provisioner-test/busybox:latest", "jenkins-provisioner-test/agent:latest")
ENGINE_TIMEOUT_S = 10
SECOND_ATTEMPTS = 2
#: Tiers whose tests meet a program that is not ours, with races of its own.
REAL = {"docker", "jenkins"}


def _nothing() -> str | None:
    return None


@cache
def _docker_lacks() -> str | None:
    # the client leaves a socket open when it finds no engine; its warning must not hit some test later
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        lacks = _ask_engine()
        gc.collect()
    return lacks


def _ask_engine() -> str | None:
    import docker
    from docker.errors import DockerException, ImageNotFound

    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        client = docker.from_env(timeout=ENGINE_TIMEOUT_S)
    except DockerException as error:
        return f"no Docker engine at {where}: {_innermost(error)}"
    try:
        client.ping()
        for image in IMAGES:
            client.images.get(image)
    except ImageNotFound:
        return f"the engine at {where} lacks the image {image}; make it: jenkins-test/images.sh (as root)"
    except (DockerException, OSError) as error:
        return f"no Docker engine at {where}: {_innermost(error)}"
    finally:
        client.close()
    return None


@cache
def _jenkins_lacks() -> str | None:
    war = Path(os.environ.get("JENKINS_WAR") or CACHE / "jenkins.war")
    plugins = Path(os.environ.get("JENKINS_PLUGINS_DIR") or CACHE / "plugins")
    if not war.is_file():
        return f"no Jenkins war at {_home(war)}; set JENKINS_WAR, or download one: python jenkins-test/fetch.py"
    if not any(plugins.glob("*.[jh]pi")):
        return f"no Jenkins plugins in {_home(plugins)}; set JENKINS_PLUGINS_DIR, or run python jenkins-test/fetch.py"
    if shutil.which("java") is None:
        return "no java on the PATH, which Jenkins needs; install a Java 17 runtime"
    return None


def _home(path: Path) -> str:
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _innermost(error: BaseException) -> str:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """Name and mark of a tier, and why this machine cannot run it (None: it can)."""

    name: str
    lacks: Callable[[], str | None]


#: From the least demanding to the most; `unit` is what carries no mark.
TIERS = (
    Tier(name="unit", lacks=_nothing),
    Tier(name="standin", lacks=_nothing),
    Tier(name="docker", lacks=_docker_lacks),
    Tier(name="jenkins", lacks=_jenkins_lacks),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of one test: `passed`, `failed` or `skipped`; the reason only of the last."""

    tier: str
    outcome: str
    reason: str = ""


# -- the pytest plugin

_WORST_LAST = ("passed", "skipped", "failed")
_results: dict[str, Result] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier-report", type=Path, help="write each test's tier and outcome here, instead of a table")


@pytest.hookimpl(trylast=True)  # after the hooks that mark what lies in a folder
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # asked for by the variable, by their mark or by their names
    named = "slow" in config.option.markexpr or any("::" in argument for argument in config.args)
    slow = bool(os.environ.get("SLOW")) or named
    for item in items:
        if not slow and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; SLOW=1 runs it"))
        tiers = [tier for tier in TIERS if item.get_closest_marker(tier.name)] or [TIERS[0]]
        item.user_properties.append(("tier", tiers[-1].name))
        lacking = [why for tier in tiers if (why := tier.lacks())]
        if lacking:
            item.add_marker(pytest.mark.skip(reason="; ".join(lacking)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    tier = str(dict(report.user_properties).get("tier", "unknown"))  # unknown: its worker process died
    before = _results.get(report.nodeid)
    if before and _WORST_LAST.index(before.outcome) >= _WORST_LAST.index(report.outcome):
        return
    reason = ""
    if report.skipped:
        reason = getattr(report, "wasxfail", "") or str(
            report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        ).removeprefix("Skipped: ")
    _results[report.nodeid] = Result(tier=tier, outcome=report.outcome, reason=reason)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _results[report.nodeid] = Result(tier="collection", outcome="failed")


def pytest_sessionfinish(session: pytest.Session) -> None:
    path: Path | None = session.config.getoption("--tier-report")
    if path is not None and not hasattr(session.config, "workerinput"):
        path.write_text(json.dumps({test: asdict(result) for test, result in _results.items()}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--tier-report") is None:
        terminalreporter.section("tiers")
        for line in table(_results.values()):
            terminalreporter.write_line(line)


# -- the table


def read_report(path: Path) -> dict[str, Result]:
    """What a run with `--tier-report` wrote; empty if it died before."""
    if not path.is_file():
        return {}
    return {test: Result(**result) for test, result in json.loads(path.read_text()).items()}


def table(results: Iterable[Result]) -> list[str]:
    """A line for each tier, with every reason for which something of it did not run."""
    results = list(results)
    known = [tier.name for tier in TIERS]
    lacks = {tier.name: tier.lacks for tier in TIERS}
    lines = [f"{'tier':<12}{'tests':>7}{'passed':>8}{'failed':>8}{'skipped':>9}  what did not run, and why"]
    for tier in known + sorted({result.tier for result in results} - set(known)):
        of_tier = [result for result in results if result.tier == tier]
        count = Counter(result.outcome for result in of_tier)
        reasons = Counter(result.reason for result in of_tier if result.outcome == "skipped")
        why = [f"{number} x {reason}" for reason, number in reasons.items()]
        if not of_tier:
            why = [lacks[tier]() or "no test of it was selected"]
        lines.append(
            f"{tier:<12}{len(of_tier):>7}{count['passed']:>8}{count['failed']:>8}{count['skipped']:>9}"
            f"  {why[0] if why else ''}".rstrip()
        )
        lines += [" " * 46 + more for more in why[1:]]
    return lines


def to_repeat(results: Mapping[str, Result]) -> list[str]:
    """What is tried once more, alone: a failure or two beside a real engine or controller, if nothing else failed.

    A controller with a hundred plugins has races of its own, and so has an engine; a test meets them now and then on
    a machine under load. More than that, or a failure anywhere else, is no accident.
    """
    failed = [test for test, result in results.items() if result.outcome == "failed"]
    accident = len(failed) <= SECOND_ATTEMPTS and all(results[test].tier in REAL for test in failed)
    return failed if accident else []


def not_run(required: str, results: Iterable[Result]) -> list[str]:
    """Which of the required tiers did not run a single test, with the reason.

    Args:
        required: names of tiers, or `available` for all that this machine can run.
        results: of the whole suite.
    """
    names = required.replace(",", " ").split()
    unknown = set(names) - {tier.name for tier in TIERS} - {"available"}
    if unknown:
        return [f"REQUIRE_TIERS names no tier: {', '.join(sorted(unknown))}"]
    ran = {result.tier for result in results if result.outcome != "skipped"}
    return [
        f"the tier {tier.name} did not run: {tier.lacks() or 'all of its tests were skipped, or there are none'}"
        for tier in TIERS
        if tier.name not in ran and (tier.name in names or ("available" in names and tier.lacks() is None))
    ]
