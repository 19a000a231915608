"""What every backend must do, whatever is behind it."""

from __future__ import annotations

import asyncio

import pytest

from provisioner.backends.contract import Backend, Checkpoint, Ended, InstanceState, Order, Progress, Stats
from provisioner.model.errors import LaunchError, Reason
from tests.contract.backend_rigs import JAR, SECRET, Rig, crash, output, run, until

#: No start yields more than this; a crash after a step that does not come is a crash after the end.
CRASH_POINTS = range(5)


async def test_start_runs_the_command(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order()
    ids, _ = await run(backend, order)
    await until(backend, order.agent, ids, InstanceState.RUNNING)


async def test_provider_names_itself(rig: Rig) -> None:
    assert len((await (await rig.backend()).ping()).split()) >= 2


async def test_nothing_speaks_against_a_good_order(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order()
    assert await backend.verify(order) == ()
    assert rig.leftovers(order.agent) == []


async def test_first_step_is_a_checkpoint_before_anything_runs(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order()
    _, told = await run(backend, order, steps=1)
    assert isinstance(told[0], Checkpoint)
    assert (await backend.status(order.agent, {})).state in (InstanceState.MISSING, InstanceState.CREATED)


async def test_last_step_tells_that_it_runs(rig: Rig) -> None:
    _, told = await run(await rig.backend(), rig.order())
    assert isinstance(told[-1], Progress)


async def test_place_holders_and_files_are_where_the_command_finds_them(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order()
    order = Order(
        **{
            **{name: getattr(order, name) for name in order.__dataclass_fields__},
            "command": (
                "/bin/sh",
                "-c",
                'cat "$0/secret"; echo; wc -c < "$1"; cd "$2" && touch mine && ls; echo "$GREETING $3"',
                "{secrets}",
                "{jar}",
                "{work}",
                "{java}",
            ),
        }
    )
    ids, _ = await run(backend, order)
    lines = await output(backend, order.agent, ids)
    assert [line.strip() for line in lines] == [SECRET, str(len(JAR)), "mine", "hello java"]


async def test_saved_ids_suffice_to_stop_in_another_sidecar(rig: Rig) -> None:
    order = rig.order()
    ids, _ = await run(await rig.backend(), order)
    await (await rig.backend()).stop(order.agent, ids)
    assert rig.leftovers(order.agent) == []


async def test_stop_without_any_id_finds_it_by_its_mark(rig: Rig) -> None:
    order = rig.order()
    await run(await rig.backend(), order)
    await (await rig.backend()).stop(order.agent, {})
    assert rig.leftovers(order.agent) == []


async def test_stop_twice_and_stop_of_nothing_are_done(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order()
    ids, _ = await run(backend, order)
    await backend.stop(order.agent, ids)
    await backend.stop(order.agent, ids)
    await backend.stop(rig.order().agent, {})
    assert (await backend.status(order.agent, ids)).state is InstanceState.MISSING


async def test_two_stops_at_once_are_done(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order()
    ids, _ = await run(backend, order)
    await asyncio.gather(backend.stop(order.agent, ids), backend.stop(order.agent, ids))
    assert rig.leftovers(order.agent) == []


async def test_start_after_stop_is_refused(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order()
    await backend.stop(order.agent, {})
    with pytest.raises(LaunchError) as caught:
        await run(backend, order)
    assert caught.value.reason is Reason.CANCELLED
    assert rig.leftovers(order.agent) == []


@pytest.mark.parametrize("steps", CRASH_POINTS[1:])
async def test_stop_between_two_steps_of_a_start_wins(rig: Rig, steps: int) -> None:
    backend = await rig.backend()
    order = rig.order()
    ids: dict[str, str] = {}
    seen = 0
    with pytest.raises(LaunchError) as caught:  # noqa: PT012  (the race is the test)
        async for step in backend.start(order):
            if isinstance(step, Checkpoint):
                ids[step.key] = step.value
            seen += 1
            if seen == steps:
                await backend.stop(order.agent, ids)
        if seen <= steps:  # it ended before the stop, or with it
            await backend.stop(order.agent, ids)
            raise LaunchError("it ran already", reason=Reason.CANCELLED)
    assert caught.value.reason is Reason.CANCELLED
    assert rig.leftovers(order.agent) == []


@pytest.mark.parametrize("delay_ms", [0, 1, 5, 20, 60, 120])
async def test_stop_while_a_step_of_a_start_runs_wins(rig: Rig, delay_ms: int) -> None:
    backend = await rig.backend()
    order = rig.order()
    starting = asyncio.create_task(run(backend, order))
    await asyncio.sleep(delay_ms / 1000)
    await backend.stop(order.agent, {})
    assert rig.leftovers(order.agent) == []
    try:
        await starting
    except LaunchError as error:
        assert error.reason is Reason.CANCELLED  # noqa: PT017  (it may also have been in time)
    assert rig.leftovers(order.agent) == []


async def test_stop_after_the_start_was_cancelled_leaves_nothing(rig: Rig) -> None:
    backend = await rig.backend()
    for delay_ms in (0, 2, 10, 40):
        order = rig.order()
        starting = asyncio.create_task(run(backend, order))
        await asyncio.sleep(delay_ms / 1000)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await backend.stop(order.agent, {})
        assert rig.leftovers(order.agent) == []


@pytest.mark.parametrize("steps", CRASH_POINTS)
async def test_start_goes_on_from_every_crash_point(rig: Rig, steps: int) -> None:
    order = rig.order()
    await run(await rig.backend(), order, steps=steps)
    backend = await rig.backend()
    ids, _ = await run(backend, order)
    await until(backend, order.agent, ids, InstanceState.RUNNING)
    await backend.stop(order.agent, ids)
    assert rig.leftovers(order.agent) == []


@pytest.mark.parametrize("steps", CRASH_POINTS)
async def test_start_goes_on_after_the_sidecar_was_killed_at_every_point(rig: Rig, steps: int) -> None:
    order = rig.order()
    await crash(rig, order, steps)
    backend = await rig.backend()
    ids, _ = await run(backend, order)
    await until(backend, order.agent, ids, InstanceState.RUNNING)
    await backend.stop(order.agent, ids)
    assert rig.leftovers(order.agent) == []


@pytest.mark.parametrize("steps", CRASH_POINTS)
async def test_stop_removes_what_a_killed_sidecar_left_at_every_point(rig: Rig, steps: int) -> None:
    order = rig.order()
    told = await crash(rig, order, steps)
    backend = await rig.backend()
    await backend.stop(order.agent, {one["key"]: one["value"] for one in told if one["key"] != "progress"})
    assert rig.leftovers(order.agent) == []


async def test_instance_outlives_its_sidecar_and_is_taken_over(rig: Rig) -> None:
    order = rig.order("echo begun; exec sleep 600")
    told = await crash(rig, order, None)
    ids = {one["key"]: one["value"] for one in told if one["key"] != "progress"}
    backend = await rig.backend()
    assert (await backend.status(order.agent, ids)).state is InstanceState.RUNNING
    again, _ = await run(backend, order)
    assert again == ids  # the same instance, not another
    async with asyncio.timeout(10):
        while await backend.log_tail(order.agent, ids) != ("begun",):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_exit_code_is_told_also_to_a_later_sidecar(rig: Rig) -> None:
    order = rig.order("echo out; echo err >&2; exit 7")
    first = await rig.backend()
    ids, _ = await run(first, order)
    await until(first, order.agent, ids, InstanceState.EXITED)
    for backend in (first, await rig.backend()):
        status = await backend.status(order.agent, ids)
        assert (status.state, status.exit_code, status.out_of_memory) == (InstanceState.EXITED, 7, False)
        assert sorted(await backend.log_tail(order.agent, ids)) == ["err", "out"]


async def test_killed_instance_has_ended(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order()
    ids, _ = await run(backend, order)
    rig.kill(order.agent, ids)
    await until(backend, order.agent, ids, InstanceState.EXITED)
    assert (await backend.status(order.agent, ids)).exit_code == 137


async def test_log_tail_is_the_end_of_a_long_log(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order("i=0; while [ $i -lt 3000 ]; do echo line $i of a log that is rather long; i=$((i+1)); done")
    ids, _ = await run(backend, order)
    await until(backend, order.agent, ids, InstanceState.EXITED)
    tail = await backend.log_tail(order.agent, ids, 3)
    assert tail == tuple(f"line {i} of a log that is rather long" for i in (2997, 2998, 2999))


async def test_missing_instance_has_no_log_status_or_figures(rig: Rig) -> None:
    backend = await rig.backend()
    agent = rig.order().agent
    assert (await backend.status(agent, {})).state is InstanceState.MISSING
    assert await backend.log_tail(agent, {}) == ()
    assert await backend.stats(agent, {}) == Stats()


async def test_figures_of_a_running_instance(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; exec sleep 600")
    ids, _ = await run(backend, order)
    async with asyncio.timeout(20):
        while not ((stats := await backend.stats(order.agent, ids)).cpu_s or 0) > 0:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (stats.memory_bytes or 0) > 0
    assert (stats.pids or 0) > 0


async def heard(backend: Backend, rig: Rig, first: asyncio.Future[Ended]) -> None:
    """End instances until the first event is heard: the stream may begin only after some of them."""
    while not first.done():
        await run(backend, rig.order("exit 0"))
        await asyncio.wait({first}, timeout=0.3)


async def test_end_of_an_instance_is_an_event(rig: Rig) -> None:
    backend = await rig.backend()
    events = backend.events()
    first = asyncio.ensure_future(anext(events))
    try:
        async with asyncio.timeout(30):
            await heard(backend, rig, first)
            assert (await first).agent in rig.agents
            order = rig.order()
            ids, _ = await run(backend, order)
            rig.kill(order.agent, ids)
            while await anext(events) != Ended(agent=order.agent):
                pass
    finally:
        first.cancel()
        await events.aclose()  # type: ignore[attr-defined]


async def test_end_of_a_taken_over_instance_is_an_event(rig: Rig) -> None:
    order = rig.order()
    told = await crash(rig, order, None)
    ids = {one["key"]: one["value"] for one in told if one["key"] != "progress"}
    backend = await rig.backend()
    events = backend.events()
    first = asyncio.ensure_future(anext(events))
    await run(backend, order)
    try:
        async with asyncio.timeout(30):
            await heard(backend, rig, first)
            rig.kill(order.agent, ids)
            while await anext(events) != Ended(agent=order.agent):
                pass
    finally:
        first.cancel()
        await events.aclose()  # type: ignore[attr-defined]


async def test_listing_has_all_of_ours_and_is_empty_after_stop(rig: Rig) -> None:
    backend = await rig.backend()
    running, ended = rig.order(), rig.order("exit 0")
    await run(backend, running)
    ids, _ = await run(backend, ended)
    await until(backend, ended.agent, ids, InstanceState.EXITED)
    listing = await backend.listing(rig.owner)
    assert listing.complete
    assert {found.agent for found in listing.found} == {running.agent, ended.agent}
    assert all(found.age_s is None or 0 <= found.age_s < 60 for found in listing.found)
    await backend.stop(running.agent, {})
    await backend.stop(ended.agent, {})
    assert (await backend.listing(rig.owner)).found == ()


@pytest.mark.parametrize("steps", CRASH_POINTS)
async def test_listing_shows_the_leftovers_of_every_crash_point(rig: Rig, steps: int) -> None:
    order = rig.order()
    await crash(rig, order, steps)
    backend = await rig.backend()
    listing = await backend.listing(rig.owner)
    assert listing.complete
    assert {found.agent for found in listing.found} == ({order.agent} if rig.leftovers(order.agent) else set())
    for found in listing.found:
        await backend.remove_found(found)
    for found in listing.found:
        await backend.remove_found(found)  # gone already
    assert rig.leftovers(order.agent) == []


async def test_owners_do_not_see_each_other(rig: Rig) -> None:
    backend = await rig.backend()
    mine, theirs = rig.order(), rig.order(owner=rig.owner + "x")
    await run(backend, mine)
    await run(backend, theirs)
    assert {found.agent for found in (await backend.listing(rig.owner)).found} == {mine.agent}
    assert {found.agent for found in (await backend.listing(rig.owner + "x")).found} == {theirs.agent}
    await backend.stop(mine.agent, {})
    assert rig.leftovers(theirs.agent) != []


async def test_secret_is_seen_by_nobody(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order()
    ids, told = await run(backend, order)
    await until(backend, order.agent, ids, InstanceState.RUNNING)
    seen = rig.seen_by_others(order.agent)
    assert order.agent in seen
    assert SECRET not in seen
    assert SECRET not in repr((order, ids, told))


async def test_remote_root_is_told_before_anything_exists(rig: Rig) -> None:
    backend = await rig.backend()
    order = rig.order('echo "$0"', command=("/bin/sh", "-c", 'echo "$0"', "{work}"))
    root = backend.remote_root(order.owner, order.agent, order.remote_fs)
    ids, _ = await run(backend, order)
    assert await output(backend, order.agent, ids) == (root,)


async def test_many_at_once(rig: Rig) -> None:
    backend = await rig.backend()
    orders = [rig.order() for _ in range(6)]
    started = await asyncio.gather(*(run(backend, order) for order in orders))
    for order, (ids, _) in zip(orders, started, strict=True):
        assert (await backend.status(order.agent, ids)).state is InstanceState.RUNNING
    await asyncio.gather(*(backend.stop(order.agent, ids) for order, (ids, _) in zip(orders, started, strict=True)))
    assert [rig.leftovers(order.agent) for order in orders] == [[]] * 6
