"""Another provisioner with our owner id, told from the nodes that it makes."""

from __future__ import annotations

from provisioner.controller.rivals import GONE_AFTER_S, Rivals

OLD, OURS, YOUNG = "01-a", "02-b", "03-c"


class Eyes:
    def __init__(self, holder: str = OURS) -> None:
        self.now = 0.0
        self.rivals = Rivals(holder, lambda: self.now)

    def look(self, **nodes: str) -> bool:
        self.rivals.look(nodes)
        return self.rivals.alive


def test_what_is_there_at_first_is_a_legacy() -> None:
    eyes = Eyes()
    assert not eyes.look(a=OLD)
    assert not eyes.look(a=OLD)
    assert not eyes.look()


def test_a_new_node_of_an_older_one_tells_that_it_is_alive_until_it_makes_none_for_long() -> None:
    eyes = Eyes()
    eyes.look(a=OLD)
    eyes.now = 5.0
    assert eyes.look(a=OLD, b=OLD)
    eyes.now = 7.0
    assert eyes.look(b=OLD)
    eyes.now = 5.0 + GONE_AFTER_S
    assert not eyes.look(b=OLD)
    assert eyes.look(b=OLD, c=OLD)


def test_the_older_one_goes_on_whatever_younger_ones_do() -> None:
    eyes = Eyes()
    eyes.look()
    assert not eyes.look(a=YOUNG)


def test_own_nodes_and_those_of_nobody_are_no_news() -> None:
    eyes = Eyes()
    eyes.look()
    assert not eyes.look(a=OURS, b="")


def test_without_a_name_it_looks_away() -> None:
    eyes = Eyes(holder="")
    eyes.look()
    assert not eyes.look(a=OLD)
