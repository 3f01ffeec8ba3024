"""From a merged notebook to what the templates need: every number, reference, formula and picture settled.

HTML and PDF are woven by the same code from the same blocks, so that both number alike and fail alike.
"""

import base64
import re
from copy import deepcopy
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from nbformat import NotebookNode

from labreport.render.blocks import Block, Fragment, Picture, Place, read_blocks, read_picture
from labreport.render.markdown import FILE_PREFIX, read_fragments, walk, write_fragments
from labreport.render.tables import (
    PORTRAIT_WIDTH,
    REFERENCE,
    Setting,
    TableTooWide,
    table_html,
    table_setting,
    table_typst,
)
from labreport.text import typst_string
from simclr_core.errors import UserError

PICTURE_HEIGHT = 600.0  # points; the highest picture that fits on a page of the PDF with its caption
_MIME = {"svg": "image/svg+xml", "png": "image/png", "jpg": "image/jpeg"}
_MATH_ENVIRONMENT = re.compile(r"\\begin\{(align|aligned|equation|gather|multline)(\*?)\}.*\\end\{\1\2\}", re.S)
_NUMBERED_LEVELS = 3
LARGEST_WHOLE_TABLE = 12  # rows; a larger table may go over a page's end


@dataclass
class Heading:
    """A numbered heading; `title` is rendered for the contents."""

    level: int
    number: str
    address: str
    section: int
    title: Fragment


@dataclass
class Section:
    """A notebook's part of the report. `opening` is its heading where the notebook has none of its own."""

    name: str
    error: str
    opening: Fragment
    blocks: list[Block]


@dataclass
class Report:
    """What a template sets."""

    title: str
    banner: str
    facts: dict[str, str]
    dirty: bool
    abstract: Fragment
    sections: list[Section]
    contents: list[Heading] = field(default_factory=list)
    footnotes: str = ""
    assets: dict[str, bytes] = field(default_factory=dict)  # PDF only: picture files beside the Typst source


def weave(notebook: NotebookNode, target: str, name: str = "report", folder: str = "") -> Report:
    """Settle the report for the target, "html" or "typst".

    Args: notebook from `merge`, or a single one, which then goes by `name` and lies in `folder`.
    Raises: UserError naming label and notebook: a duplicate label, undefined reference, dead link, missing
        picture or alternative text, TeX that pandoc cannot convert.
    """
    front = notebook.metadata.get("labreport", {})
    sections = front.get("sections", [{"name": name, "folder": folder, "error": ""}])
    blocks = read_blocks(notebook, sections)
    report = Report(
        title=front.get("title", name),
        banner=front.get("banner", ""),
        facts=front.get("facts", {}),
        dirty=front.get("dirty", False),
        abstract=Fragment(front.get("abstract", ""), Place(-1, "the abstract")),
        sections=[
            Section(
                s["name"],
                s["error"],
                Fragment("", Place(i, s["name"])),
                [b for b in blocks if b.place.section == i],
            )
            for i, s in enumerate(sections)
        ],
    )
    _Weaver(report, target).weave()
    return report


