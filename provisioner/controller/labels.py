"""Labels of queue items where only REST is there to ask, and the helper nodes that make Jenkins tell them.

A Pipeline's `node` step and a cell of a matrix show their label nowhere but in the sentence why they wait.
That sentence leaves it out while the controller has no node at all, and names the node instead while exactly
one has the label. So a node without an agent is made while such an item waits, and removed soon after the
last one left: one without labels against the first case, one with the labels of the named node against the
second.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Mapping
from urllib.parse import quote

from provisioner.controller.rest_views import RawItem, RawNode, Says
from provisioner.model.queue import ItemKind, RequestKey

#: How long nothing may have needed the helper nodes before they go.
LINGER_S = 10.0
#: The kind of helper node without labels; every other kind is the name of the node that it is like.
BARE = "-"


class Labels:
    """Remembers the label of every item that waits, and says which helper nodes are wanted."""

    def __init__(self) -> None:
        self._known: dict[RequestKey, str | None] = {}
        self._beside: dict[RequestKey, str | None] = {}  # what the job's own expression was then
        self._idle_since: float | None = None

    def resolve(
        self, items: Mapping[RequestKey, RawItem], nodes: Mapping[str, RawNode], used: Collection[str] = ()
    ) -> tuple[dict[RequestKey, str | None], set[str]]:
        """The label of every item that it is known of, and the kinds of helper nodes that the rest needs.

        An item is left out rather than given a label that may be wrong: what routes it looks at it once.
        `used` are agents that have had a build: an idle one may be waited for, by its name, by the Pipeline that a
        restart of the controller interrupted.
        """
        known: dict[RequestKey, str | None] = {}
        wanted: set[str] = set()
        for key, item in items.items():
            why = item.why
            if why.says is Says.LABEL:
                known[key] = why.name
            elif key in self._known and self._beside[key] == item.expression:  # nobody has edited the job since
                known[key] = self._known[key]
            elif item.expression is not None:
                known[key] = item.expression
            elif why.says is Says.ANY or (item.kind is not ItemKind.PIPELINE and why.says is Says.NOTHING):
                known[key] = None
            elif why.says is Says.NO_NODES:
                wanted.add(BARE)
            elif why.says is Says.NODE and why.name is not None:
                self._by_node(key, why.name, nodes, known, wanted, used)
        self._known = known
        self._beside = {key: items[key].expression for key in known}
        return known, wanted

    @staticmethod
    def _by_node(
        key: RequestKey,
        name: str,
        nodes: Mapping[str, RawNode],
        known: dict[RequestKey, str | None],
        wanted: set[str],
        used: Collection[str],
    ) -> None:
        node = nodes.get(name)
        if node is None:
            return  # it came or went between the two requests: the next look tells
        spent = node.view is not None and not node.view.busy and (name in used or not node.view.accepting)
        if node.label is not None and not spent:
            known[key] = node.label  # made by us, or by our forerunner, for this label
        elif any(other.placeholder == kind_like(name) for other in nodes.values()):
            known[key] = name  # a node with the same labels does not match: the expression is the node's own name
        else:
            wanted.add(kind_like(name))

    def over(self, items: Mapping[RequestKey, RawItem], now_s: float) -> bool:
        """Whether the helper nodes may go: nothing has waited for a while whose label only `why` tells."""
        if any(item.expression is None and self._known.get(key, "unknown") for key, item in items.items()):
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now_s
        return now_s - self._idle_since >= LINGER_S


def kind_like(node: str) -> str:
    """The kind of helper node that has the labels of another node."""
    return f"like:{quote(node, safe='')}"


def placeholder_name(owner: str, token: Callable[[int], str] = secrets.token_hex) -> str:
    """A name for a helper node, never used before."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', owner)}-placeholder-{token(4)}"
