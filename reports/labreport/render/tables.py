"""Tables: one small model for what a notebook shows, and its forms in HTML and in Typst.

Cells are plain text, never markup: what looks like HTML comes out escaped. In a cell, `@fig-x`, `@tbl-x` and
web addresses become links.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from numbers import Integral, Real

from labreport.text import breakable, display_width, typst_string

# Tables in the PDF: page widths (A4, margins 2.3 cm) and type sizes in points, other widths in em of that.
PORTRAIT_WIDTH, LANDSCAPE_WIDTH = 465.0, 710.0
TYPE_SIZE, WRAPPED_SIZE, SMALLEST_PORTRAIT, SMALLEST = 9.0, 8.0, 6.5, 4.5
CELL_PADDING = 1.2  # left and right inset of a cell together
PROSE_LENGTH = 30  # a column with a longer cell is prose: its lines wrap
LONG_PROSE = 250  # a column with a longer cell is wider than one of other prose, in HTML
PROSE_WIDTH, TEXT_WIDTH = 10.0, 8.0  # narrowest column of prose, and of shorter text
WIDEST = 150.0  # no column asks for more

_NUMBER = r"[-−+~<>≈±]?\s?\d[\d,.\u00a0\u202f]*(e[-+]?\d+)?\s?%?"
_NUMERIC = re.compile(rf"({_NUMBER}(\s?[±x×/]\s?{_NUMBER})?(\s?[\[(]{_NUMBER}(\s?(,|to|–)\s?{_NUMBER})?[\])])?|[-–—]?)")
_ADDRESS = re.compile(r"https?://[^\s<>\"']*[\w/]")
REFERENCE = re.compile(r"(?<![\w.@])@((?:fig|tbl)-\w+(?:-\w+)*)")


Link = Callable[[str], tuple[str, str] | None]  # a label's (address, name), or None: not a reference


class TableTooWide(ValueError):
    """A table does not fit on a landscape page at the smallest type size."""


@dataclass(frozen=True)
class Table:
    """Header rows and body rows of plain text, all of the same length."""

    head: list[list[str]]
    body: list[list[str]]

    def shown(self, link: "Link") -> "Table":
        """The table as it is read, references replaced by names."""
        head, body = (
            [["".join(text for text, _ in _pieces(cell, link)) for cell in row] for row in rows]
            for rows in (self.head, self.body)
        )
        return Table(head, body)

    @property
    def columns(self) -> list[list[str]]:
        """Body cells by column."""
        return [list(column) for column in zip(*self.body, strict=True)] or [[] for _ in self.head[0]]

    @property
    def numeric(self) -> list[bool]:
        """For each column: are all its cells numbers (units in the header), at least one not empty?"""
        return [any(column) and all(map(_NUMERIC.fullmatch, column)) for column in self.columns]

    @property
    def prose(self) -> list[bool]:
        """For each column: does it hold text long enough to be broken into lines?"""
        return [any(display_width(cell) > PROSE_LENGTH for cell in column) for column in self.columns]


def table_from_frame(frame, formats: Mapping[str, str | Callable] | None = None) -> Table:
    """Format a DataFrame; `formats` maps a column to a format string ("{:.1f}") or a function; NaN: a dash.

    Floats without a format get four significant digits. The index is shown unless it is the default one.
    Raises: ValueError when `formats` names a column that is not there, or the frame has none.
    """
    formats = dict(formats or {})
    if not has_default_index(frame):
        frame = frame.reset_index()
    if unknown := sorted(map(str, formats.keys() - set(frame.columns))):
        raise ValueError(f"formats names columns that the table does not have: {', '.join(unknown)}")
    if not len(frame.columns):
        raise ValueError("a table needs at least one column")
    columns = [[_format(value, formats.get(name)) for value in frame[name]] for name in frame.columns]
    return Table([[str(name) for name in frame.columns]], [list(row) for row in zip(*columns, strict=True)])


def has_default_index(frame) -> bool:
    """Is the frame's index the nameless 0, 1, 2, ... that says nothing?"""
    return type(frame.index).__name__ == "RangeIndex" and frame.index.name is None


