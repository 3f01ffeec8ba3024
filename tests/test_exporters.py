"""From executed notebooks to one HTML and one PDF file that say the same, or to one clear error."""

import base64
import os
import re
import shutil
import subprocess
import sys
import time
import unicodedata

import nbformat
import numpy
import pandas
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_markdown_cell, new_output
from PIL import Image
from sample_report import (
    FRONT,
    HTML_LOOKING,
    code_cell,
    figure_output,
    sample_sections,
    table_output,
    wide_frame,
    write_notebook,
)

from labreport.notebook.glyphs import families_for
from labreport.render import exporters
from labreport.render.exporters import Front, LabReportHTMLExporter, LabReportTypstExporter, Section, render
from labreport.render.merge import merge
from labreport.text import (
    align_columns,
    clean_terminal_text,
    display_width,
    literal,
    literal_markdown,
    wrap_lines,
)
from simclr_core.errors import StoreError, UserError


def chinese_font() -> bool:
    try:
        return bool(families_for(["中"]))
    except UserError:
        return False


needs_poppler = pytest.mark.skipif(not shutil.which("pdftotext"), reason="needs poppler-utils to read the PDF")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(HTML as a tree, path of the PDF) of the sample report."""
    folder = tmp_path_factory.mktemp("report")
    html, pdf = render(sample_sections(folder), FRONT, folder / "output")
    return BeautifulSoup(html.read_text(encoding="utf8"), "html.parser"), pdf


@pytest.fixture(scope="module")
def pdf_text(report):
    return subprocess.run(["pdftotext", "-layout", report[1], "-"], capture_output=True, text=True).stdout


def export(tmp_path, *cells, exporter=LabReportHTMLExporter) -> str:
    """One notebook of these cells through an exporter."""
    path = write_notebook(tmp_path / "01_study.ipynb", *cells)
    return exporter().from_notebook_node(merge([Section("01_study", path)], Front("Report")))[0]


both = pytest.mark.parametrize("exporter", [LabReportHTMLExporter, LabReportTypstExporter])


def test_page_has_no_script_and_nothing_from_elsewhere(report):
    html, _ = report
    assert not html.find_all(["script", "link", "iframe"])
    sources = [tag["src"] for tag in html.find_all(src=True)]
    assert sources and all(source.startswith("data:") for source in sources)
    assert not re.search(r"url\((?!data:)|@import", html.style.text)


def test_title_page_has_banner_abstract_facts_and_says_dirty(report):
    header = report[0].find("header")
    assert header.h1.text == FRONT.title and FRONT.banner in header.find(class_="banner").text
    assert "95.2 %" in header.find(class_="abstract").text
    assert [dt.text for dt in header.find_all("dt")] == [*FRONT.facts, "State"]
    assert "dirty" in header.find(class_="dirty").text
    assert "Twice." not in report[0].get_text()  # a cell's abstract is on the title page alone


def test_every_table_of_a_report_with_a_banner_points_to_it(report):
    figures = report[0].find_all("figure", class_="table")
    assert len(figures) == 4 and all(figure.find("a", href="#banner") for figure in figures)


def test_contents_list_the_numbered_sections_and_lead_to_them(report):
    html, _ = report
    entries = [(a.text.strip(), html.find(id=a["href"][1:])) for a in html.nav.find_all("a")]
    assert [text for text, _ in entries][1:4] == ["1.1Data in words", "1.2Limits", "2Tables"]
    assert all(heading.name in ("h1", "h2") for _, heading in entries)


def test_every_link_inside_the_page_leads_somewhere_and_no_id_is_used_twice(report):
    html, _ = report
    ids = [tag["id"] for tag in html.find_all(id=True)]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in html.find_all("a", href=re.compile("^#"))} <= set(ids)


def test_links_to_headings_and_other_notebooks_lead_to_their_sections(report):
    html, _ = report
    targets = {a.text: html.find(id=a["href"][1:]).text for a in html.main.find_all("a", href=re.compile("^#sec"))}
    assert targets["link"].endswith("Limits") and targets["the ledger"].endswith("Claims")
    assert targets["the second notebook"].endswith("Tables")


def test_references_carry_the_numbers_of_the_captions(report):
    html, _ = report
    captions = {figure["id"]: figure.b.text for figure in html.find_all("figure", id=True)}
    assert captions == {
        "fig-loss": "Figure 1.",
        "tbl-wide": "Table 1.",
        "tbl-long": "Table 2.",
        "tbl-claims": "Table 3.",
    }
    references = html.find_all("a", href=re.compile("^#(fig|tbl)-"))
    assert len(references) >= 13
    assert all(captions[a["href"][1:]] == a.text.replace("\u00a0", " ") + "." for a in references)
    assert html.find("code", string="@fig-not-a-reference")


@needs_poppler
def test_pdf_has_the_same_sections_captions_and_sentences(report, pdf_text):
    html, _ = report
    words = " ".join(pdf_text.split())
    for figure in html.find_all("figure", id=True):
        assert figure.b.text in words
    for heading in html.find_all(["h1", "h2"])[3:]:
        assert heading.get_text(" ").split("\u03c4")[0].split("$")[0].split()[-1] in words
    for sentence in (
        "The probe beats a random encoder by 5 points.",
        "first item",
        "To be read with the notice",
    ):
        assert sentence in words
    assert "@fig" not in words.replace("@fig-not-a-reference", "")


@needs_poppler
def test_pdf_is_tagged_has_a_title_and_numbered_pages_with_running_headers(report, pdf_text):
    info = subprocess.run(["pdfinfo", report[1]], capture_output=True, text=True).stdout
    assert re.search(r"Tagged: +yes", info) and FRONT.title in info
    pages = pdf_text.split("\f")[:-1]
    assert all(re.search(rf"{n} / {len(pages)}\s*$", page) for n, page in enumerate(pages, start=1))
    assert all(page.lstrip().startswith(FRONT.title) for page in pages)
    assert re.search(r"2 +Tables\n", pages[5]) and re.search(r" Code\n", pages[-1])


@needs_poppler
def test_nothing_in_the_pdf_reaches_into_the_margins(report):
    boxes = subprocess.run(["pdftotext", "-bbox", report[1], "-"], capture_output=True, text=True).stdout
    for page in BeautifulSoup(boxes, "html.parser").find_all("page"):
        for word in page.find_all("word"):
            assert float(word["xmin"]) > 60 and float(word["xmax"]) < float(page["width"]) - 60, word.text


@needs_poppler
def test_long_table_repeats_its_header_and_loses_no_row(pdf_text):
    pages = [page for page in pdf_text.split("\f") if re.search(r"^\s*epoch\s+loss\s+state", page, re.M)]
    assert len(pages) == 2
    rows = [int(n) for page in pages for n in re.findall(r"^\s*(\d+)\s+[\d.]+\s+done", page, re.M)]
    assert rows == list(range(90))


def test_wide_table_is_turned_and_a_narrow_one_is_not(tmp_path):
    narrow = export(tmp_path, code_cell("t", table_output(wide_frame(3), "tbl-x")), exporter=LabReportTypstExporter)
    wide = export(tmp_path, code_cell("t", table_output(wide_frame(14), "tbl-x")), exporter=LabReportTypstExporter)
    assert "flipped: true" in wide and "flipped: true" not in narrow


@both
def test_table_too_wide_for_any_page_is_an_error_that_names_it(tmp_path, exporter):
    with pytest.raises(UserError, match=r"tbl-x \(notebook 01_study, cell 1\).*61 columns"):
        export(tmp_path, code_cell("t", table_output(wide_frame(60), "tbl-x")), exporter=exporter)


def test_formulas_are_mathml_and_bare_align_is_one(report):
    html, _ = report
    maths = html.find_all("math")
    assert len(maths) >= 7 and len(html.main.find_all("math", display="block")) == 2
    outside = "".join(text for text in html.strings if text.parent.name != "annotation")
    assert "\\begin" not in outside and "$" not in outside


def test_html_looking_text_is_text_wherever_it_stands(report):
    html, _ = report
    assert HTML_LOOKING in html.find("pre", string=HTML_LOOKING).text  # an output
    assert HTML_LOOKING in [cell.text for cell in html.find_all("td")]
    assert "<b>raw HTML</b>" in html.main.get_text()


def test_code_is_folded_in_the_page_and_removed_cells_are_gone(report):
    html, _ = report
    defaults, values, *others = (d.summary.text for d in html.find_all("details"))
    assert (defaults, values) == ("Code: the notebook's defaults", "Code: the values of this report")
    assert others == ["Code"] * 9
    assert not html.find("details", open=True)
    assert "epochs = 5" in html.details.text and "secret" not in html.get_text()


@needs_poppler
@pytest.mark.skipif(not chinese_font(), reason="needs a font with Chinese characters")
def test_pdf_has_chinese_characters(pdf_text):
    assert "中文字符" in pdf_text


@needs_poppler
def test_code_stands_at_the_end_of_the_pdf(pdf_text):
    before, _, code = pdf_text.rpartition("The code of each notebook")
    assert "epochs = 5" in code and "epochs = 5" not in before and "secret" not in pdf_text


def test_terminal_colours_and_rewritten_lines_are_gone(report):
    text = report[0].find("pre", class_="output").text
    assert text.startswith("epoch 2: loss 4.9\n0.95 0.95") and "\x1b" not in text


def test_failed_section_is_marked_and_shows_what_stopped_it(report):
    html, _ = report
    section = html.main.find_all("section", recursive=False)[2]
    assert section.h1.find(class_="failed-mark") and "cell 3: ZeroDivisionError" in section.text
    assert len(html.nav.find_all(class_="failed-mark")) == 2


def test_section_without_notebook_goes_by_its_name(report):
    section = report[0].main.find_all("section", recursive=False)[3]
    assert "04_missing" in section.h1.text and "no space left" in section.text


def test_reference_into_a_failed_notebook_does_not_cost_the_report(tmp_path):
    good = write_notebook(tmp_path / "99.ipynb", "# Summary\n\nSee @fig-lost and [there](01_study.ipynb#lost).")
    sections = [Section("01_study", None, "stopped"), Section("99", good)]
    html, pdf = render(sections, Front("Report"), tmp_path)
    assert "(fig-lost is missing)" in html.read_text(encoding="utf8") and pdf.stat().st_size


@both
@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["See @fig-none."], r"01_study, cell 1: reference @fig-none is undefined"),
        ([code_cell("f", figure_output("fig-a", "See @tbl-none."))], r"cell 1: reference @tbl-none"),
        (
            [code_cell("t", table_output(pandas.DataFrame({"a": ["@fig-none"]}), "tbl-a"))],
            "@fig-none is undef",
        ),
        (
            [code_cell("f", figure_output("fig-a")), code_cell("f", figure_output("fig-a"))],
            "fig-a is used twice",
        ),
        ([code_cell("f", figure_output("fig-a", alt=""))], r"fig-a \(notebook 01_study, cell 1\): no alt"),
        ([code_cell("f", figure_output("fig-a", caption=" "))], r"fig-a .*: no caption"),
        ([code_cell("f", figure_output("fig-a", caption="One.\n\nTwo."))], "a caption is one paragraph"),
        ([code_cell("f", new_output("display_data", {"image/png": "eA=="}))], "cell 1: a picture without"),
        (["![A cat.](cat.png)"], r"cell 1: the picture cat.png cannot be shown: no such file"),
        (["![](cat.png)"], "cat.png has no alternative text"),
        (["![A cat.](https://example.org/cat.png)"], "beside the notebook"),
        (["text", r"A formula $\undefinedmacro{x}$."], r"cell 2: .*undefinedmacro"),
        ([r"A formula $\frac{1}{$."], r"cell 1: .*TeX"),
        ([r"Raw \foo{x}."], r"cell 1: TeX outside of a formula"),
        (["[there](#nowhere)"], r"cell 1: the link to '#nowhere'"),
        (["[there](../README.md)"], r"leads to nothing in the report"),
    ],
)
def test_what_cannot_be_rendered_is_one_line_that_names_it(tmp_path, exporter, cells, message):
    with pytest.raises(UserError, match=message) as caught:
        export(tmp_path, *cells, exporter=exporter)
    assert "\n" not in str(caught.value)


def test_duplicate_label_in_two_notebooks_names_both(tmp_path):
    paths = [write_notebook(tmp_path / f"{n}.ipynb", code_cell("f", figure_output("fig-a"))) for n in ("01", "02")]
    with pytest.raises(UserError, match=r"fig-a is used twice: in notebook 01, cell 1 and in notebook 02, cell 1"):
        render([Section(path.stem, path) for path in paths], Front("Report"), tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_unreadable_notebook_is_named(tmp_path):
    (tmp_path / "01.ipynb").write_text("{")
    with pytest.raises(UserError, match=r"01\.ipynb is not a notebook that can be read"):
        render([Section("01", tmp_path / "01.ipynb")], Front("Report"), tmp_path)


def test_rebuilding_elsewhere_gives_the_same_bytes(tmp_path):
    built = []
    for name in ("one", "another-folder"):
        folder = tmp_path / name
        folder.mkdir()
        html, pdf = render(sample_sections(folder), FRONT, folder / "output")
        built.append((html.read_bytes(), pdf.read_bytes()))
    assert built[0] == built[1]
    assert str(tmp_path).encode() not in built[0][0]


def test_headings_that_skip_a_level_are_raised_and_numbered_through(tmp_path):
    html = BeautifulSoup(export(tmp_path, "# One", "### Skipped", "## Next\n\n#### Deep", "# Two"), "html.parser")
    headings = html.main.find_all(re.compile("^h[1-4]$"))
    assert [(h.name, h.span.text) for h in headings] == [
        ("h1", "1"),
        ("h2", "1.1"),
        ("h2", "1.2"),
        ("h3", "1.2.1"),
        ("h1", "2"),
    ]


def test_pictures_beside_the_notebook_and_attached_to_it_are_embedded(tmp_path):
    figure = figure_output("fig-a").data
    (tmp_path / "curve.svg").write_text(figure["image/svg+xml"])
    attached = new_markdown_cell("![Attached curve.](attachment:a.png)")
    attached["attachments"] = {"a.png": {"image/png": figure["image/png"]}}
    path = write_notebook(tmp_path / "01.ipynb", "![A curve.](curve.svg)", attached)
    html, pdf = render([Section("01", path)], Front("Report"), tmp_path)
    images = BeautifulSoup(html.read_text(encoding="utf8"), "html.parser").find_all("img")
    assert [(i["alt"], i["src"][:22]) for i in images] == [
        ("A curve.", "data:image/svg+xml;bas"),
        ("Attached curve.", "data:image/png;base64,"),
    ]
    assert pdf.stat().st_size > 10_000


@needs_poppler
@pytest.mark.parametrize("name", ["кошка", "γάτα", "猫", "고양이"])
def test_class_names_in_any_script_come_out_in_html_and_pdf(name, tmp_path):
    try:
        families_for([name])
    except UserError as error:
        pytest.skip(str(error))
    path = write_notebook(tmp_path / "01.ipynb", f"# Classes\n\nOne of them is {name}.")
    html, pdf = render([Section("01", path)], Front("Report"), tmp_path)
    assert f"One of them is {name}." in html.read_text(encoding="utf-8")
    text = subprocess.run(["pdftotext", pdf, "-"], capture_output=True, text=True, check=True).stdout
    assert name in unicodedata.normalize("NFC", text)


def test_character_that_no_font_has_does_not_cost_the_report(tmp_path, caplog):
    path = write_notebook(tmp_path / "01.ipynb", "# Rare\n\nA private character: \U000f1234.")
    _, pdf = render([Section("01", path)], Front("Report"), tmp_path)
    assert pdf.read_bytes().startswith(b"%PDF") and "not complete" in caplog.text


def test_single_notebook_goes_through_nbconvert_by_exporter_name(tmp_path):
    path = write_notebook(tmp_path / "study.ipynb", "# Study\n\nAn $x$.", code_cell("f", figure_output("fig-a")))
    for exporter in (LabReportHTMLExporter, LabReportTypstExporter):
        text, resources = exporter().from_filename(str(path))
        assert "Study" in text and list(resources["outputs"]) == ([] if exporter.target == "html" else ["fig-a.svg"])


def test_merging_gives_each_cell_an_id_of_its_place(tmp_path):
    merged = merge(sample_sections(tmp_path), FRONT)
    ids = [cell["id"] for cell in merged.cells]
    assert len(ids) == len(set(ids)) and ids[0] == "s0-c1"
    nbformat.validate(merged)


def test_long_report_takes_seconds(tmp_path):
    sections, figure = [], figure_output("fig-x")
    for n in range(6):
        cells = [f"# Section {n}", *(f"## Part {c}\n\nText with $x_{c}$, see @fig-{n}-0." for c in range(10))]
        for c in range(7):
            metadata = {"labreport": {"label": f"fig-{n}-{c}", "caption": f"Loss $x_{c}$.", "alt": "A curve."}}
            cells.append(code_cell("f", new_output("display_data", figure.data, metadata=metadata)))
        sections.append(Section(f"{n:02d}", write_notebook(tmp_path / f"{n:02d}.ipynb", *cells)))
    start = time.perf_counter()
    render(sections, Front("Report"), tmp_path)
    assert time.perf_counter() - start < 15  # 2 s; with a pandoc process for each fragment 28 s


def test_importing_what_notebooks_use_loads_no_exporter():
    code = "import sys, labreport; print({'nbconvert', 'matplotlib', 'pandas', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("a word at the end", ["a word at ", "↪ the end"]),
        ("x" * 25, ["x" * 10, "↪ " + "x" * 8, "↪ " + "x" * 7]),
        ("中文字符中文字符", ["中文字符中", "↪ 文字符"]),
    ],
)
def test_long_lines_are_broken_within_the_columns(text, lines):
    assert wrap_lines(text, 10).split("\n") == lines
    assert all(display_width(line) <= 10 for line in lines)


def test_a_line_of_any_length_is_broken_in_no_time():
    started = time.perf_counter()
    lines = wrap_lines("word " * 40_000, 100).split("\n")
    assert time.perf_counter() - started < 10
    assert "".join(line.removeprefix("↪ ") for line in lines) == "word " * 40_000


def test_columns_of_text_are_as_wide_as_their_widest_cell():
    assert align_columns([["a", "b", ""], ["中文", "", "c"]]) == ["  a     b", "  中文     c"]


def test_text_is_cleaned_as_a_terminal_would_show_it():
    assert clean_terminal_text("\x1b[1mbold\x1b[0m\x07\r\n10%\r100%\n\n") == "bold\n100%"


def test_columns_of_references_are_as_wide_as_what_is_read(tmp_path):
    label = "fig-with-a-label-of-very-many-words"
    frame = pandas.DataFrame({f"h{n}": [f"@{label}"] for n in range(7)})
    cells = [code_cell("f", figure_output(label)), code_cell("t", table_output(frame, "tbl-x"))]
    source = export(tmp_path, *cells, exporter=LabReportTypstExporter)
    assert "columns: (auto, auto, auto, auto, auto, auto, auto,)" in source


# ---- text that came from files ------------------------------------------------------------------------------

HOSTILE_TEXTS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[click](javascript:alert(1)) javascript:alert(1)",
    "![x](https://example.org/x.png) https://example.org/",
    '#read("/etc/passwd") #import "@preview/x:1.0.0"',
    '"); #panic("x") //',
    "\\#x \\input{/etc/passwd} \\",
    "$x$ $$ $\\undefined{y}$ 5 $",
    "*b* _i_ ~s~ ^t^ `c` `` {=typst} [@c] [^1]",
    "@fig-none and @tbl-none",
    "<a@b> &lt;b&gt; &#60; {{ 7 * 7 }} {% raw %}",
    "]] #[ ]# <label> = title",
    "# title\n\n- item\n\n---\n",
]
FORBIDDEN_TAGS = ["script", "iframe", "object", "embed", "link", "base", "form", "svg"]


def check_page(html: str) -> BeautifulSoup:
    """The report in HTML, with nothing in it that could run or ask for anything."""
    tree = BeautifulSoup(html, "html.parser")
    assert not tree.find_all(FORBIDDEN_TAGS)
    (policy,) = tree.find_all("meta", attrs={"http-equiv": True})
    assert policy["http-equiv"] == "Content-Security-Policy" and "default-src 'none'" in policy["content"]
    for tag in tree.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on") or name in ("srcset", "action", "ping")], tag
        assert tag.get("src", "data:").startswith("data:"), tag
        assert re.match(r"#|https?:|mailto:|$", tag.get("href", "")), tag
    return tree


def visible(text: str) -> str:
    """As it is compared: one space for any, without the marks that allow line breaks or keep a reference text."""
    return " ".join(re.sub("[\u200b\u00ad]", "", text).split())


def letters(text: str) -> str:
    """What a reader of the PDF surely gives back in this order: no spaces, no line-break marks."""
    return re.sub(r"\s|↪", "", unicodedata.normalize("NFKC", visible(text)))


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    """(HTML tree, text of the PDF) of a report in which every text that comes from files is hostile."""
    everything = "\n".join(HOSTILE_TEXTS)
    folder = tmp_path_factory.mktemp("hostile")
    frame = pandas.DataFrame({"class": [literal(text) for text in HOSTILE_TEXTS], HOSTILE_TEXTS[0]: 0.5})
    error = new_output("error", ename="E", evalue=everything, traceback=["E: " + everything])
    output = new_output("stream", name="stdout", text=everything)
    cells = ["# Section", *(f"A class {literal_markdown(text)} taken for *another*." for text in HOSTILE_TEXTS[:-1])]
    cells += [
        code_cell(f"x = {everything!r}", output, error, new_output("display_data", {"text/plain": everything})),
        code_cell("f", figure_output("fig-a", literal_markdown(HOSTILE_TEXTS[0]), alt=everything)),
        code_cell("t", table_output(frame, "tbl-a")),
    ]
    front = Front(everything, literal_markdown(HOSTILE_TEXTS[2]), everything, {everything: everything}, True)
    failed = Section(HOSTILE_TEXTS[0], None, everything)
    html, pdf = render([Section("01", write_notebook(folder / "01.ipynb", *cells)), failed], front, folder / "out")
    text = subprocess.run(["pdftotext", "-raw", pdf, "-"], capture_output=True, text=True).stdout
    return check_page(html.read_text(encoding="utf8")), text


def test_hostile_text_is_shown_as_it_is_wherever_it_stands(hostile_report):
    html, _ = hostile_report
    everything = visible("\n".join(HOSTILE_TEXTS))
    header = html.find("header")
    assert visible(html.title.text) == visible(header.h1.text) == everything
    assert {visible(tag.text) for tag in (header.find(class_="banner"), header.dt, header.dd)} == {everything}
    assert visible(HOSTILE_TEXTS[2]) in visible(header.find(class_="abstract").text)
    assert visible(html.img["alt"]) == everything
    shown = [visible(tag.text) for tag in html.find_all("pre")]
    assert sum(everything in text for text in shown) >= 4  # output, error, plain text, the failed section
    sentences = [visible(p.text) for p in html.main.find_all("p")]
    assert [f"A class {visible(text)} taken for another." for text in HOSTILE_TEXTS[:-1]] == sentences[:12]
    assert [visible(row.td.text) for row in html.tbody.find_all("tr")] == [visible(text) for text in HOSTILE_TEXTS]
    links = [a for a in html.find_all("a") if not a["href"].startswith("#")]
    assert [a["href"] for a in links] == ["https://example.org/x.png", "https://example.org/"]
    assert all(a.find_parent("td") for a in links)  # addresses in tables become links, in literal sentences not


@needs_poppler
def test_hostile_text_is_shown_as_it_is_in_the_pdf(hostile_report):
    _, text = hostile_report
    pdf = letters(text)
    for hostile in HOSTILE_TEXTS:
        assert pdf.count(letters(hostile)) >= 3, hostile
    assert "root:x:0" not in text


@pytest.mark.parametrize("markdown", ["[x](javascript:alert(1))", "<javascript:alert(1)>", "[x](data:text/html,x)",
                                      "[x](file:///etc/passwd)", "[x](vbscript:x)", "[x]( JaVaScRiPt:alert(1))",
                                      "![x](../../secret.png)", "![x](/etc/secret.png)", "![x](javascript:x.png)",
                                      "\\write18{x}", "`x`{=typst}\n\n```{=html}\n<script>\n```"])  # fmt: skip
@both
def test_markdown_that_links_to_code_or_reads_a_file_elsewhere_is_refused_or_text(tmp_path, exporter, markdown):
    """Such Markdown can come from a notebook alone: names from files are made literal."""
    secret = base64.b64decode(figure_output("fig-a").data["image/png"])
    (tmp_path / "secret.png").write_bytes(secret)
    (tmp_path / "a/b").mkdir(parents=True)
    try:
        source = export(tmp_path / "a/b", markdown, exporter=exporter)
        assert markdown.startswith("`")  # code, not markup
    except UserError as error:
        assert "01_study, cell 1" in str(error) and "\n" not in str(error)
    else:
        assert exporter is not LabReportHTMLExporter or check_page(source)
        assert ("<code>x</code>" if exporter is LabReportHTMLExporter else "`x`") in source


@both
def test_html_outputs_leave_their_tables_text_alone(tmp_path, exporter):
    html = ('<script>alert(1)</script><table onclick="x()"><tr><th colspan="2">a<script>b</script></th></tr>'
            '<tr><td rowspan="x"><img src=x onerror=alert(1)><b>#read("x")</b></td></tr></table>')  # fmt: skip
    source = export(tmp_path, code_cell("t", new_output("display_data", {"text/html": html})), exporter=exporter)
    assert "alert" not in source and len(source) < 400_000
    if exporter is LabReportHTMLExporter:
        assert check_page(source).find("td", string='#read("x")')
    wide = code_cell("t", new_output("display_data", {"text/html": html.replace("2", "9999999999")}))
    with pytest.raises(UserError, match="a table .notebook 01_study, cell 1.: its 1000 columns do not fit"):
        export(tmp_path, wide, exporter=exporter)


@both
@pytest.mark.parametrize("label", ['fig-"><script>', "fig-../../x", "fig-a b", "fig-<x>", "fig-\n", "fig-"])
def test_a_label_that_is_no_word_is_refused(tmp_path, exporter, label):
    """It becomes an id, a Typst label and a file's name."""
    with pytest.raises(UserError, match="01_study, cell 1") as caught:
        export(tmp_path, code_cell("f", figure_output(label)), exporter=exporter)
    assert "\n" not in str(caught.value)


