"""Notebook cells and outputs as the blocks of a report in reading order, labels numbered and checked."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from nbformat import NotebookNode

from labreport.parameters import INJECTED, has_tag
from labreport.render.tables import Table, tables_from_html
from labreport.text import clean_terminal_text
from simclr_core.errors import UserError

_PICTURES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}
_SVG_LENGTH = re.compile(rb'\s(width|height)="([\d.]+)(pt|px|in|)"')
_POINTS = {b"pt": 1.0, b"px": 0.75, b"": 0.75, b"in": 72.0}
_NAMES = {"fig": "Figure", "tbl": "Table"}
_CODE = {"parameters": "Code: the notebook's defaults", INJECTED: "Code: the values of this report"}  # by tag


@dataclass(frozen=True)
class Place:
    """Where something stands, for messages and for what is relative to it."""

    section: int
    name: str  # notebook
    cell: int = 0  # 1-based; 0: not in a cell
    folder: str = ""
    attachments: dict = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"notebook {self.name}, cell {self.cell}" if self.cell else self.name


@dataclass
class Fragment:
    """A piece of Markdown: as written (`text`), as pandoc's blocks (`ast`), and rendered (`result`)."""

    text: str
    place: Place
    inline: bool = False  # one paragraph, rendered without its <p>
    ast: list = field(default_factory=list)
    result: str = ""


@dataclass(frozen=True)
class Picture:
    """An image file's content, its kind (svg, png, jpg) and its natural size in points."""

    content: bytes
    kind: str
    width: float
    height: float


@dataclass
class Block:
    """What the templates set, one after the other; which fields are filled depends on the kind."""

    kind: str  # prose, code, text, problem, figure, table
    place: Place
    text: str = ""  # code, text, problem
    prose: Fragment | None = None
    label: str = ""
    name: str = ""  # "Figure 3", "Code"
    caption: Fragment | None = None
    alt: str = ""
    picture: Picture | None = None
    table: Table | None = None


def read_blocks(notebook: NotebookNode, sections: list[dict]) -> list[Block]:
    """The notebook's blocks; figures and tables are numbered through.

    Raises: UserError for a duplicate label, a figure without picture, caption or alternative text.
    """
    blocks = []
    for index, cell in enumerate(notebook.cells):
        where = cell.metadata.get("labreport", {"section": 0, "cell": index + 1})
        section = sections[where["section"]]
        attachments = cell.get("attachments", {})
        place = Place(where["section"], section["name"], where["cell"], section["folder"], attachments)
        blocks += _cell_blocks(cell, place)
    counts, seen = dict.fromkeys(_NAMES, 0), {}
    for block in blocks:
        if not block.label:
            continue
        if block.label in seen:
            raise UserError(f"label {block.label} is used twice: in {seen[block.label]} and in {block.place}")
        seen[block.label] = block.place
        kind = block.label[:3]
        counts[kind] += 1
        block.name = f"{_NAMES[kind]} {counts[kind]}"
    return blocks


def _cell_blocks(cell: NotebookNode, place: Place) -> Iterator[Block]:
    if cell.cell_type == "markdown":
        yield Block("prose", place, prose=Fragment(cell.source, place))
    elif cell.cell_type == "code":
        if cell.source.strip():
            names = (name for tag, name in _CODE.items() if has_tag(cell, tag))
            yield Block("code", place, text=cell.source.strip("\n"), name=next(names, "Code"))
        for output in cell.outputs:
            yield from _output_blocks(output, place)


def _output_blocks(output: NotebookNode, place: Place) -> Iterator[Block]:
    if output.output_type == "stream" and output.name == "stderr":
        return  # what was waited for or warned of, in that one execution
    if output.output_type == "stream":
        yield from _text_block("text", output.text, place)
    elif output.output_type == "error":
        trace = "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
        yield from _text_block("problem", trace, place)
    elif output.metadata.get("labreport", {}).get("abstract"):
        return  # it stands on the title page
    elif "labreport" in output.metadata:
        yield _labelled_block(output, place)
    elif prose := output.data.get("text/markdown") or output.data.get("text/latex"):
        yield Block("prose", place, prose=Fragment(prose, place))
    elif tables := tables_from_html(output.data.get("text/html", "")):
        yield from (Block("table", place, table=table) for table in tables)
    elif _PICTURES.keys() & output.data.keys():
        raise UserError(f"{place}: a picture without caption and alternative text; show it with show_figure")
    else:
        yield from _text_block("text", output.data.get("text/plain", ""), place)


def _text_block(kind: str, text: str, place: Place) -> Iterator[Block]:
    if cleaned := clean_terminal_text(text):
        yield Block(kind, place, text=cleaned)


def _labelled_block(output: NotebookNode, place: Place) -> Block:
    meta = output.metadata["labreport"]
    label = meta.get("label", "")
    kind = {"fig": "figure", "tbl": "table"}.get(label[:3])
    if kind is None:
        raise UserError(f"{place}: label {label!r} begins neither with fig- nor with tbl-")
    if not re.fullmatch(r"\w+(-\w+)+", label):  # it becomes an id, a Typst label and a file name
        raise UserError(f"{place}: label {label!r}: expected words joined by hyphens, such as {label[:3]}-loss-curve")
    needed = ["caption", "alt"] if kind == "figure" else ["caption"]
    if missing := [name for name in needed if not meta.get(name, "").strip()]:
        raise UserError(f"{label} ({place}): no {' and no '.join(missing)}")
    block = Block(kind, place, label=label, alt=meta.get("alt", ""))
    block.caption = Fragment(meta["caption"], place, inline=True)
    if kind == "figure":
        block.picture = _picture_of(output.data)
    else:
        block.table = next(iter(tables_from_html(output.data.get("text/html", ""))), None)
    if not (block.picture or block.table):
        raise UserError(f"{label} ({place}): its output holds no {kind}")
    return block


def _picture_of(data: dict) -> Picture | None:
    for mimetype, kind in _PICTURES.items():
        if mimetype in data:
            content = data[mimetype].encode() if kind == "svg" else base64.b64decode(data[mimetype])
            return read_picture(content, kind)
    return None


def read_picture(content: bytes, kind: str, dpi: float = 150) -> Picture:
    """An image's natural size from its content; bitmaps without a resolution of their own are taken at `dpi`.

    Raises: ValueError (or PIL's OSError) when the content is not an image of that kind.
    """
    if kind != "svg":
        from PIL import Image

        with Image.open(io.BytesIO(content)) as image:
            (width, height), (x_dpi, y_dpi) = image.size, image.info.get("dpi", (dpi, dpi))
            return Picture(content, kind, 72 * width / float(x_dpi), 72 * height / float(y_dpi))
    tag = re.search(rb"<svg\b[^>]*>", content)
    lengths = {name: float(n) * _POINTS[unit] for name, n, unit in _SVG_LENGTH.findall(tag[0] if tag else b"")}
    if lengths.keys() != {b"width", b"height"}:
        raise ValueError("an SVG without width and height")
    return Picture(content, kind, lengths[b"width"], lengths[b"height"])
