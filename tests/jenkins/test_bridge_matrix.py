"""Every kind of job in each of the three modes, by an account of least rights: outcomes, consoles, leftovers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from controller import RealController

from provisioner.commands.main import main
from provisioner.controller.bridge_script import render_removal
from tests.jenkins.plant import Plant, all_succeeded, provisioner_lines
from tests.standin_process import real_controller

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

#: What the account of each mode may do, and nothing else; docs/bridge.md has the same list.
PERMISSIONS = {
    "init": ("Jenkins.READ", "Item.READ"),
    "script": ("Jenkins.ADMINISTER",),
    "off": (
        "Jenkins.READ", "Item.READ", "Item.CANCEL", "Run.UPDATE",
        "Computer.CREATE", "Computer.CONNECT", "Computer.DISCONNECT", "Computer.DELETE",
    ),
}  # fmt: skip

ACCOUNT = """
import hudson.model.*
import hudson.security.*
import jenkins.model.*
import jenkins.security.ApiTokenProperty
import org.jenkinsci.plugins.matrixauth.PermissionEntry
def jenkins = Jenkins.get()
def before = jenkins.authorizationStrategy
def strategy = before instanceof GlobalMatrixAuthorizationStrategy ? before : new GlobalMatrixAuthorizationStrategy()
strategy.add(Jenkins.ADMINISTER, PermissionEntry.user('admin'))
[%s].each { strategy.add(it, PermissionEntry.user('%s')) }
jenkins.authorizationStrategy = strategy
jenkins.save()
def user = jenkins.securityRealm.createAccount('%s', UUID.randomUUID().toString())
print user.getProperty(ApiTokenProperty).tokenStore.generateNewToken('test').plainValue
user.save()
"""

#: Whether the bridge saw the node take its build, or was told so.
STARTED = """
def action = jenkins.model.Jenkins.get().actions.find { it.class.name == 'ProvisionerBridgeAction' }
def agent = action?.@bridge?.agents?.get('%s')
print agent != null && agent.started && agent.buildUrl != null
"""

HELLO = "echo built on $NODE_NAME; sleep 1"


@pytest.fixture(scope="module")
def jenkins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealController]:
    """A controller of its own: it is restarted, and its accounts have few permissions."""
    with real_controller(tmp_path_factory.mktemp("jenkins-home")) as controller:
        yield controller


def account(jenkins: RealController, name: str, permissions: tuple[str, ...]) -> str:
    token: str = jenkins.script(ACCOUNT % (", ".join(permissions), name, name))
    return token


def drop_into_init(plant: Plant, capsys: pytest.CaptureFixture[str]) -> Path:
    """What an administrator does: the printed file into init.groovy.d, and its text into the script console for now."""
    capsys.readouterr()
    assert main(["bridge", "print", "-c", str(plant.sidecar.config_file)]) == 0
    text = capsys.readouterr().out
    file = Path(plant.jenkins.home) / "init.groovy.d" / "provisioner-bridge.groovy"
    file.write_text(text)
    assert "PROVISIONER-BRIDGE" in plant.jenkins.script(text)
    return file


@pytest.mark.parametrize("mode", ["init", "script", "off"])
def test_every_kind_of_job(
    jenkins: RealController, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    jenkins.script(render_removal())
    token = account(jenkins, f"sidecar-{mode}", PERMISSIONS[mode])
    plant = Plant(jenkins, tmp_path, f"m-{mode}", user=f"sidecar-{mode}", token=token)
    plant.prepare(bridge="auto", max_agents=5)
    init_file = drop_into_init(plant, capsys) if mode == "init" else None
    try:
        plant.sidecar.start()
        bridged = mode != "off"
        assert plant.sidecar.metric("bridge_mode", mode=mode) == 1
        _run(plant, bridged=bridged, go=tmp_path / "go")
        if mode == "init":
            _may_do_nothing_else(plant)
    finally:
        plant.end()
        if init_file is not None:
            init_file.unlink()


def _run(plant: Plant, *, bridged: bool, go: Path) -> None:
    jenkins, label = plant.jenkins, plant.owner
    node = f"node('{label}')"
    jobs = {
        "resumed": plant.pipeline(
            "resumed",
            f"""{node} {{ sh 'echo up; until [ -e "{go}" ]; do sleep 0.3; done; echo built on $NODE_NAME' }}""",
        ),
        "freestyle": plant.freestyle("freestyle", HELLO),
        "parameterised": plant.freestyle("parameterised", f"echo $COLOUR; {HELLO}", parameters={"COLOUR": "red"}),
        "scripted": plant.pipeline("scripted", f"{node} {{ sh '{HELLO}' }}"),
        "declarative": plant.pipeline(
            "declarative",
            f"pipeline {{ agent {{ label '{label}' }}\nstages {{ stage('a') {{ steps {{ sh '{HELLO}' }} }} }} }}",
        ),
        "parallel": plant.pipeline(
            "parallel",
            "def b = [:]\nfor (n in ['a', 'b', 'c', 'd', 'e'])"
            f" {{ b[n] = {{ {node} {{ sh '{HELLO}' }} }} }}\nparallel b",
        ),
        "matrix": plant.matrix("matrix", HELLO, ("a", "b")),
    }
    failing = plant.freestyle("failing", "true", label=f"{label}-broken-a", parameters={"COLOUR": "red"})
    failing_step = plant.pipeline("failing-step", f"node('{label}-broken-b') {{ sh 'true' }}")
    awaited = plant.freestyle("awaited", "true", label=f"{label}-broken-c")
    upstream = plant.pipeline(
        "upstream",
        f"def b = build(job: '{awaited}', wait: true, propagate: false); echo \"got ${{b.number}} ${{b.result}}\"",
    )

    jenkins.queue_build(jobs["resumed"])
    plant.sidecar.until(lambda: "+ echo up" in jenkins.console(jobs["resumed"]), "the long Pipeline runs")
    failed_id = jenkins.queue_build(failing, {"COLOUR": "blue"})
    for job in (
        failing_step,
        upstream,
        *(job for name, job in jobs.items() if name not in ("resumed", "parameterised")),
    ):
        jenkins.queue_build(job)
    jenkins.queue_build(jobs["parameterised"], {"COLOUR": "blue"})

    done = {job: jenkins.wait_build(job, within_s=150) for name, job in jobs.items() if name != "resumed"}
    all_succeeded(plant, done)
    consoles = {name: _console(plant, job) for name, job in jobs.items() if name not in ("resumed", "matrix")}
    cells = [f"{jobs['matrix']}/n={value},where={label}" for value in "ab"]
    consoles.update({cell: _whole(plant, partial(_cell_console, plant, cell)) for cell in cells})
    assert "\nblue\n" in consoles["parameterised"]
    agents = [agent for console in consoles.values() for agent in plant.agents_in(console)]
    assert len(agents) == 5 + 4 + 2
    _failures(plant, failing, failing_step, upstream, failed_id, bridged=bridged)
    if bridged:
        assert len(set(agents)) == len(agents), agents
        for console in consoles.values():
            _console_tells_all(plant, console)
    else:
        for console in consoles.values():
            assert provisioner_lines(console) == []
        told = "[provisioner] Template one on provider box"
        plant.sidecar.until(
            lambda: (jenkins.begun(jobs["freestyle"], 1)["description"] or "").startswith(told), "the log is shown"
        )

    # a restart with a Pipeline on its agent
    (before,) = _once_alone(plant)
    jenkins.restart()
    if bridged:  # what ends before the bridge is back has no last line
        plant.sidecar.until(
            lambda: jenkins.script(STARTED % before) == "true", "the bridge knows the agent again", within_s=180
        )
    go.touch()
    assert jenkins.wait_build(jobs["resumed"], within_s=120)["result"] == "SUCCESS"
    console = _console(plant, jobs["resumed"])
    assert plant.agents_in(console) == [before]
    if bridged:
        _console_tells_all(plant, console)
    plant.nothing_left()
    assert jenkins.queue_items() == []


def _console(plant: Plant, job: str) -> str:
    return _whole(plant, partial(plant.jenkins.console, job))


def _whole(plant: Plant, read: Callable[[], str]) -> str:
    """A console with its last line, which may come a moment after the build has ended."""
    plant.sidecar.until(lambda: "\nFinished: " in read(), "the console has its last line")
    return read()


def _once_alone(plant: Plant) -> list[str]:
    """The one agent that stays, when those of the builds that ended are gone; other nodes are helper nodes."""
    found: list[str] = []

    def alone() -> bool:
        found[:] = [name for name in plant.ours()["nodes"] if name.startswith("one-")]
        return len(found) == 1

    plant.sidecar.until(alone, "the agents of builds that ended are gone")
    return found


def _cell_console(plant: Plant, cell: str) -> str:
    job, _, combination = cell.partition("/")
    answer = plant.jenkins.request("GET", f"job/{job}/{combination}/1/consoleText")
    assert answer.status == 200, cell
    text: str = answer.text
    return text


def _console_tells_all(plant: Plant, console: str) -> None:
    """The launch before the build, the phases after it and before the end, nothing twice, one style."""
    said = provisioner_lines(console)
    agents = plant.agents_in(console)
    for agent in agents:
        connected = f"[provisioner] Agent {agent} connected"
        (last,) = [line for line in said if line.startswith(f"Agent {agent} is done")]
        assert any(agent in line and line.startswith("Template one on provider box") for line in said), console
        assert console.index(connected) < console.index(f"built on {agent}") < console.index(last)
        assert console.index(last) < console.index("Finished: ")
    assert len([line for line in said if " is done" in line]) == len(agents), console
    assert [line for line in said if not line[0].isupper()] == []
    # several branches may say the same of their agents, or of their wait on a machine with much to do
    once = [line for line in said if not line.startswith(("Instance started", "Process", "It has waited"))]
    assert len(set(once)) == len(once), console


def _failures(plant: Plant, failing: str, failing_step: str, upstream: str, failed_id: int, *, bridged: bool) -> None:
    jenkins = plant.jenkins
    step = jenkins.wait_build(failing_step, within_s=30)
    up = jenkins.wait_build(upstream, within_s=30)
    if not bridged:
        assert jenkins.get_json(f"queue/item/{failed_id}/api/json")["cancelled"] is True
        assert jenkins.build(failing, 1) is None
        assert step["result"] in {"ABORTED", "FAILURE"}
        assert "(create_rejected)" in step["description"]
        assert up["result"] in {"ABORTED", "FAILURE"}
        return
    build = jenkins.wait_build(failing, within_s=30)
    assert (build["result"], build["queueId"]) == ("NOT_BUILT", failed_id)
    (parameters,) = [action["parameters"] for action in build["actions"] if "parameters" in action]
    assert [(p["name"], p["value"]) for p in parameters] == [("COLOUR", "blue")]
    assert step["result"] == "FAILURE"
    assert up["result"] == "SUCCESS"
    assert "got 1 NOT_BUILT" in jenkins.console(upstream)
    for console in (jenkins.console(failing), jenkins.console(failing_step)):
        said = provisioner_lines(console)
        (reason,) = [line for line in said if "(create_rejected)" in line]
        assert reason.startswith("Launch failed: ")
        assert said[-1].startswith("What to do: ")
        assert len(set(said)) == len(said), console


def _may_do_nothing_else(plant: Plant) -> None:
    """The list of docs/bridge.md: what the account of the `init` mode is refused."""
    auth = (plant.user, plant.token)
    job = plant.jobs[0]
    for method, path in (
        ("POST", "scriptText"), ("POST", "computer/doCreateItem?name=x&type=hudson.slaves.DumbSlave"),
        ("POST", "computer/(built-in)/toggleOffline"), ("POST", f"job/{job}/build"), ("POST", f"job/{job}/doDelete"),
        ("POST", f"job/{job}/1/stop"), ("POST", f"job/{job}/1/submitDescription"), ("GET", f"job/{job}/config.xml"),
        ("POST", "createItem?name=x"), ("POST", "quietDown"), ("POST", "safeRestart"), ("GET", "credentials/"),
    ):  # fmt: skip
        answer = plant.jenkins.request(method, path, form={"script": "1"} if method == "POST" else None, auth=auth)
        assert answer.status in {403, 404}, (path, answer.status)


def test_two_owners_beside_each_other(jenkins: RealController, tmp_path: Path) -> None:
    """Both serve their own label and one that they share; neither touches what is the other's."""
    jenkins.script(render_removal())
    plants = [Plant(jenkins, tmp_path / owner, owner) for owner in ("own-a", "own-b")]
    shared = Plant(jenkins, tmp_path / "shared", "own-shared")
    try:
        for plant in plants:
            plant.prepare(bridge="script", max_agents=3)
            plant.sidecar.config["templates"].append({"name": "both", "labels": ["own-shared"], "providers": ["box"]})
            plant.sidecar.write()
            plant.sidecar.start()
        jobs = [plant.freestyle(f"j{n}", HELLO) for plant in plants for n in range(2)]
        jobs += [shared.freestyle(f"j{n}", "sleep 1") for n in range(3)]
        for job in jobs:
            jenkins.queue_build(job)
        builds = {job: jenkins.wait_build(job, within_s=120) for job in jobs}
        all_succeeded(shared, builds)
        assert len({build["builtOn"] for build in builds.values()}) == len(jobs)
        assert all(build["number"] == 1 for build in builds.values())
        for plant in plants:
            plant.nothing_left()
        # one goes, the other is not disturbed
        plants[0].sidecar.kill()
        last = plants[1].freestyle("last", HELLO)
        jenkins.queue_build(last)
        assert jenkins.wait_build(last)["result"] == "SUCCESS"
        plants[0].sidecar.start()
    finally:
        shared.end()
        for plant in plants:
            plant.end()


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1500)])])
def test_one_second_builds_in_a_row_each_have_an_agent(jenkins: RealController, tmp_path: Path, count: int) -> None:
    plant = Plant(jenkins, tmp_path, f"row-{count}")
    try:
        plant.start(bridge="script", max_agents=4)
        job = plant.freestyle("f", "sleep 1", parameters={"N": "0"})
        jenkins.script(f"jenkins.model.Jenkins.get().getItemByFullName({job!r}).setConcurrentBuild(true)")
        for number in range(count):
            jenkins.queue_build(job, {"N": str(number)})
        builds = [jenkins.wait_build(job, number, within_s=6.0 * count) for number in range(1, count + 1)]
        assert {build["result"] for build in builds} == {"SUCCESS"}
        assert len({build["builtOn"] for build in builds}) == count
        plant.nothing_left()
    finally:
        plant.end()


