"""Short stories, each with a sidecar in it that may die at any of its points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.controller.port import BridgeMode
from provisioner.lifecycle.operations import Refused, Unknown
from provisioner.model.errors import LaunchError, Reason
from provisioner.model.queue import ItemKind
from tests.faults.estate import Broken, Estate
from tests.faults.mortal import Death, Killed, immortal

#: After this long without any news a death that was asked for does not come any more.
_STORY_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What happens besides the deaths, and how everything must have ended."""

    name: str
    play: Callable[[Estate], None]  # queues what there is to queue, and arms what goes wrong by itself
    then: Mapping[float, Callable[[Estate], None]] = field(default_factory=dict)  # what happens at which second
    ends: tuple[tuple[str, ...], ...] = (("ran",),)  # of each work, what it may come to
    most_agents: int = 1  # names that may ever be registered
    mode: BridgeMode = BridgeMode.SCRIPT
    template: Mapping[str, Any] = field(default_factory=dict)
    stride: int = 1  # of a long story only every so many points are tried, others for each way to die


def run(
    scenario: Scenario,
    folder: Path,
    *,
    die_at: int = -1,
    death: Death = Death.NOW,
    down_s: float = 2.0,
    state_lost: bool = False,
    ends: Counter[str] | None = None,
) -> list[str]:
    """Play it with a death at the given point, and another sidecar after it; the points of the first life.

    With `state_lost` the next one has the same owner id and nothing else: it must find everything by its marks.
    `ends` counts what became of the builds.

    Raises:
        Broken: a guarantee does not hold.
    """
    with Estate(folder, mode=scenario.mode, **scenario.template) as estate:
        passed = -1

        def reaper(_point: str) -> Death:
            nonlocal passed
            passed += 1
            return death if passed == die_at else Death.NOT

        estate.start(reaper)
        scenario.play(estate)
        todo = sorted(scenario.then.items())
        while estate.life is not None and estate.clock.monotonic() < _STORY_S:
            estate.pass_s(0.5)
            _go_on(estate, todo)
            if die_at < 0 and not todo and estate.at_rest():
                break
        first = estate.lives[0]
        if estate.life is None:
            estate.pass_s(down_s)
            _go_on(estate, todo)
            if state_lost:
                estate.lose_state()
            estate.start(immortal)
            while todo:
                estate.pass_s(0.5)
                _go_on(estate, todo)
        estate.finish()
        if die_at >= 0:  # what was still under way when it died, too
            estate.pass_s(10)
            estate.finish()
        _judge(scenario, estate, forgetful=state_lost)
        if ends is not None:
            ends.update(estate.outcomes().values())
        return first.points


def _go_on(estate: Estate, todo: list[tuple[float, Callable[[Estate], None]]]) -> None:
    while todo and todo[0][0] <= estate.clock.monotonic():
        _, act = todo.pop(0)
        try:
            act(estate)
        except Killed:
            estate.kill()


def _judge(scenario: Scenario, estate: Estate, *, forgetful: bool) -> None:
    for work, allowed in zip(estate.jenkins.works, scenario.ends, strict=True):
        if not work.ended[0].startswith(allowed):
            raise Broken(f"work {work.number} {work.ended[0]!r}, which is none of {allowed}\n{estate.picture()}")
    names = set(estate.jenkins.registered)
    most = scenario.most_agents * (2 if forgetful else 1)  # attempts that failed are forgotten with the records
    if len(names) > most:
        raise Broken(f"{len(names)} agents were made, not {most}\n{estate.picture()}")


# the stories


def one(estate: Estate) -> None:
    estate.jenkins.queue()


def one_pipeline(estate: Estate) -> None:
    estate.jenkins.queue(kind=ItemKind.PIPELINE, build_s=20)


def bad_image(estate: Estate) -> None:
    for engine in estate.engines.values():
        engine.fail_with = LaunchError("no such image", reason=Reason.IMAGE_NOT_FOUND)
    estate.jenkins.queue()


def exits(times: int) -> Callable[[Estate], None]:
    def play(estate: Estate) -> None:
        for engine in (estate.box, estate.den) if times > 1 else (estate.box,):
            engine.exits_after_s, engine.exits_left = 1.0, times
        estate.jenkins.queue()

    return play


