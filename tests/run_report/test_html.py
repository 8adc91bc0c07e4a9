"""Texts of the data come out as the text that they are."""

import pytest

from dat_rec.run_report.html import LONGEST, element, escaped, missing, name, table
from tests.run_report.parsed import Parsed

ODD = [
    "<script>alert(1)</script>",
    "</style></svg></td>",
    "\"double\" & 'single' &amp; &#60;",
    "שלום — كتاب",
    "日本語",
    "--> <!-- ]]>",
]


@pytest.mark.parametrize("text", ODD)
def test_a_text_is_read_back_as_it_was(text: str) -> None:
    parsed = Parsed(element("p", text, title=text))
    assert parsed.tags == ["p"]
    assert "".join(parsed.texts) == text
    assert parsed.attributes == [("title", text)]


def test_what_html_does_not_take_is_replaced() -> None:
    assert escaped("a\x00b\x1b\ud800c\td") == "a\ufffdb\ufffd\ufffdc\td"
    escaped("\ud800").encode("utf-8")


def test_a_very_long_name_is_cut_and_its_tooltip_is_not() -> None:
    parsed = Parsed(name("<" * (LONGEST + 1)))
    assert parsed.texts == ["<" * (LONGEST - 1) + "…"]
    assert parsed.attributes == [("title", "<" * (LONGEST + 1))]
    assert Parsed(name("x" * LONGEST)).attributes == []


def test_html_is_not_escaped_twice_and_nothing_is_nothing() -> None:
    assert element("p", element("b", "&"), None, 1) == "<p><b>&amp;</b>1</p>"


def test_a_table_names_its_rows_columns_and_itself() -> None:
    parsed = Parsed(table("what", ["a", "b"], [["x", 1], ["y", None]]))
    assert parsed.tags.count("th") == 4
    scopes = [value for key, value in parsed.attributes if key == "scope"]
    assert scopes == ["col", "col", "row", "row"]
    assert parsed.texts == ["what", "a", "b", "x", "1", "y"]


def test_commands_that_help_stand_one_after_the_other() -> None:
    text = "".join(Parsed(missing("none", "first", "second")).texts)
    assert text == "none: first, then second"
