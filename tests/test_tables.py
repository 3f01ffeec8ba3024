"""Tables as text: read from HTML, linked, and fitted to a page."""

import re

import pandas
import pytest

from labreport.render.tables import (
    LANDSCAPE_WIDTH,
    PORTRAIT_WIDTH,
    Table,
    TableTooWide,
    table_html,
    table_setting,
    tables_from_html,
)


def table_of(columns: int, cell: str, head: str = "h") -> Table:
    return Table([[head] * columns], [[cell] * columns])


def test_cells_over_several_columns_and_rows_keep_their_place():
    frame = pandas.DataFrame([[1, 2, 3]], columns=pandas.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "z")]))
    (table,) = tables_from_html(frame.to_html())
    assert table == Table([["", "a", "", "b"], ["", "x", "y", "z"]], [["0", "1", "2", "3"]])
    (table,) = tables_from_html("<table><tr><td rowspan=2>a</td><td>b</td></tr><tr><td>c</td></tr></table>")
    assert table == Table([["a", "b"]], [["", "c"]])


def test_row_that_reads_like_the_header_is_kept():
    (table,) = tables_from_html("<table><tr><td>a</td></tr><tr><td>a</td></tr></table>")
    assert table.body == [["a"]]


def test_long_words_break_after_their_parts_and_are_copied_whole():
    html = table_html(table_of(1, "03_augmentation_ablation " + "0123456789abcdef" * 2))
    assert "03_<wbr>augmentation_<wbr>ablation 0123456789abcdef<wbr>0123456789abcdef<" in html


def test_what_is_read_from_our_own_html_is_what_was_written():
    table = Table([["a", "b < c"]], [["1.5", "<i>"], ["–", "x & y"]])
    assert tables_from_html(table_html(table)) == [table]


@pytest.mark.parametrize(
    "cell", ["0.952", "95.2 %", "-3", "−3.1", "12,345", "0.95 ± 0.01", "+1.2 (0.3 to 2.1)", "1e-05", "–", "< 0.1"]
)
def test_numbers_are_recognised(cell):
    assert table_of(1, cell).numeric == [True]


@pytest.mark.parametrize("cell", ["", "holds", "2 runs", "R1", "3x3 stem", "2024-11-22 noon"])
def test_words_are_not_numbers(cell):
    assert table_of(1, cell).numeric == [False]


def test_references_and_addresses_become_links_and_nothing_else_does():
    names = {"fig-a": ("#fig-a", "Figure 1")}
    html = table_html(table_of(1, "@fig-a, a@fig-a.org, see https://example.org/x."), names.get)
    assert '<a href="#fig-a">Figure 1</a>, a@fig-a.org, see <a href="https://example.org/x">' in html


@pytest.mark.parametrize("columns", range(1, 40, 3))
@pytest.mark.parametrize("cell", ["1.25", "short text", "a sentence that goes on and on and on and on"])
def test_fitted_columns_are_never_wider_than_the_page(columns, cell):
    try:
        setting = table_setting(table_of(columns, cell, "a long heading"))
    except TableTooWide:
        assert columns > 10
        return
    widths = [float(width.removesuffix("em")) for width in setting.columns if width != "auto"]
    page = LANDSCAPE_WIDTH if setting.landscape else PORTRAIT_WIDTH
    assert sum(widths) * setting.size <= page + 0.1 * columns


def test_wider_tables_are_set_smaller_before_they_are_turned():
    settings = [table_setting(table_of(n, "12,345.67", "a heading")) for n in (4, 10, 18)]
    assert [setting.landscape for setting in settings] == [False, False, True]
    assert settings[0].size > settings[1].size


def test_a_column_of_long_texts_may_be_wider_than_other_prose_in_html():
    html = table_html(Table([["a", "b", "c"]], [["short", "some words " * 4, "many words " * 25]]))
    assert re.findall(r"<td( [^>]*)?>", html) == ["", ' class="prose"', ' class="prose much"']
