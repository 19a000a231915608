"""What to do with each node: a pure function of the facts, the time and the policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from provisioner.cleanup.facts import LOAN_MARK, MARK, Cleaning, NodeFacts, Note, Policy, Queued, Word
from provisioner.model.errors import IllegalActError

#: An executor may be free only a moment after its build has ended; what ended later than this was another build.
#: A Pipeline gives it back before its end, other jobs when all is stored.
SETTLE_MS, SETTLE_OTHERS_MS = 2_000, 10_000
_MOST_RETRY_S = 3600.0
#: A node must be seen free for so long before the waiting of its cleaning is held against it: no time that Jenkins
#: tells is when it could begin; `buildableStartMilliseconds`, too, is the end of the quiet period, before any restart.
CONFIRM_S = 60.0


class NodeState(StrEnum):
    """Where a cleanable node stands."""

    NEW = "new"  # neither dirty nor clean, or both
    CLEAN = "clean"  # builds may use it
    DIRTY = "dirty"  # waits for its cleaning
    CLEANING = "cleaning"  # its cleaning is queued or runs
    CLEANED = "cleaned"  # its cleaning has succeeded, its labels do not say so yet
    FAILED = "failed"  # its newest cleaning failed; it will be tried again
    QUARANTINED = "quarantined"  # taken offline by us after too many failures; a person must look
    HELD = "held"  # dirty and taken offline by a person
    SKIPPED = "skipped"  # the configuration says so


class Act(StrEnum):
    """What is done with a node in one pass."""

    WAIT = "wait"  # nothing
    MARK_DIRTY = "mark-dirty"
    START = "start-cleaning"
    RETRY = "retry-cleaning"
    MARK_CLEAN = "mark-clean"
    SPEND = "disregard-cleaning"  # its success does not count
    NOTE = "note"  # write down how often a clean node was used, or that a quarantine was told
    STOP = "stop-cleaning"  # too long, or one too many
    QUARANTINE = "quarantine"


#: What may be done in which state; `decide` keeps to it.
MOVES: Mapping[NodeState, frozenset[Act]] = {
    NodeState.NEW: frozenset({Act.MARK_DIRTY}),
    NodeState.CLEAN: frozenset({Act.WAIT, Act.MARK_DIRTY, Act.NOTE}),
    NodeState.DIRTY: frozenset({Act.WAIT, Act.START}),
    NodeState.CLEANING: frozenset({Act.WAIT, Act.STOP, Act.SPEND, Act.QUARANTINE}),
    NodeState.CLEANED: frozenset({Act.WAIT, Act.MARK_CLEAN, Act.SPEND}),
    NodeState.FAILED: frozenset({Act.WAIT, Act.RETRY, Act.QUARANTINE}),
    NodeState.QUARANTINED: frozenset({Act.WAIT, Act.NOTE}),
    NodeState.HELD: frozenset({Act.WAIT}),
    NodeState.SKIPPED: frozenset({Act.WAIT}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One node's turn, and why."""

    node: str
    state: NodeState
    act: Act
    reason: str
    cleaning: Cleaning | None = None  # which one is started anew, noted, stopped or believed
    queue_id: int | None = None  # the item to cancel
    note: Note | None = None  # to be written into `cleaning` before anything else is done
    soon: bool = False  # it goes on by itself within minutes

    def __post_init__(self) -> None:
        if self.act not in MOVES[self.state]:
            raise IllegalActError(f"{self.act} of node {self.node}, which is {self.state}")


