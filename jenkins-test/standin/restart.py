"""What a restart of the controller leaves and what it takes."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from standin.labels import atom_label
from standin.queue import Phase

if TYPE_CHECKING:
    from standin.runs import Block
    from standin.world import World


def bring_down(world: World, *, crash: bool, next_id: int | None) -> list[Block]:
    """End the session. Returns the `node` bodies that go on afterwards.

    Nodes and queue stay. A killed controller has also lost its newest queue items, and gives their ids out again.
    """
    world.session = secrets.token_hex(4)
    world.remove_bridge()
    world.quieting = False
    blocks = [b for build in world.builds() if build.run for b in build.run.blocks]
    for block in blocks:
        if block.work is not None and block.work.executor is not None:
            block.ready.clear()
            block.work.executor.work = None
            block.work.executor = None
    for build in world.builds():
        if build.building and build.run is None and build.task:
            build.result = "FAILURE" if crash else "ABORTED"
            build.building = False
            build.task.cancel()
    for node in world.nodes.by_name.values():
        link, node.link = node.link, None
        node.cause = None
        node.labels_at_run_time = frozenset()
        node.bound = False
        node.accepting = True
        node.log.clear()
        for executor in node.executors:
            executor.work = None
        world.nodes.refresh(node)
        if link:
            link.close()
    world.queue.left.clear()
    if crash or next_id is not None:
        world.queue.next_id = next_id if next_id is not None else max(1, world.queue.next_id - 6)
        for item in [i for i in world.queue.items.values() if i.id >= world.queue.next_id]:
            world.queue.lose(item)
    return blocks


def bring_up(world: World, blocks: list[Block]) -> None:
    """Begin the new session: bodies ask for their node again, waiting items for any."""
    for block in blocks:
        if block not in block.run.blocks:
            continue
        if block.work is not None:
            block.label = atom_label(block.node_name)
            block.run.say(f"Waiting to resume part of {block.run.build.full_display_name}")
            block.item = world.queue.schedule(block, {}, [], only_node=block.node_name)
        elif block.item is not None and block.item.id not in world.queue.items and block.failure is None:
            block.item = world.queue.schedule(block, {}, [])
    for item in list(world.queue.items.values()):
        if item.phase is Phase.BUILDABLE:
            world.place(item)
    world.reconnect_virtual()


async def restart(world: World, *, crash: bool, next_id: int | None, down_s: float) -> None:
    """Down, 503 for a while, up."""
    world.starting = True
    blocks = bring_down(world, crash=crash, next_id=next_id)
    if down_s > 0:
        await asyncio.sleep(down_s)
    world.starting = False
    if world.init_bridge is not None:
        world.install_bridge(world.init_bridge)
    bring_up(world, blocks)
