"""What a queue shows may be late, old or cut off for a moment."""

from __future__ import annotations

from pathlib import Path

from tests.faults.estate import Estate
from tests.faults.mortal import Death


def test_an_item_that_is_out_of_sight_for_a_moment_keeps_its_agent(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.jenkins.connect_s = 20
        estate.start()
        work = estate.jenkins.queue()
        estate.pass_s(5)
        assert work.item is not None
        key = work.item.key
        hidden = estate.jenkins.items.pop(key.queue_id)  # as while a controller that starts reads its queue
        fate = estate.jenkins.fates.pop(key)
        estate.jenkins._snap()
        estate.pass_s(2)
        assert estate.desk.book.get(key) is None
        estate.jenkins.items[key.queue_id] = hidden
        estate.jenkins.fates[key] = fate
        estate.jenkins._snap()
        estate.finish()
        assert estate.outcomes() == {0: "ran"}
        assert len(estate.jenkins.registered) == 1


def test_an_item_whose_agent_went_before_the_next_sidecar_saw_it_gets_another(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start(lambda point: Death.NOW if point == "after save agent planned" else Death.NOT)
        estate.jenkins.queue()
        estate.until(lambda: estate.dead or estate.life is None, "it died with an agent planned")
        estate.kill()
        estate.jenkins.outage()
        estate.start()
        estate.pass_s(2)
        (name,) = estate.desk.agents
        estate.order(lambda do: do.delete_now(name))  # nothing of it is anywhere, so that it is gone at once
        estate.pass_s(2)
        assert not estate.desk.agents
        estate.jenkins.recover()
        estate.finish(within_s=120)
        assert estate.outcomes() == {0: "ran"}