def decide(
    nodes: Iterable[NodeFacts], now_ms: int, policy: Policy, *, quieting_down: bool = False
) -> tuple[Decision, ...]:
    """A decision for each cleanable node, by name.

    Args:
        nodes: every node of the controller.
        now_ms: the controller's own time.
        policy: what the configuration says.
        quieting_down: whether Jenkins is about to shut down, and begins nothing.
    """
    looked_after = [node for node in nodes if is_looked_after(node, policy)]
    decisions = {node.name: _decide(node, now_ms, policy) for node in looked_after}
    if quieting_down:
        decisions = {name: _postponed(decision) for name, decision in decisions.items()}
    live = sum(1 for node in looked_after if node.queued or running(node))
    wanting = [node for node in looked_after if decisions[node.name].act in {Act.START, Act.RETRY}]
    # whoever decides takes them in the same order, so that two schedulers want the same nodes first
    for place, node in enumerate(sorted(wanting, key=lambda n: (_dirty_since_ms(n), n.name))):
        if live + place >= policy.at_once:
            waiting = f"waits: at most {policy.at_once} nodes are cleaned at once"
            decisions[node.name] = replace(decisions[node.name], act=Act.WAIT, reason=waiting)
    return tuple(decisions[name] for name in sorted(decisions))


def misspelt(nodes: Iterable[NodeFacts], policy: Policy) -> tuple[Decision, ...]:
    """A row for each name to skip that no node has: whichever node was meant is cleaned."""
    reason = "`skip` names it, but there is no such node"
    names = sorted(policy.skip - {node.name for node in nodes})
    return tuple(Decision(node=name, state=NodeState.SKIPPED, act=Act.WAIT, reason=reason) for name in names)


def is_looked_after(node: NodeFacts, policy: Policy) -> bool:
    """Never the built-in node, never one that does not ask for it."""
    return not node.built_in and policy.cleanable in node.labels


def is_free(node: NodeFacts) -> bool:
    """Whether a cleaning may begin there now."""
    return node.held is None and not _not_now(node) and not running(node)


def running(node: NodeFacts) -> tuple[Cleaning, ...]:
    """Its cleanings that have begun and not ended, newest first."""
    return tuple(c for c in node.cleanings if c.ended_ms is None)


def failures(node: NodeFacts) -> int:
    """How many cleanings in a row have failed since the last success or quarantine."""
    count = 0
    for cleaning in node.cleanings:
        if cleaning.ended_ms is None or cleaning.says(Word.VOID):
            continue
        if _succeeded(node, cleaning) or cleaning.says(Word.QUARANTINED):
            break
        count += 1
    return count


def evidence(node: NodeFacts) -> Cleaning | None:
    """The cleaning for which the node may be believed clean: the newest, if it succeeded and still counts."""
    newest = newest_ended(node)
    if newest is None or not _succeeded(node, newest) or newest.says(Word.SPENT):
        return None
    return newest


def newest_ended(node: NodeFacts) -> Cleaning | None:
    """Its newest cleaning that has ended and says anything."""
    return next((c for c in node.cleanings if c.ended_ms is not None and not c.says(Word.VOID)), None)


def is_our_quarantine(held: str | None) -> bool:
    """Whether a node was taken offline by us."""
    return held is not None and held.startswith(MARK)


def _postponed(decision: Decision) -> Decision:
    """While Jenkins begins nothing: neither is anything asked for, nor is it a node's fault what does not begin."""
    if decision.act in {Act.START, Act.RETRY, Act.QUARANTINE} or decision.queue_id is not None:
        reason = f"waits, Jenkins is about to shut down; {decision.reason}"
        return Decision(node=decision.node, state=decision.state, act=Act.WAIT, reason=reason)
    return decision


def _succeeded(node: NodeFacts, cleaning: Cleaning) -> bool:
    return cleaning.result == "SUCCESS" and cleaning.built_on in {None, "", node.name}


def _decide(node: NodeFacts, now_ms: int, policy: Policy) -> Decision:
    if node.name in policy.skip:
        return Decision(
            node=node.name, state=NodeState.SKIPPED, act=Act.WAIT, reason="skipped, as the configuration says"
        )
    clean, dirty = policy.clean in node.labels, policy.dirty in node.labels
    if clean == dirty:
        both = f"it was both {policy.clean} and {policy.dirty}"
        neither = f"it was neither {policy.clean} nor {policy.dirty}"
        return soiled(node, NodeState.NEW, both if clean else neither)
    return _decide_clean(node, now_ms, policy) if clean else _decide_dirty(node, now_ms, policy)


