"""What was decided is done: every act is one request, and what it needs to be understood later is written before it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from provisioner.cleanup.facts import MARK, Cleaning, NodeFacts, Note, Policy, Word, read_note, with_note
from provisioner.cleanup.hands import ChosenHands
from provisioner.cleanup.job import FRESH_S, CleanupJob
from provisioner.cleanup.nodes import TRIES, LabelChange
from provisioner.cleanup.state import Act, Decision
from provisioner.model.errors import ControllerError

#: Nothing makes these undone: a success that was used up is never believed again.
_FINAL = frozenset({Word.SPENT, Word.VOID})


class Acts:
    """What is done to nodes and cleanings of one controller.

    Args:
        job: the cleanup job.
        hands: the way to the nodes.
        policy: what the configuration says.
        monotonic: a clock.
    """

    def __init__(
        self, job: CleanupJob, hands: ChosenHands, policy: Policy, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._job = job
        self._hands = hands
        self._policy = policy
        self._monotonic = monotonic

    def do(self, node: NodeFacts, decision: Decision, seen_s: float) -> bool:
        """What was decided; False: it is no longer as it was seen.

        Args:
            node: the facts.
            decision: what is to be done.
            seen_s: monotonic, when they began to be read.

        Raises:
            ControllerError: it could not be done.
        """
        cleaning = decision.cleaning
        if decision.act is Act.MARK_DIRTY:
            return self.make_dirty(node, decision)
        if cleaning is not None and decision.note is not None and not self.describe(cleaning, decision.note):
            return False
        match decision.act:
            case Act.START | Act.RETRY:
                if self._monotonic() - seen_s > FRESH_S:
                    return False  # too slow to be sure that nobody else has asked
                self._job.start(node.name)
            case Act.MARK_CLEAN if cleaning is not None:
                return self._make_clean(node, cleaning)
            case Act.STOP if decision.queue_id is not None:
                self._job.cancel(decision.queue_id)
            case Act.STOP if cleaning is not None:
                self._job.stop(cleaning)
            case Act.QUARANTINE:
                if decision.queue_id is not None:
                    self._job.cancel(decision.queue_id)
                return self._hands.now.hold(node.name, f"{MARK} quarantine: {decision.reason}"[:500])
        return True

    def describe(self, cleaning: Cleaning, note: Note) -> bool:
        """Put the note into the build's description; False: what stands there now must not be taken back."""
        for _ in range(TRIES):
            began_s = self._monotonic()
            before = self._job.description(cleaning)
            old = read_note(before)
            if old is not None and old.word in _FINAL and note.word is Word.CLEAN:
                return False
            if self._hands.now.describe(self._job.name, cleaning.number, before, with_note(before, note)):
                if note.word is not Word.CLEAN or self._hands.atomic or self._monotonic() - began_s <= FRESH_S:
                    return True
                # in this time another scheduler may have used the success up, and this has written over it
                self.describe(cleaning, Note(word=Word.SPENT, text="does not count: it was written too slowly"))
                return False
        return False

    def make_dirty(self, node: NodeFacts, decision: Decision) -> bool:
        """Make it dirty, whatever becomes of the note about it; False: it is no longer as it was seen."""
        change = self._change(node, add=self._policy.dirty)
        if decision.cleaning is None or decision.note is None:
            return self._hands.now.relabel(node.name, change)
        try:
            self.describe(decision.cleaning, decision.note)
        except ControllerError as error:
            changed = self._hands.now.relabel(node.name, change)
            if error.code == 404:  # the build is gone, and with it all reason to believe
                return changed
            raise
        return self._hands.now.relabel(node.name, change)

    def _make_clean(self, node: NodeFacts, cleaning: Cleaning) -> bool:
        change = self._change(node, add=self._policy.clean)
        if not self._hands.now.relabel(node.name, change, idle_since_ms=node.idle_since_ms):
            return False
        note = read_note(self._job.description(cleaning))
        if note is not None and note.word is Word.CLEAN:
            return True
        # another scheduler made it clean before us, saw it used and dirty again, and spent this success
        labels = node.labels - {self._policy.dirty} | {self._policy.clean}
        self._hands.now.relabel(node.name, self._change(replace(node, labels=labels), add=self._policy.dirty))
        return False

    def _change(self, node: NodeFacts, *, add: str) -> LabelChange:
        policy = self._policy
        watched = frozenset({policy.cleanable, policy.dirty, policy.clean})
        return LabelChange(
            add=add,
            remove=policy.clean if add == policy.dirty else policy.dirty,
            watched=watched,
            expected=watched & node.labels,
            guarded=add == policy.clean and policy.after_builds == 1,
        )