class _Weaver:
    def __init__(self, report: Report, target: str):
        self.report, self.target = report, target
        self.blocks = [block for section in report.sections for block in section.blocks]
        self.labels = {block.label: block.name for block in self.blocks if block.label}
        self.incomplete = any(section.error for section in report.sections)
        # (section, pandoc's id of a heading) -> its id in the report
        self.anchors: dict[tuple[int, str], str] = {}

    def weave(self) -> None:
        fragments = [self.report.abstract]
        for section in self.report.sections:
            fragments.append(section.opening)
            fragments += [part for block in section.blocks for part in (block.prose, block.caption) if part]
        read_fragments(fragments)
        for section in self.report.sections:
            self._ensure_heading(section)
        self._number_headings(fragments)
        titles = [heading.title for heading in self.report.contents]
        for fragment in [*fragments, *titles]:
            walk(fragment.ast, lambda element, place=fragment.place: self._settle(element, place))
            if fragment.inline:
                fragment.ast = _one_paragraph(fragment)
        for title in titles:
            walk(title.ast, _without_notes_and_links)
        self.report.footnotes = write_fragments([*fragments, *titles], self.target)
        for block in self.blocks:
            if block.kind == "figure":
                block.text = self._picture(block.picture, block.label, block.alt)
            elif block.kind == "table":
                block.text = self._table(block)

    def _ensure_heading(self, section: Section) -> None:
        """Give a section without a heading its name as one; mark a failed section."""
        fragments = [block.prose for block in section.blocks if block.prose]
        tops = [(f, b) for f in fragments for b in f.ast if b["t"] == "Header" and b["c"][0] == 1]
        if not tops:
            header = {"t": "Header", "c": [1, ["", [], []], [{"t": "Str", "c": section.name}]]}
            section.opening.ast = [header]
            tops = [(section.opening, header)]
        if section.error:
            fragment, header = tops[0]
            mark = self._raw('<span class="failed-mark">failed</span>', "#failedmark")
            header["c"][2] += [{"t": "Space"}, mark]
            typst = f"#failure({typst_string(section.error)})"
            notice = self._raw(_failure_html(section.error), typst, "RawBlock")
            fragment.ast.insert(fragment.ast.index(header) + 1, notice)

    def _number_headings(self, fragments: list[Fragment]) -> None:
        """Number the headings through; one that skips a level is raised to the level that it skips."""
        counts, last = [0] * _NUMBERED_LEVELS, 0
        for fragment in fragments:
            if fragment is self.report.abstract:
                continue
            for header in (b for b in fragment.ast if b["t"] == "Header"):
                level, attributes, inlines = header["c"]
                header["c"][0] = last = level = min(level, last + 1)
                if level > _NUMBERED_LEVELS:
                    continue
                counts[level - 1] += 1
                counts[level:] = [0] * (_NUMBERED_LEVELS - level)
                number = ".".join(map(str, counts[:level]))
                address = f"sec-{number.replace('.', '-')}"
                own = re.sub(FILE_PREFIX, "", attributes[0])
                self.anchors.setdefault((fragment.place.section, own), address)
                if level == 1:
                    self.anchors.setdefault((fragment.place.section, ""), address)
                header["c"][1] = [address, [], []]
                title = Fragment("", fragment.place, ast=deepcopy([{"t": "Plain", "c": inlines}]))
                self.report.contents.append(Heading(level, number, address, fragment.place.section, title))
                html = f'<span class="number">{number}</span> '
                mark = self._raw(html, f"#headingnumber({typst_string(number)})")
                header["c"][2] = [mark, *inlines]

    def _settle(self, element: dict, place: Place) -> list | None:
        """What an element of the syntax tree becomes; None: it stays."""
        kind, content = element["t"], element.get("c")
        if kind == "Header" and place is self.report.abstract.place:
            return [{"t": "Para", "c": [{"t": "Strong", "c": content[2]}]}]
        if kind == "Str" and "@" in content:
            return self._references(content, place)
        if kind == "Math" and self.target == "typst":  # PDF readers speak the alternative text
            return [self._raw("", f"#formula({typst_string(content[1])})["), element, self._raw("", "]")]
        if kind in ("RawInline", "RawBlock") and content[0] in ("tex", "latex"):
            math = _display_math(content[1], place)
            settled = self._settle(math, place) or [math]
            return settled if kind == "RawInline" else [{"t": "Para", "c": settled}]
        if kind == "Link":
            content[2][0] = self._link(content[2][0], place)
        if kind == "Image":
            return [self._markdown_picture(element, place)]
        if kind == "Table" and self.target == "html":
            walk(content, lambda inner: self._settle(inner, place))
            box = ["", ["scroll"], [["tabindex", "0"], ["role", "region"], ["aria-label", "Table"]]]
            return [{"t": "Div", "c": [box, [element]]}]
        return None

    def _references(self, text: str, place: Place) -> list:
        pieces, end = [], 0
        for match in REFERENCE.finditer(text):
            found = self._label(match[1], place)
            name = {"t": "Str", "c": found[1] if found else f"({match[1]} is missing)"}
            pieces.append({"t": "Str", "c": text[end : match.start()]})
            pieces.append({"t": "Link", "c": [["", ["ref"], []], [name], [found[0], ""]]} if found else name)
            end = match.end()
        return [piece for piece in [*pieces, {"t": "Str", "c": text[end:]}] if piece["c"]]

    def _label(self, label: str, place: Place) -> tuple[str, str] | None:
        """A label's (address, text). None if there is none because a notebook failed; else UserError."""
        if label in self.labels:
            return f"#{label}", self.labels[label].replace(" ", "\u00a0")
        if self.incomplete:
            return None
        raise UserError(f"{place}: reference @{label} is undefined; no figure or table has that label")

    def _link(self, target: str, place: Place) -> str:
        """Where a link leads in the report. Raises: UserError if nowhere."""
        if re.match(r"(https?|mailto):", target):
            return target
        path, _, anchor = target.partition("#")
        anchor = re.sub(FILE_PREFIX, "", anchor)
        target = f"{path}#{anchor}" if anchor else path
        if not path and anchor in self.labels:
            return f"#{anchor}"
        names = {section.name: index for index, section in enumerate(self.report.sections)}
        section = names.get(Path(path).name.removesuffix(".ipynb")) if path else place.section
        if (section, anchor) not in self.anchors and self.incomplete:
            return "#sec-1"
        if (section, anchor) not in self.anchors:
            raise UserError(f"{place}: the link to {target!r} leads to nothing in the report")
        return f"#{self.anchors[section, anchor]}"

    def _markdown_picture(self, element: dict, place: Place) -> dict:
        _, inlines, (target, _) = element["c"]
        alt = "".join(i["c"] if i["t"] == "Str" else " " for i in inlines if i["t"] in ("Str", "Space", "SoftBreak"))
        if not alt.strip():
            raise UserError(f"{place}: the picture {target} has no alternative text")
        picture = _load_picture(target, place)
        name = f"picture-{place.section}-{place.cell}-{Path(target).stem}"
        image = self._picture(picture, name, alt)
        return self._raw(image, f"#box({image})")

    def _picture(self, picture: Picture, name: str, alt: str) -> str:
        if self.target == "html":
            data = f"data:{_MIME[picture.kind]};base64,{base64.b64encode(picture.content).decode()}"
            size = f'width="{picture.width / 0.75:.0f}" height="{picture.height / 0.75:.0f}"'
            return f'<img src="{data}" {size} alt="{_attribute(alt)}">'
        file = f"{name}.{picture.kind}"
        self.report.assets[file] = picture.content
        scale = min(1.0, PORTRAIT_WIDTH / picture.width, PICTURE_HEIGHT / picture.height)
        return f"image({typst_string(file)}, width: {picture.width * scale:.1f}pt, alt: {typst_string(alt)})"

    def _table(self, block: Block) -> str:
        def link(label: str) -> tuple[str, str] | None:
            return self._label(label, block.place)

        try:
            setting = table_setting(block.table.shown(link))
        except TableTooWide as error:
            raise UserError(f"{block.label or 'a table'} ({block.place}): {error}; split it or drop some") from None
        if self.target == "html":
            return table_html(block.table, link)
        return _placed(block, setting, table_typst(block.table, setting, link))

    def _raw(self, html: str, typst: str, kind: str = "RawInline") -> dict:
        return {"t": kind, "c": [self.target, html if self.target == "html" else typst]}