def soiled(node: NodeFacts, state: NodeState, reason: str) -> Decision:
    """Dirty now; the success that made it clean is used up first, so that it can never be believed again."""
    believed = evidence(node)
    note = Note(word=Word.SPENT, text=f"{node.name} is dirty again: {reason}") if believed else None
    return Decision(node=node.name, state=state, act=Act.MARK_DIRTY, reason=reason, cleaning=believed, note=note)


def _decide_clean(node: NodeFacts, now_ms: int, policy: Policy) -> Decision:
    believed = evidence(node)
    if believed is None or believed.ended_ms is None:
        # a form that was opened before and saved after the node became dirty brings the label back
        return soiled(node, NodeState.CLEAN, "no cleaning that still counts stands behind its label")
    uses, mark = _uses(node, believed, believed.ended_ms)
    if policy.after_builds and len(uses) >= policy.after_builds:
        last = _use_in_words(uses[-1])
        return soiled(
            node, NodeState.CLEAN, last if len(uses) == 1 else f"{len(uses)} builds used it, the last: {last}"
        )
    age_s = (now_ms - believed.ended_ms) / 1000
    if policy.after_age_s is not None and age_s > policy.after_age_s:
        return soiled(node, NodeState.CLEAN, f"it was cleaned {_span(age_s)} ago")
    # what was measured before the cleaning says nothing; a monitor measures once an hour
    disk = node.disk if node.disk is not None and node.disk.at_ms > believed.ended_ms else None
    if policy.disk_below is not None and disk is not None and disk.free_bytes < policy.disk_below:
        free = f"only {disk.free_bytes / 2**30:.1f} GiB are free on its disk"
        return soiled(node, NodeState.CLEAN, free)
    before = believed.note
    note = Note(word=Word.CLEAN, idle_mark_ms=mark, uses=uses, text=f"made {node.name} clean")
    if (before.idle_mark_ms if before else None, before.uses if before else ()) != (mark, uses):
        reason = f"used by {len(uses)} of {policy.after_builds} builds" if uses else "its cleaning is believed"
        return Decision(
            node=node.name, state=NodeState.CLEAN, act=Act.NOTE, reason=reason, cleaning=believed, note=note
        )
    reason = f"clean since its cleaning #{believed.number}"
    if node.held is not None:
        reason += f"; taken offline ({node.held or 'no reason given'})"
    return Decision(node=node.name, state=NodeState.CLEAN, act=Act.WAIT, reason=reason)


def _uses(node: NodeFacts, believed: Cleaning, ended_ms: int) -> tuple[tuple[str, ...], int | None]:
    """What has used a clean node, and since when it is idle; both as they are to be noted."""
    note = believed.note or Note(word=Word.CLEAN)
    uses, mark = list(note.uses), note.idle_mark_ms
    seen = {use.rpartition("@")[0] for use in uses}
    uses += [f"{url}@{mark or 0}" for url in node.runs if url not in seen]
    idle_ms = node.idle_since_ms
    if idle_ms is not None and not node.runs:
        known = any(use.endswith(f"@{mark or 0}") for use in uses)
        if idle_ms > _latest_idle_ms(believed, ended_ms) and not known:
            uses.append(f"unseen-{idle_ms}@{mark or 0}")
        mark = idle_ms if mark is None else max(mark, idle_ms)
    return tuple(uses), mark


def _latest_idle_ms(believed: Cleaning, ended_ms: int) -> int:
    """Since when a node may be idle at the latest, if nothing ran on it after this cleaning."""
    if believed.note is not None and believed.note.idle_mark_ms is not None:
        return believed.note.idle_mark_ms
    return ended_ms + (SETTLE_MS if believed.built_on is None else SETTLE_OTHERS_MS)


def _use_in_words(use: str) -> str:
    url = use.rpartition("@")[0]
    return "a build ran on it between two looks" if url.startswith("unseen-") else f"{url} ran on it"


