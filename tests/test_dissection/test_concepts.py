"""Concept lists: what a text editor does to a file does not change the concepts; what is wrong is said by line."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dissection.concepts import COMMON, ConceptList, common_words, imagenet_classes, parse, prompt
from tasks.dissection.errors import ConceptError
from tests.test_dissection.strategies import QUICK

words = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff"), min_size=1)
concepts = words.map(str.strip).filter(bool)


@given(
    st.lists(concepts, min_size=1),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([b"", codecs.BOM_UTF8]),
    st.booleans(),
)
@QUICK
def test_line_ends_a_byte_order_mark_and_a_last_line_break_change_nothing(
    listed: list[str], line_end: str, mark: bytes, ends_with_line_break: bool
) -> None:
    text = line_end.join(listed) + line_end * ends_with_line_break
    assert parse(mark + text.encode(), "words.txt") == ConceptList(tuple(listed))


def test_blank_lines_are_counted_and_are_no_concepts() -> None:
    parsed = parse(b"\n cat \n\n\t\r\ndog\r\n\n", "words.txt")
    assert parsed.concepts == ("cat", "dog")
    assert parsed.num_blank == 4


def test_lines_beginning_with_marks_are_concepts_like_others() -> None:
    assert parse(b"# cat\n// dog\n", "words.txt").concepts == ("# cat", "// dog")


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["bare", "byte-order-mark"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_bytes_that_are_not_utf8_are_refused_by_line_and_byte(mark: bytes, line_end: bytes) -> None:
    latin = mark + line_end.join([b"ab", b"cd", "café".encode("latin-1"), b"ef"])
    with pytest.raises(ConceptError, match=r"words\.txt, line 3: byte 0xe9 is not UTF-8") as caught:
        parse(latin, "words.txt")
    assert isinstance(caught.value, ValueError)
    assert "iconv" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\n", codecs.BOM_UTF8, b" \r\n\t\n"])
def test_a_file_without_a_concept_is_refused(data: bytes) -> None:
    with pytest.raises(ConceptError, match=rf"words\.txt holds no concept \({len(data)} bytes"):
        parse(data, "words.txt")


def test_repeated_concepts_stay_until_asked_to_go() -> None:
    parsed = parse(b"cat\ndog\n\ncat\nCat\ndog\n", "words.txt")
    assert parsed.concepts == ("cat", "dog", "cat", "Cat", "dog")
    assert parsed.unique() == ConceptList(("cat", "dog", "Cat"), num_blank=1)


def test_common_words_are_so_many_each_once_and_the_shorter_list_begins_the_longer() -> None:
    lists = [common_words(name).concepts for name in COMMON]
    assert [len(words) for words in lists] == [3_000, 10_000, 20_000]
    assert len(set(lists[2])) == 20_000
    assert lists[2][:10_000] == lists[1]
    assert lists[1][:3_000] == lists[0]


def test_imagenet_classes_stand_in_class_order() -> None:
    classes = imagenet_classes().concepts
    assert len(classes) == 1_000
    assert [classes[row] for row in (0, 281, 999)] == ["tench", "tabby", "toilet tissue"]


@pytest.mark.parametrize(
    ("template", "text"),
    [("{}", "cat"), ("a {}", "a cat"), ("a {}, the {}", "a cat, the cat"), ("{x} {} {{", "{x} cat {{")],
)
def test_only_empty_braces_stand_for_the_concept(template: str, text: str) -> None:
    assert prompt(template, "cat") == text


def test_braces_in_a_concept_are_left_alone() -> None:
    assert prompt("a {}", "{0}") == "a {0}"


def test_what_a_list_holds_that_few_expect_is_told_with_numbers() -> None:
    listed = parse(b"dog\n# animals\nDog\n\ncat\ndog\nCAT\n#tag\ncat\n", "words.txt")
    assert listed.is_repeated.tolist() == [False, False, False, False, True, False, False, True]
    blank, marked, twice, near = listed.notes()
    assert blank == "1 blank lines of the concept list are no concepts."
    assert marked.startswith("Concepts that begin with #: 2 (first: '# animals').")
    assert twice.startswith("Concepts that repeat an earlier one: 2 of 8 (first: 'dog').") and "--unique-con" in twice
    assert near.startswith("Concepts that differ from an earlier one in letter case alone: 2 of 8 (first: 'Dog').")
    assert listed.unique().notes() == [blank, marked, near.replace("of 8", "of 6")]
    assert ConceptList(("a", "b"), unused=("x", "y")).notes() == [
        "Columns of the concept list that are not used: x, y."
    ]
    assert parse(b"red\ngreen\n", "words.txt").notes() == []
