import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provisioner.cleanup.facts import Note, Word, read_note, with_note
from provisioner.cleanup.labels import UnreadableNodeError, changed_labels, label_text, split_labels, with_label_text

REAL = b"""<?xml version="1.1" encoding="UTF-8"?>
<slave>
  <name>n1</name>
  <description>&lt;label&gt;no&lt;/label&gt; \xc3\xa4</description>
  <nodeProperties><x><label>theirs</label></x></nodeProperties>
  <label>linux cleanable &quot;odd label&quot; zz</label>
</slave>"""

words = st.text(
    st.characters(codec="utf-8", exclude_characters="\"'\\", exclude_categories=("Cc", "Z", "Cs")), min_size=1
)


def test_only_the_nodes_own_label_field_changes() -> None:
    text = label_text(REAL)
    assert split_labels(text) == ("linux", "cleanable", "odd label", "zz")
    after = with_label_text(REAL, changed_labels(text, add=["dirty"], remove=["clean"]))
    assert after == REAL.replace(b" zz</label>", b" zz dirty</label>")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"<slave><label/></slave>", b"<slave><label>a</label></slave>"),
        (b"<slave><label></label>\n</slave>", b"<slave><label>a</label>\n</slave>"),
        (b"<slave>\n  <name>x</name>\n</slave>", b"<slave>\n  <name>x</name>\n  <label>a</label>\n</slave>"),
    ],
)
def test_an_empty_label_field_is_filled(before: bytes, after: bytes) -> None:
    assert label_text(before) == ""
    assert with_label_text(before, "a") == after
    assert label_text(after) == "a"


@pytest.mark.parametrize("xml", [b"", b"<html><p>no</html>", b"<slave><label>x"])
def test_what_is_no_configuration_is_refused(xml: bytes) -> None:
    with pytest.raises(UnreadableNodeError, match=r"config\.xml cannot be read"):
        label_text(xml)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("clean a b", "a b dirty"),
        ("a  clean  b", "a  b dirty"),
        ("a clean", "a dirty"),
        ("clean", "dirty"),
        ("", "dirty"),
        ("a 'clean' \"cl ean\" cleanly", 'a "cl ean" cleanly dirty'),
        ("dirty a clean clean", "dirty a"),
        ('a "b', 'a "b dirty'),
    ],
)
def test_a_label_goes_and_another_comes(before: str, after: str) -> None:
    assert changed_labels(before, add=["dirty"], remove=["clean"]) == after


@given(st.lists(words), st.sampled_from([" ", "  ", "\t"]))
@example(["clean", "x"], " ")
def test_other_labels_keep_their_order(labels: list[str], gap: str) -> None:
    changed = split_labels(changed_labels(gap.join(labels), add=["dirty"], remove=["clean"]))
    kept = [label for label in labels if label != "clean"]
    assert list(changed) == kept + ([] if "dirty" in kept else ["dirty"])


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")))
def test_any_text_comes_back_from_the_configuration(text: str) -> None:
    assert label_text(with_label_text(REAL, text)) == text


@given(
    st.sampled_from(Word),
    st.none() | st.integers(0, 10**15),
    st.lists(st.from_regex(r"[a-z:/0-9]{1,20}@\d{1,14}", fullmatch=True)),
    st.text(),
    st.none() | st.text(),
    st.booleans(),
)
def test_a_note_comes_back_from_any_description(
    word: Word, mark: int | None, uses: list[str], text: str, before: str | None, twice: bool
) -> None:
    note = Note(word=word, idle_mark_ms=mark, uses=tuple(uses), text=text)
    description = with_note(before, Note(word=Word.VOID, text="an older one")) if twice else before
    found = read_note(with_note(description, note))
    assert found is not None
    assert (found.word, found.idle_mark_ms, found.uses) == (word, mark, tuple(uses))


def test_what_others_wrote_into_a_description_stays() -> None:
    note = Note(word=Word.SPENT, text="a build\nran on it")
    described = with_note("freed 3 GiB\n<b>of</b> n1", note)
    assert described == "freed 3 GiB\n<b>of</b> n1\n[provisioner] spent; a build ran on it"
    assert with_note(described, Note(word=Word.VOID)) == "freed 3 GiB\n<b>of</b> n1\n[provisioner] void; -"
    assert read_note("freed [provisioner] clean; 3 GiB") is None
