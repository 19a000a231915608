"""The bridge's JSON as values of the model; anything malformed is a `ControllerError`, never a `KeyError`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioner.controller.port import (
    BridgeMode,
    BuildFinished,
    BuildStarted,
    ControllerInfo,
    ItemBuildable,
    ItemLeft,
    NodeOffline,
    NodeOnline,
    Observation,
    Snapshot,
)
from provisioner.model.errors import ControllerError
from provisioner.model.queue import ItemKind, NodeView, QueueItem, RequestKey


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeStatus:
    """What an installed bridge says of itself."""

    bridge: str
    content: str  # the fingerprint of its script; empty of one that does not tell
    protocol: tuple[int, ...]
    mode: BridgeMode
    session: str
    epoch: str
    listeners: Mapping[str, int]
    events_lost: int
    readers: int
    owners: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """What became of an attempt to put the bridge in."""

    done: bool  # False: the one that is there stays
    used_by: tuple[str, ...] = ()  # because these owner ids are at work with it, and it is of another release


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """A snapshot, and where the events go on from it."""

    epoch: str
    seq: int
    bridge: str
    snapshot: Snapshot
    unknown: frozenset[str]  # nodes with our mark that this installation has not been told about: adopt them


@dataclass(frozen=True, kw_only=True, slots=True)
class EventBatch:
    """What happened since the last one. After `resync` only a new hello tells the truth."""

    seq: int
    observations: tuple[Observation, ...] = ()
    resync: bool = False


def malformed(what: str) -> ControllerError:
    """The error for an answer that is JSON, but not the protocol's."""
    return ControllerError(f"the bridge gave an answer that is not of its protocol: {what}", code=200)


def as_object(value: object, what: str) -> Mapping[str, Any]:
    """The value, if it is a JSON object."""
    if not isinstance(value, dict):
        raise malformed(f"{what} is not an object")
    return value


def as_list(value: object, what: str) -> list[Any]:
    """The value, if it is a JSON list."""
    if not isinstance(value, list):
        raise malformed(f"{what} is not a list")
    return value


def text(data: Mapping[str, Any], key: str) -> str:
    """A text that must be there."""
    value = data.get(key)
    if not isinstance(value, str):
        raise malformed(f"{key} is not a text")
    return value


def maybe_text(data: Mapping[str, Any], key: str) -> str | None:
    """A text or null."""
    return None if data.get(key) is None else text(data, key)