def _placed(block: Block, setting: Setting, table: str) -> str:
    """A Typst table with its caption, on a page of its own width where it needs one."""
    if block.caption:
        number = block.name.split()[1]
        whole = "true" if len(block.table.body) <= LARGEST_WHOLE_TABLE else "false"
        given = f"{setting.size:.2f}pt, {typst_string(number)}, [{block.caption.result}], {whole}"
        call = f"numberedtable({given}, {table})"
        placed = f"[#{call} <{block.label}>]"
    else:
        placed = f"[#plaintable({setting.size:.2f}pt, {table})]"
    return f"#page(flipped: true){placed}" if setting.landscape else placed[1:-1]


def _one_paragraph(fragment: Fragment) -> list:
    if len(fragment.ast) != 1 or fragment.ast[0]["t"] not in ("Para", "Plain"):
        raise UserError(f"{fragment.place}: a caption is one paragraph, this is not: {fragment.text!r}")
    return [{"t": "Plain", "c": fragment.ast[0]["c"]}]


def _without_notes_and_links(element: dict) -> list | None:
    if element["t"] == "Note":
        return []
    return element["c"][1] if element["t"] == "Link" else None


def _display_math(tex: str, place: Place) -> dict:
    """A math environment without dollars, as Jupyter allows; other TeX outside of formulas is an error."""
    if not (match := _MATH_ENVIRONMENT.fullmatch(tex.strip())):
        raise UserError(f"{place}: TeX outside of a formula: {tex.strip()!r}; put it between dollar signs")
    return {"t": "Math", "c": [{"t": "DisplayMath"}, match[0]]}


def _load_picture(target: str, place: Place) -> Picture:
    """The picture that Markdown names: an attachment of its cell, or a file beside its notebook."""
    kind = Path(target).suffix[1:].lower().replace("jpeg", "jpg")
    try:
        if target.startswith("attachment:"):
            (content,) = place.attachments[target.removeprefix("attachment:")].values()
            return read_picture(content.encode() if kind == "svg" else base64.b64decode(content), kind)
        file = Path(place.folder, target).resolve()
        if kind not in _MIME or "://" in target or not file.is_relative_to(Path(place.folder).resolve()):
            raise ValueError("expected an svg, png or jpg file beside the notebook")
        return read_picture(file.read_bytes(), kind)
    except (KeyError, ValueError, OSError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError | KeyError) else error
        raise UserError(f"{place}: the picture {target} cannot be shown: {reason}") from None


def _attribute(text: str) -> str:
    return escape(" ".join(text.split()))


def _failure_html(error: str) -> str:
    title = "<p>This section stopped early:</p>"
    return f'<div class="problem" role="note">{title}<pre>{escape(error)}</pre></div>'