def _format(value, spec) -> str:
    import pandas

    if pandas.api.types.is_scalar(value) and pandas.isna(value):
        return "–"
    if spec is None:
        is_fraction = isinstance(value, Real) and not isinstance(value, Integral)
        spec = "{}" if not is_fraction else "{:.4g}" if abs(value) < 1e4 else "{:,.0f}"
    return spec(value) if callable(spec) else spec.format(value)


def tables_from_html(html: str) -> list[Table]:
    """Every table of an HTML output, as text; a cell over several columns or rows fills the first of them."""
    from bs4 import BeautifulSoup

    return [_read_table(table) for table in BeautifulSoup(html, "html.parser").find_all("table")]


def _read_table(table) -> Table:
    rows, taken = [], {}  # taken: row number -> columns that a cell further up reaches into
    for number, tr in enumerate(table.find_all("tr")):
        cells: list[str] = []
        for cell in tr.find_all(["th", "td"]):
            while len(cells) in taken.get(number, ()):
                cells.append("")
            width, height = (_span(cell.get(name, "1")) for name in ("colspan", "rowspan"))
            for below in range(1, height):
                taken.setdefault(number + below, set()).update(range(len(cells), len(cells) + width))
            cells += [cell.get_text().strip()] + [""] * (width - 1)
        rows.append((tr.find_parent("thead") is not None, cells))
    length = max((len(cells) for _, cells in rows), default=0)
    padded = [cells + [""] * (length - len(cells)) for _, cells in rows]
    heads = max(1, sum(is_head for is_head, _ in rows))  # without a <thead>, the first row is the header
    return Table(padded[:heads], padded[heads:])


def _span(text: str) -> int:
    """As browsers read it: 1 for what is no number, never more than 1,000 columns or rows."""
    return min(max(int(text[:9]), 1), 1000) if text.isdecimal() else 1