def test_scripts_in_a_picture_stay_in_the_picture(tmp_path):
    """An SVG in an <img> runs nothing; it is never written into the page itself."""
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt" onload="alert(1)"><script>x</script></svg>'
    output = figure_output("fig-a")
    output.data = {"image/svg+xml": svg}
    html = export(tmp_path, code_cell("f", output))
    assert check_page(html).img and "onload" not in html


def test_class_names_are_literal_in_a_notebooks_sentences_and_as_they_are_in_its_figures(tmp_path, monkeypatch):
    from labreport.notebook import figures
    from labreport.notebook.study import Lab

    monkeypatch.chdir(tmp_path)
    names = sorted(text.replace("/", "|") for text in HOSTILE_TEXTS if "\n" not in text)
    for split in ("train", "test"):
        for name in names:
            folder = tmp_path / "mine" / split / name
            folder.mkdir(parents=True)
            Image.new("L", (8, 8)).save(folder / "0.png")
    data = Lab("01", {}).dataset("folder:mine")
    assert data.class_names == tuple(names) and data.record()["class_names"] == names
    cells = ["# Study", *(f"Images of {name} taken for {name!s:.0}nothing." for name in data.class_names)]
    html = check_page(export(tmp_path, *cells))
    shown = [visible(p.text) for p in html.main.find_all("p")]
    assert shown == [f"Images of {visible(name)} taken for nothing." for name in names]
    figure = figures.confusion_matrix([[1] * len(names)] * len(names), data.class_names)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == names
    figure.savefig(tmp_path / "x.png")  # "$" starts no formula
    pictures = [Image.new("L", (4, 4))] * 2
    figure = figures.cluster_examples([[numpy.array(p)[..., None] for p in pictures]] * 2, data.class_names[:2], [2, 2])
    assert figure.axes[0].get_yticklabels()[0].get_text() == f"{names[0]} (n = 2)"