def texts(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts that must be there."""
    found = as_list(data.get(key), key)
    if not all(isinstance(one, str) for one in found):
        raise malformed(f"{key} holds something that is not a text")
    return tuple(found)


def integer(data: Mapping[str, Any], key: str) -> int:
    """A whole number that must be there."""
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise malformed(f"{key} is not a whole number")
    return value


def maybe_integer(data: Mapping[str, Any], key: str) -> int | None:
    """A whole number or null."""
    return None if data.get(key) is None else integer(data, key)


def flag(data: Mapping[str, Any], key: str) -> bool:
    """True or false."""
    value = data.get(key)
    if not isinstance(value, bool):
        raise malformed(f"{key} is neither true nor false")
    return value


def read_status(answer: object) -> BridgeStatus:
    """The answer of `status`."""
    data = as_object(answer, "the status")
    return BridgeStatus(
        bridge=text(data, "bridge"),
        content=maybe_text(data, "content") or "",
        protocol=tuple(p for p in as_list(data.get("protocol"), "protocol") if isinstance(p, int)),
        mode=_mode(data),
        session=text(data, "session"),
        epoch=text(data, "epoch"),
        listeners={
            name: count
            for name, count in as_object(data.get("listeners"), "listeners").items()
            if isinstance(count, int)
        },
        events_lost=integer(data, "events_lost"),
        readers=integer(data, "readers"),
        owners=tuple(str(owner) for owner in as_list(data.get("owners"), "owners")),
    )


def read_hello(answer: object, *, controller: str, user: str) -> Hello:
    """The answer of `hello`."""
    data = as_object(answer, "the snapshot")
    nodes = [as_object(node, "a node") for node in as_list(data.get("nodes"), "nodes")]
    return Hello(
        epoch=text(data, "epoch"),
        seq=integer(data, "seq"),
        bridge=text(data, "bridge"),
        snapshot=Snapshot(
            info=ControllerInfo(
                name=controller,
                version=text(data, "version"),
                session=text(data, "session"),
                mode=_mode(data),
                user=user,
                quieting_down=flag(data, "quieting_down"),
            ),
            items=tuple(read_item(item, controller=controller) for item in as_list(data.get("items"), "items")),
            nodes=tuple(_read_node(node) for node in nodes),
        ),
        unknown=frozenset(text(node, "name") for node in nodes if not flag(node, "known")),
    )


def read_item(answer: object, *, controller: str) -> QueueItem:
    """One ITEM."""
    data = as_object(answer, "an item")
    try:
        kind = ItemKind(text(data, "kind"))
    except ValueError:
        raise malformed(f"an item of kind {data.get('kind')!r}") from None
    parameters = as_object(data.get("parameters"), "parameters")
    return QueueItem(
        key=RequestKey(
            controller=controller,
            queue_id=integer(data, "id"),
            since_ms=integer(data, "since_ms"),
            task=text(data, "task"),
        ),
        kind=kind,
        job=text(data, "job"),
        label=maybe_text(data, "label"),
        build_url=maybe_text(data, "build_url"),
        why=maybe_text(data, "why"),
        parameters={name: text(parameters, name) for name in parameters},
        causes=tuple(str(cause) for cause in as_list(data.get("causes") or [], "causes")),
        buildable_ms=maybe_integer(data, "buildable_ms"),
    )


def read_events(answer: object, *, controller: str) -> EventBatch:
    """The answer of `events`. Types that this side does not know are left out: a newer bridge may have them."""
    data = as_object(answer, "the events")
    seq = integer(data, "seq")
    if data.get("resync") is True:
        return EventBatch(seq=seq, resync=True)
    events = [as_object(event, "an event") for event in as_list(data.get("events"), "events")]
    if any(event.get("type") == "quiet" for event in events):
        # it changes what every item waits for, which only a snapshot tells
        return EventBatch(seq=seq, resync=True)
    seen = (_read_event(event, controller=controller) for event in events)
    return EventBatch(seq=seq, observations=tuple(observation for observation in seen if observation is not None))


def _read_event(data: Mapping[str, Any], *, controller: str) -> Observation | None:
    match text(data, "type"):
        case "buildable":
            return ItemBuildable(item=read_item(data.get("item"), controller=controller))
        case "left":
            return ItemLeft(
                queue_id=integer(data, "id"),
                since_ms=integer(data, "since_ms"),
                cancelled=flag(data, "cancelled"),
                node=maybe_text(data, "node"),
            )
        case "started":
            return BuildStarted(
                name=text(data, "node"),
                queue_id=maybe_integer(data, "queue_id"),
                build_url=maybe_text(data, "build_url"),
            )
        case "finished":
            return BuildFinished(
                name=text(data, "node"),
                queue_id=maybe_integer(data, "queue_id"),
                failed=flag(data, "failed"),
                lost=data.get("lost") is True,  # an older bridge does not tell
            )
        case "online":
            return NodeOnline(name=text(data, "node"))
        case "offline":
            return NodeOffline(name=text(data, "node"), cause=text(data, "cause"))
        case "gone":
            return NodeOffline(name=text(data, "node"), cause="the node was deleted")
        case _:
            return None


def _read_node(data: Mapping[str, Any]) -> NodeView:
    return NodeView(
        name=text(data, "name"),
        online=flag(data, "online"),
        busy=flag(data, "busy"),
        queue_id=maybe_integer(data, "queue_id"),
        build_url=maybe_text(data, "build_url"),
        offline_cause=maybe_text(data, "offline_cause"),
        accepting=flag(data, "accepting"),
        connected=flag(data, "connected") if "connected" in data else True,
        started_once=flag(data, "started"),
        finished=flag(data, "finished"),
        known=flag(data, "known"),
    )


def _mode(data: Mapping[str, Any]) -> BridgeMode:
    try:
        return BridgeMode(text(data, "mode"))
    except ValueError:
        raise malformed(f"mode {data.get('mode')!r}") from None