def test_a_killed_controller_with_builds_queued_and_running(jenkins: RealController, tmp_path: Path) -> None:
    """What happens: the Pipeline goes on, on its agent; the freestyle build is lost with the controller, as it is on
    any agent; items that Jenkins had not saved are gone, those that it had are served; nothing of ours is left."""
    plant = Plant(jenkins, tmp_path, "killed")
    go = tmp_path / "go"
    try:
        plant.start(bridge="script", max_agents=2)
        wait = f"""until [ -e "{go}" ]; do sleep 0.3; done; {HELLO}"""
        pipeline = plant.pipeline("pipeline", f"""node('killed') {{ sh 'echo up; {wait}' }}""")
        freestyle = plant.freestyle("freestyle", f"echo up; {wait}")
        queued = [plant.freestyle(f"queued{n}", HELLO) for n in range(2)]

        def runs(job: str) -> bool:
            return "+ echo up" in jenkins.console(job)

        for job in (pipeline, freestyle):
            jenkins.queue_build(job)
            plant.sidecar.until(partial(runs, job), f"{job} runs")
        node = next(n for n in plant.ours()["nodes"] if n in jenkins.console(pipeline))
        time.sleep(1)  # Jenkins saves the state of a Pipeline a moment after the step began
        for job in queued:
            jenkins.queue_build(job)
        jenkins.kill()
        jenkins.start()
        go.touch()
        assert jenkins.wait_build(pipeline, within_s=120)["result"] == "SUCCESS"
        assert plant.agents_in(jenkins.console(pipeline)) == [node]
        lost = jenkins.build(freestyle, 1)
        assert lost is None or lost["result"] != "SUCCESS"
        for job in queued:
            items = [item["id"] for item in jenkins.queue_items() if f"/{job}/" in item["task"]["url"]]
            if not items and jenkins.build(job, 1) is None:
                jenkins.queue_build(job)  # it was lost with the controller; the same id may come again
            assert jenkins.wait_build(job, within_s=120)["result"] == "SUCCESS"
        plant.nothing_left(within_s=120)
        assert plant.sidecar.metric("errors_total", reason="internal_error") == 0
    finally:
        plant.end()