def _decide_dirty(node: NodeFacts, now_ms: int, policy: Policy) -> Decision:
    newest = newest_ended(node)
    failed = failures(node)
    if node.held is not None:
        return _decide_held(node, newest, failed)
    if node.queued or running(node):
        return _decide_live(node, now_ms, policy)
    believed = evidence(node)
    if believed is not None:
        return _decide_cleaned(node, believed)
    if newest is not None and failed:
        return _decide_failed(node, newest, failed, now_ms, policy)
    busy = _not_now(node)
    if busy:
        return Decision(node=node.name, state=NodeState.DIRTY, act=Act.WAIT, reason=busy)
    return Decision(node=node.name, state=NodeState.DIRTY, act=Act.START, reason="it is dirty and idle")


def _decide_held(node: NodeFacts, newest: Cleaning | None, failed: int) -> Decision:
    held = node.held or "no reason given"
    if not is_our_quarantine(node.held):
        reason = f"a person took it offline ({held}); it stays so"
        if held.startswith(LOAN_MARK):
            reason = f"it is {held.removeprefix(LOAN_MARK).partition(' | ')[0].strip()}"
        return Decision(node=node.name, state=NodeState.HELD, act=Act.WAIT, reason=reason)
    if newest is not None and failed:
        # once a person has brought it back its failures are forgiven
        note = Note(word=Word.QUARANTINED, text=f"{node.name} was taken offline after this")
        return Decision(
            node=node.name,
            state=NodeState.QUARANTINED,
            act=Act.NOTE,
            reason=held,
            cleaning=newest,
            note=note,
        )
    return Decision(node=node.name, state=NodeState.QUARANTINED, act=Act.WAIT, reason=held)


def _decide_live(node: NodeFacts, now_ms: int, policy: Policy) -> Decision:
    live = running(node)
    state = NodeState.CLEANING
    if len(live) + len(node.queued) > 1:
        # the older one stays, whoever asked for it
        if node.queued:
            item = node.queued[-1]
            return Decision(
                node=node.name, state=state, act=Act.STOP, reason="it is queued twice", queue_id=item.queue_id
            )
        note = Note(word=Word.VOID, text=f"{node.name} was being cleaned already")
        return Decision(
            node=node.name, state=state, act=Act.STOP, reason="it is cleaned twice", cleaning=live[0], note=note
        )
    if not live:
        return _decide_queued(node, node.queued[0], now_ms, policy)
    (cleaning,) = live
    lasted_s = (now_ms - cleaning.started_ms) / 1000
    if lasted_s > policy.dirty_timeout_s:
        reason = f"its cleaning #{cleaning.number} has run for {_span(lasted_s)}"
        if cleaning.overdue_s > max(CONFIRM_S, policy.dirty_timeout_s):
            # as long as it is there no other can be tried
            reason = f"{reason} and does not end when it is told to: {cleaning.url}"
            return Decision(node=node.name, state=state, act=Act.QUARANTINE, reason=reason, cleaning=cleaning)
        return Decision(node=node.name, state=state, act=Act.STOP, reason=reason, cleaning=cleaning)
    if cleaning.on_node and node.runs and not cleaning.says(Word.SPENT):
        reason = f"{node.runs[0]} runs beside its cleaning"
        note = Note(word=Word.SPENT, text=f"does not count: {reason}")
        return Decision(node=node.name, state=state, act=Act.SPEND, reason=reason, cleaning=cleaning, note=note)
    reason = f"its cleaning #{cleaning.number} is under way"
    return Decision(node=node.name, state=state, act=Act.WAIT, reason=reason, soon=True)


