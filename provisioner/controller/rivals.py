"""Another provisioner under our owner id, told from its nodes where no bridge keeps one of the two out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

#: After its last new node an older provisioner counts as gone.
GONE_AFTER_S = 600.0


class Rivals:
    """Nodes that an older provisioner with our owner id makes while we look: it is alive, and we are the mistake.

    What is there at the first look says nothing: its maker may be gone, and then we take over from it.

    Args:
        holder: our name among the provisioners of this id; older ones sort before younger ones. Empty: look away.
        monotonic: a clock.
    """

    def __init__(self, holder: str, monotonic: Callable[[], float]) -> None:
        self._holder = holder
        self._monotonic = monotonic
        self._known: frozenset[str] | None = None
        self._last: float | None = None

    @property
    def alive(self) -> bool:
        """Whether an older one is at work."""
        return self._last is not None and self._monotonic() - self._last < GONE_AFTER_S

    def look(self, nodes: Mapping[str, str]) -> None:
        """Take in the nodes with our owner's mark, each with the holder that made it (empty: unknown)."""
        if not self._holder:
            return
        theirs = frozenset(name for name, holder in nodes.items() if holder and holder < self._holder)
        if self._known is not None and theirs - self._known:
            self._last = self._monotonic()
        self._known = theirs if self._known is None else self._known | theirs
        self._known &= nodes.keys()
