"""Label expressions: what parses, what it means, and that no text is too much."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.routing.expression import MAX_CHARACTERS, LabelSyntaxError, parse, quote, read, single


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("linux", {"linux"}, True),
        ("linux", {"Linux"}, False),
        ("a && b", {"a"}, False),
        ("a || b && c", {"a"}, True),  # && binds tighter than ||
        ("(a || b) && c", {"a"}, False),
        ("!a && b", {"b"}, True),  # ! binds tighter than &&
        ("!(a && b)", {"b"}, True),
        ("a -> b || c", {"a", "c"}, True),  # || binds tighter than ->
        ("a -> b", set(), True),
        ("a -> b", {"a"}, False),
        ("a -> b <-> c", {"b"}, False),  # -> binds tighter than <->
        ("a <-> b <-> c", {"a"}, True),  # <-> chains from the left
        ("a-b", {"a-b"}, True),
        ("a-->b", {"b"}, True),
        ("a->b", {"a", "b"}, True),
        ("image=maven:3.9-eclipse", {"image=maven:3.9-eclipse"}, True),
        ('"two words"', {"two words"}, True),
        ('"say \\"hi\\"\\t\\\\"', {'say "hi"\t\\'}, True),
        ('"a"&&"b"', {"a", "b"}, True),
        ("a\nb", {"a\nb"}, True),  # only space and tab separate
        ("日本 && ünï", {"日本", "ünï"}, True),
        ('""', {""}, True),
    ],
)
def test_an_expression_matches_a_set_of_labels(text: str, labels: set[str], matches: bool) -> None:
    assert parse(text).matches(labels) is matches


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("  ", 2),
        ("!!a", 1),
        ("! ! a", 2),
        ("a->b->c", 4),
        ("a b", 2),
        ("a & b", 2),
        ("a | b", 2),
        ("a<b", 1),
        ("a>b", 1),
        ("(a", 0),
        ("a)", 1),
        ("()", 1),
        ("a &&", 4),
        ("&& a", 0),
        ("it's", 2),
        ('"open', 0),
        ('"a\\u0041"', 0),
        ('"a\nb"', 0),
        ("a(b)", 1),
        ("a!b", 1),
        ("a" * (MAX_CHARACTERS + 1), MAX_CHARACTERS),
    ],
)
def test_what_jenkins_refuses_is_refused_with_its_position(text: str, position: int) -> None:
    with pytest.raises(LabelSyntaxError) as caught:
        parse(text)
    assert caught.value.position == position
    assert f"at character {position + 1}" in caught.value.message


def test_atoms_are_all_that_are_named_in_order_of_appearance() -> None:
    expression = parse("b && !a || b -> c")
    assert expression.atoms() == {"a", "b", "c"}
    assert expression.ordered_atoms == ("b", "a", "c")


def test_it_prints_as_jenkins_prints_it() -> None:
    assert str(parse(' a &&( "b" || !"c:d" )')) == 'a&&(b||!"c:d")'
    assert str(parse("a.")) == '"a."'


@pytest.mark.parametrize(
    "text",
    [
        "(" * 4999 + "a" + ")" * 4999,
        "!(" * 3333 + "a" + ")" * 3333,
        "&&".join(["a"] * 3333),
        "<->".join(["a"] * 2499),
    ],
)
def test_no_nesting_is_too_deep(text: str) -> None:
    expression = parse(text)
    assert parse(str(expression)) == expression
    assert expression.matches({"a"}) is not expression.matches(set())


@pytest.mark.parametrize("text", ["(" * 9999, "!" * 9999, '"' * 9999, "a->" * 3000, "(a" * 4000, ")" * 9999])
def test_hostile_texts_are_refused_and_no_more(text: str) -> None:
    with pytest.raises(LabelSyntaxError):
        parse(text)


def test_a_text_that_does_not_parse_is_read_as_one_label_of_that_name() -> None:
    expression, problem = read("two words")
    assert problem is not None
    assert expression.matches({"two words"})
    assert not expression.matches({"two", "words"})
    assert read("a&&b") == (parse("a&&b"), None)


@given(st.text(max_size=30))
def test_any_label_can_be_asked_for_in_quotes(name: str) -> None:
    assert parse(quote(name)) == single(name)
    assert parse(f"({quote(name)})&&!({quote(name + 'x')})").matches({name})


@given(st.text(alphabet="ab&|!<>-() \t\"'\\\n", max_size=12))
def test_what_parses_prints_as_a_text_of_the_same_meaning(text: str) -> None:
    expression, problem = read(text)
    assert problem is None or 0 <= problem.position <= len(text)
    assert parse(str(expression)) == expression


_MEANS: dict[str, Callable[[bool, bool], bool]] = {
    "&&": lambda a, b: a and b,
    "||": lambda a, b: a or b,
    "->": lambda a, b: b if a else True,
    "<->": lambda a, b: a is b,
}
_Tree = str | tuple["_Tree", str, "_Tree"] | tuple[str, "_Tree"]
_trees: st.SearchStrategy[_Tree] = st.recursive(
    st.sampled_from("abc"),
    lambda inner: st.tuples(st.just("!"), inner) | st.tuples(inner, st.sampled_from(sorted(_MEANS)), inner),
)


def _written(tree: _Tree) -> str:
    match tree:
        case str():
            return tree
        case ("!", inner):
            return f"!({_written(inner)})"
        case (left, sign, right):
            return f"({_written(left)}){sign}({_written(right)})"
    raise AssertionError(tree)


def _meant(tree: _Tree, labels: frozenset[str]) -> bool:
    match tree:
        case str():
            return tree in labels
        case ("!", inner):
            return not _meant(inner, labels)
        case (left, sign, right):
            return _MEANS[sign](_meant(left, labels), _meant(right, labels))
    raise AssertionError(tree)


@given(_trees, st.frozensets(st.sampled_from("abc")))
def test_evaluation_is_that_of_the_tree(tree: _Tree, labels: frozenset[str]) -> None:
    assert parse(_written(tree)).matches(labels) is _meant(tree, labels)