# ---- both files or neither ----------------------------------------------------------------------------------


def test_a_pdf_that_cannot_be_written_leaves_both_files_as_they_were(tmp_path, monkeypatch):
    path = write_notebook(tmp_path / "01.ipynb", "# Title")
    old = render([Section("01", path)], Front("Old"), tmp_path)
    before = [file.read_bytes() for file in old]
    write = exporters.write_atomically

    def full(file, content):
        if file.name.startswith(".report.pdf"):
            raise StoreError("no space left")
        write(file, content)

    monkeypatch.setattr(exporters, "write_atomically", full)
    with pytest.raises(StoreError, match="no space left"):
        render([Section("01", path)], Front("New"), tmp_path)
    assert [file.read_bytes() for file in old] == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["01.ipynb", "report.html", "report.pdf"]


def test_a_folder_in_the_pdf_s_place_is_named_and_no_html_is_written(tmp_path):
    (tmp_path / "report.pdf").mkdir()
    with pytest.raises(StoreError, match="report.pdf is a folder: move it away"):
        render([Section("01", write_notebook(tmp_path / "01.ipynb", "# Title"))], Front("Report"), tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_killed_pandoc_is_told_in_a_line(tmp_path, monkeypatch):
    pandoc = tmp_path / "pandoc"
    pandoc.write_text("#!/bin/sh\nkill -9 $$\n")
    pandoc.chmod(0o755)
    monkeypatch.setattr("pypandoc.get_pandoc_path", lambda: str(pandoc))
    with pytest.raises(UserError, match="pandoc was killed by SIGKILL while the report was rendered"):
        render([Section("01", write_notebook(tmp_path / "01.ipynb", "# Title"))], Front("Report"), tmp_path)