def never_connects(estate: Estate) -> None:
    estate.jenkins.connect_s = float("inf")
    estate.jenkins.queue()


def long_pull(estate: Estate) -> None:
    estate.box.pull_s = 4.0
    estate.jenkins.queue()


def cancel(estate: Estate) -> None:
    estate.jenkins.cancel(estate.jenkins.works[0])


def engine_down(estate: Estate) -> None:
    estate.box.outage()


def engine_up(estate: Estate) -> None:
    estate.box.recover()


def controller_down(estate: Estate) -> None:
    estate.jenkins.outage()


def controller_up(estate: Estate) -> None:
    estate.jenkins.recover()


def gateway_dies(estate: Estate) -> None:
    for name in tuple(estate.jenkins.nodes):
        estate.jenkins.excuse(name)  # its builds end with it: the one exception of the third guarantee
    estate.gateway.die()


def restart(estate: Estate) -> None:
    estate.jenkins.restart()


def hold(estate: Estate) -> None:
    if estate.life is not None and not estate.dead:
        for name in tuple(estate.desk.agents):
            with suppress(Refused, Unknown):
                estate.order(lambda do, name=name: do.hold(name, for_s=20))  # type: ignore[misc]


def five(estate: Estate) -> None:
    for _ in range(5):
        estate.jenkins.queue(build_s=3)


_RAN_OR_CANCELLED = ("ran", "cancelled")
_MISSING = ("ended: image_not_found",)
_EXITED = ("ended: agent_exited",)
_UNCONNECTED = ("ended: connect_timeout",)
_OFF = BridgeMode.OFF
_SSH = {"transport": "ssh"}
_GATEWAY = {"transport": "ssh-gateway"}

SCENARIOS = (
    Scenario(name="a build", play=one),
    Scenario(name="a build without the bridge", play=one, mode=_OFF),
    Scenario(name="a build over SSH", play=one, template=_SSH),
    Scenario(name="a build over SSH without the bridge", play=one, template=_SSH, mode=_OFF),
    Scenario(
        name="cancelled before it is dialled",
        play=long_pull,
        then={6: cancel},
        ends=(_RAN_OR_CANCELLED,),
        template=_SSH,
    ),
    Scenario(name="a build through the gateway", play=one, template=_GATEWAY),
    Scenario(name="a build through the gateway without the bridge", play=one, template=_GATEWAY, mode=_OFF, stride=2),
    Scenario(
        name="cancelled before its gateway opens it",
        play=long_pull,
        then={6: cancel},
        ends=(_RAN_OR_CANCELLED,),
        template=_GATEWAY,
        stride=2,
    ),
    Scenario(
        name="a Pipeline whose gateway dies",
        play=one_pipeline,
        then={12: gateway_dies},
        ends=(("ran", "cut as allowed", *_EXITED),),
        most_agents=3,
        template=_GATEWAY,
        stride=2,
    ),
    Scenario(name="a Pipeline over a restart of Jenkins", play=one_pipeline, then={12: restart}),
    Scenario(name="an image that is missing", play=bad_image, ends=(_MISSING,)),
    Scenario(name="a launch that works at the second try", play=exits(1), ends=(("ran",),), most_agents=2),
    Scenario(name="launches that all fail", play=exits(9), ends=(_EXITED,), most_agents=2),
    Scenario(name="an agent that never connects", play=never_connects, ends=(_UNCONNECTED,), most_agents=2),
    Scenario(name="cancelled during the start", play=long_pull, then={2: cancel}, ends=(_RAN_OR_CANCELLED,)),
    Scenario(
        name="cancelled without the bridge", play=long_pull, then={5: cancel}, ends=(_RAN_OR_CANCELLED,), mode=_OFF
    ),
    # a death while the engine is away may find it away again before anything was started: one more try
    Scenario(name="removed while the engine is away", play=one, then={5: engine_down, 60: engine_up}, most_agents=2),
    Scenario(name="removed while Jenkins is away", play=one, then={5: controller_down, 60: controller_up}),
    Scenario(name="held after its build", play=one, then={4: hold}),
    Scenario(
        name="five builds, two agents",
        play=five,
        ends=(("ran",),) * 5,
        most_agents=5,
        template={"max_agents": 2},
        stride=4,
    ),
)
