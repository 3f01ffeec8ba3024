"""Plain text on its way to the terminal, into HTML and Typst: widths, columns, cleaning, quoting."""

import re
import signal
import unicodedata
from collections.abc import Sequence

_ANSI = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")


def display_width(text: str) -> int:
    """Columns of monospaced type: two for East Asian wide characters, none for combining ones."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line a row, every column as wide as its widest cell, indented by two."""
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]

    def padded(cell: str, width: int) -> str:
        return cell + " " * (width - display_width(cell))

    return ["  " + "  ".join(map(padded, row, widths)).rstrip() for row in rows]


def clean_terminal_text(text: str) -> str:
    """What a terminal would show at the end: no colour codes, no control characters, rewritten lines once."""
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in _ANSI.sub("", text).split("\n"))
    return _CONTROL.sub("", "\n".join(lines)).rstrip()


def wrap_lines(text: str, columns: int) -> str:
    """Break lines longer than `columns` of monospaced type, at a space where possible; "↪" marks the rest."""
    return "\n".join(piece for line in text.split("\n") for piece in _wrap_line(line.expandtabs(4), columns))


def _wrap_line(line: str, columns: int) -> list[str]:
    pieces, mark, start, enough = [], "", 0, 8 * columns  # characters that are looked at: a line may be of any length
    while len(line) - start > enough or display_width(mark + line[start:]) > columns:
        cut = start + columns - len(mark)
        while display_width(line[start:cut]) + len(mark) > columns:
            cut -= 1
        space = line.rfind(" ", start + columns // 2, cut)
        cut = space + 1 if space > 0 else cut
        pieces.append(mark + line[start:cut])
        start, mark = cut, "↪ "
    return [*pieces, mark + line[start:]]


def typst_string(text: str) -> str:
    """A Typst string literal."""
    escaped = _CONTROL.sub("", text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t") + '"'


def literal(text: str) -> str:
    """Text from files (class and file names, parameters) as a cell of a table shows it: "@fig-x" is no reference."""
    return re.sub(r"@(?=(fig|tbl)-)", "@\u200b", text)


def literal_markdown(text: str) -> str:
    """The same inside a sentence of Markdown: no character of it is markup."""
    return re.sub(r"([]\\`*_[<>$~^{}&:@])", r"\\\1", literal(text))


def breakable(text: str) -> str:
    """Allow line breaks (zero-width spaces) inside long words: hashes, paths, configuration keys."""
    return re.sub(r"\S{20,}", lambda m: re.sub(r"([/_.,:=-]+|[^\W_]{16})(?=\S)", "\\1\u200b", m[0]), text)


def how_it_ended(status: int | None) -> str:
    """In words, a process's exit status as subprocess has it: below zero for a signal."""
    if status is None:
        return "nobody knows how"
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"


def in_words(seconds: float) -> str:
    """45 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