def _decide_queued(node: NodeFacts, item: Queued, now_ms: int, policy: Policy) -> Decision:
    state = NodeState.CLEANING
    waited_s = (now_ms - item.since_ms) / 1000
    if waited_s <= policy.dirty_timeout_s:
        return Decision(node=node.name, state=state, act=Act.WAIT, reason="its cleaning is queued", soon=True)
    reason = f"its cleaning has waited in the queue for {_span(waited_s)}"
    if not item.buildable:
        # held up by the job (one build at a time, say) or by Jenkins; asked for anew it would only be the last of all
        reason += f": {item.why}" if item.why else ""
        return Decision(node=node.name, state=state, act=Act.WAIT, reason=reason)
    if _not_now(node):
        return Decision(node=node.name, state=state, act=Act.STOP, reason=reason, queue_id=item.queue_id)
    reason = f"{reason}, although the node is free"
    if (item.free_s or 0.0) < CONFIRM_S:
        return Decision(node=node.name, state=state, act=Act.WAIT, reason=reason, soon=True)
    # nothing keeps the job from running there but itself: it would wait for ever
    return Decision(node=node.name, state=state, act=Act.QUARANTINE, reason=reason, queue_id=item.queue_id)


def _decide_cleaned(node: NodeFacts, believed: Cleaning) -> Decision:
    state = NodeState.CLEANED
    ended_ms = believed.ended_ms or 0
    used = f"{node.runs[0]} ran on it" if node.runs else ""
    if node.idle_since_ms is not None and node.idle_since_ms > _latest_idle_ms(believed, ended_ms):
        used = used or "a build ran on it"
    if used:
        reason = f"{used} after its cleaning #{believed.number}"
        note = Note(word=Word.SPENT, text=f"does not count: {reason}")
        return Decision(node=node.name, state=state, act=Act.SPEND, reason=reason, cleaning=believed, note=note)
    if not node.connected:
        return Decision(node=node.name, state=state, act=Act.WAIT, reason="it is not connected")
    if believed.on_node or (node.idle_told and node.idle_since_ms is None):
        reason = f"its cleaning #{believed.number} still has the executor"
        return Decision(node=node.name, state=state, act=Act.WAIT, reason=reason, soon=True)
    # written in any case: without the permission to write there no success could ever be used up
    note = Note(word=Word.CLEAN, idle_mark_ms=node.idle_since_ms, text=f"made {node.name} clean")
    return Decision(
        node=node.name,
        state=state,
        act=Act.MARK_CLEAN,
        reason=f"its cleaning #{believed.number} succeeded",
        cleaning=believed,
        note=note,
    )


def _decide_failed(node: NodeFacts, newest: Cleaning, failed: int, now_ms: int, policy: Policy) -> Decision:
    state = NodeState.FAILED
    elsewhere = newest.result == "SUCCESS" and newest.built_on not in {None, "", node.name}
    how = f"ran on {newest.built_on} instead" if elsewhere else f"ended as {newest.result}"
    told = f"its cleaning #{newest.number} {how}"
    if failed > policy.retries:
        in_a_row = f"{failed} cleanings in a row failed; " if failed > 1 else ""
        reason = f"{in_a_row}{told}: {newest.url}"
        return Decision(node=node.name, state=state, act=Act.QUARANTINE, reason=reason, cleaning=newest)
    wait_s = min(_MOST_RETRY_S, policy.retry_after_s * 2 ** (failed - 1))
    left_s = wait_s - (now_ms - (newest.ended_ms or now_ms)) / 1000
    busy = _not_now(node) or (f"tried again in {_span(left_s)}" if left_s > 0 else "")
    if busy:
        return Decision(node=node.name, state=state, act=Act.WAIT, reason=f"{told}; {busy}")
    return Decision(node=node.name, state=state, act=Act.RETRY, reason=f"{told}; try {failed + 1}", cleaning=newest)


def _not_now(node: NodeFacts) -> str:
    """Why no cleaning may begin; empty: it may."""
    if not node.connected:
        return "it is not connected"
    return f"it runs {node.runs[0]}" if node.runs else ""


def _dirty_since_ms(node: NodeFacts) -> int:
    """Roughly: what is known of it begins with its last successful cleaning."""
    return next((c.started_ms for c in node.cleanings if c.ended_ms is not None and _succeeded(node, c)), 0)


def _span(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h"
