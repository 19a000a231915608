"""Who waits in which lane: requests in one lane are alike to all caps, and keep the order of the queue there."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from provisioner.capacity.plant import Wanted
from provisioner.model.queue import QueueItem, RequestKey

#: When it became buildable, its queue id, and a number that tells apart items of two controllers.
_Place = tuple[int, int, int]


class Lanes:
    """A sorted queue for each kind of agent that is asked for.

    One that comes back, after a launch that failed, stands where it stood.
    """

    def __init__(self) -> None:
        self._lanes: dict[Wanted, list[tuple[_Place, RequestKey]]] = {}
        self._at: dict[RequestKey, tuple[Wanted, _Place]] = {}
        self._last = 0

    def __iter__(self) -> Iterator[tuple[Wanted, Iterator[RequestKey]]]:
        """Every lane with its requests, first come first."""
        for wanted, lane in self._lanes.items():
            yield wanted, (key for _, key in lane)

    def enter(self, item: QueueItem, wanted: Wanted) -> None:
        """It waits in a lane; it leaves the one in which it waited before. Idempotent."""
        key = item.key
        if self._at.get(key, (None,))[0] == wanted:
            return
        self.leave(key)
        self._last += 1
        place = (*queue_order(item), self._last)
        insort(self._lanes.setdefault(wanted, []), (place, key), key=lambda entry: entry[0])
        self._at[key] = (wanted, place)

    def leave(self, key: RequestKey) -> None:
        """It waits no longer. Idempotent."""
        found = self._at.pop(key, None)
        if found is None:
            return
        wanted, place = found
        lane = self._lanes[wanted]
        del lane[bisect_left(lane, place, key=lambda entry: entry[0])]
        if not lane:
            del self._lanes[wanted]


def queue_order(item: QueueItem) -> tuple[int, int]:
    """By what the queue is sorted: first come, first served."""
    return item.buildable_ms or item.key.since_ms, item.key.queue_id