def table_html(table: Table, link: Link = lambda label: None) -> str:
    """The table in HTML; what `link` knows becomes a link."""
    shown = table.shown(link)
    longest = [max(map(display_width, column), default=0) for column in shown.columns]
    marks = [
        ' style="text-align:right"' if number else f' class="prose{" much" * (length > LONG_PROSE)}"' if prose else ""
        for number, prose, length in zip(shown.numeric, shown.prose, longest, strict=True)
    ]

    def text(cell: str) -> str:
        pieces = [(escape(breakable(t)).replace("\u200b", "<wbr>"), a) for t, a in _pieces(cell, link)]
        return "".join(t if a is None else f'<a href="{escape(a)}">{t}</a>' for t, a in pieces)

    def row(tag: str, cells: list[str], marks: list[str]) -> str:
        inner = (f"<{tag}{mark}>{text(cell)}</{tag}>" for cell, mark in zip(cells, marks, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    def head_marks(cells: list[str]) -> list[str]:
        long = [not prose and display_width(cell) > 14 for cell, prose in zip(cells, shown.prose, strict=True)]
        return [f'{mark}{" class=long" * is_long} scope="col"' for mark, is_long in zip(marks, long, strict=True)]

    head = "\n".join(row("th", cells, head_marks(cells)) for cells in table.head)
    body = "\n".join(row("td", cells, marks) for cells in table.body)
    return f"<table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _pieces(cell: str, link: Link) -> list[tuple[str, str | None]]:
    """A cell's text cut into (text, address or None)."""
    pieces, end = [], 0
    for match in re.finditer(f"{REFERENCE.pattern}|{_ADDRESS.pattern}", cell):
        found = link(match[1]) if match[1] else (match[0], match[0])
        if found is None:
            continue
        address, text = found
        pieces += [(cell[end : match.start()], None), (text, address)]
        end = match.end()
    return [(text, address) for text, address in [*pieces, (cell[end:], None)] if text]


@dataclass(frozen=True)
class Setting:
    """How a table is set on paper: Typst's column widths, type size in points, is the page turned?"""

    columns: list[str]
    size: float
    landscape: bool


def table_setting(table: Table) -> Setting:
    """Fit the table to the page: as it is, else headers wrapped, else smaller, else on a landscape page.

    Widths are estimated from the characters, on the safe side.
    Raises: TableTooWide if even that is not enough.
    """
    body = [[_text_width(cell) for cell in column] for column in table.columns]
    heads = list(zip(*table.head, strict=True))
    whole = [CELL_PADDING + max([*widths, *map(_text_width, head)]) for widths, head in zip(body, heads, strict=True)]
    least = [_least_width(table, column, width) for column, width in enumerate(whole)]
    if sum(whole) * TYPE_SIZE <= PORTRAIT_WIDTH:
        return Setting(["auto"] * len(whole), TYPE_SIZE, False)
    portrait, landscape = (min(WRAPPED_SIZE, width / sum(least)) for width in (PORTRAIT_WIDTH, LANDSCAPE_WIDTH))
    turned = portrait < SMALLEST_PORTRAIT
    size = landscape if turned else portrait
    if size < SMALLEST:
        raise TableTooWide(f"its {len(whole)} columns do not fit on a landscape page")
    spare = (LANDSCAPE_WIDTH if turned else PORTRAIT_WIDTH) / size - sum(least)
    wishes = [min(most, WIDEST) - width if most > width else 0.0 for most, width in zip(whole, least, strict=True)]
    share = min(1.0, spare / max(sum(wishes), spare, 1e-9))
    columns = [f"{width + wish * share:.2f}em" for width, wish in zip(least, wishes, strict=True)]
    return Setting(columns, size, turned)


def _least_width(table: Table, column: int, whole: float) -> float:
    """Narrowest good width of a column in em: numbers in one line, headers in three, text in words."""
    cells, head = table.columns[column], [row[column] for row in table.head]
    words = [word for cell in (head if table.numeric[column] else cells + head) for word in cell.split()]
    longest = max(map(_text_width, words), default=0.0)
    if table.numeric[column]:
        lines = [*map(_text_width, cells), *(_text_width(cell) / 3 for cell in head)]
        return CELL_PADDING + max([longest, *lines])
    return max(CELL_PADDING + min(longest, PROSE_WIDTH), min(whole, PROSE_WIDTH if table.prose[column] else TEXT_WIDTH))


def _text_width(text: str) -> float:
    """Estimated width in em of a line in bold Libertinus Serif, on the safe side."""
    return sum(1.0 if display_width(c) == 2 else 0.78 if c.isupper() or c in "mw%±@—" else 0.53 for c in text)


def table_typst(table: Table, setting: Setting, link: Link = lambda label: None) -> str:
    """The table in Typst's code mode; `link` as in `table_html`, with labels as addresses ("#fig-x")."""

    def text(piece: str, address: str | None) -> str:
        content = f"text({typst_string(breakable(piece))})"
        if address is None:
            return content
        return f"link({f'<{address[1:]}>' if address[0] == '#' else typst_string(address)}, {content})"

    def row(cells: list[str]) -> str:
        return ", ".join("[" + "".join(f"#{text(*p)}" for p in _pieces(cell, link)) + "]" for cell in cells)

    align = ", ".join("right" if number else "left" for number in table.shown(link).numeric)
    head = ",\n  ".join(row(cells) for cells in table.head)
    body = "".join(f"  {row(cells)},\n" for cells in table.body)
    return (
        f"table(columns: ({', '.join(setting.columns)},), align: ({align},),\n"
        f"  table.hline(), table.header({head}), table.hline(stroke: .5pt),\n{body}  table.hline())"
    )
