"""The report in a browser without a network, at a desk's and at a phone's width."""

import shutil

import pytest
from sample_report import FRONT, sample_sections

from labreport.render.exporters import render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: install the extra [test]")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium")

WIDER_THAN_THE_PAGE = """() => [...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, math, pre, .skip'))
    .map(e => e.outerHTML.slice(0, 80))"""
DEAD_LINKS = """() => [...document.querySelectorAll('a[href^="#"]')]
    .filter(a => !document.querySelector(a.hash)?.getClientRects().length)
    .map(a => a.outerHTML)"""
CUT_LINES = """() => [...document.querySelectorAll('pre')].filter(p => p.scrollWidth > p.clientWidth)
    .map(p => p.textContent.slice(0, 80))"""
FLAT_FORMULAS = """() => [...document.querySelectorAll('math')]
    .filter(m => m.getBoundingClientRect().height < 5)
    .map(m => m.outerHTML)"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    return render(sample_sections(folder), FRONT, folder)[0]


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")], ids=str)
def page(request, browser, report):
    """The opened report; `page.said` and `page.requested` hold what it did."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    opened = context.new_page()
    opened.said, opened.requested = [], []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda made: opened.requested.append(made.url))
    opened.goto(report.as_uri())
    yield opened
    context.close()


def test_page_asks_for_nothing_and_complains_of_nothing(page, report):
    assert [url for url in page.requested if not url.startswith("data:")] == [report.as_uri()]
    assert page.said == []


def test_page_does_not_scroll_sideways(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.evaluate(WIDER_THAN_THE_PAGE) == []


def test_long_lines_of_code_and_outputs_are_broken(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate(CUT_LINES) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_links_lead_to_what_is_visible(page):
    assert page.evaluate("document.querySelectorAll('nav a').length") == 8
    assert page.evaluate(DEAD_LINKS) == []


def test_clicking_an_entry_of_the_contents_goes_there(page):
    page.click("nav a[href='#sec-2-2']")
    assert 0 <= page.evaluate("document.getElementById('sec-2-2').getBoundingClientRect().top") < 100


def test_formulas_have_a_height_and_the_embedded_font(page):
    assert page.evaluate("document.querySelectorAll('math').length") >= 7
    assert page.evaluate(FLAT_FORMULAS) == []
    assert page.evaluate("document.fonts.check('16px \"STIX Two Math Subset\"')")


def test_pictures_are_there(page):
    sizes = page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.width, i.alt])")
    assert sizes and all(done and natural > 0 and shown > 200 and alt for done, natural, shown, alt in sizes)


def test_wide_table_scrolls_in_its_own_box(page):
    box = "document.querySelector('#tbl-wide .scroll')"
    assert page.evaluate(f"{box}.scrollWidth > {box}.clientWidth")


def test_text_stands_out_from_the_paper(page):
    colours = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    ink, paper = (sum(map(int, colour[4:-1].split(","))) / 3 for colour in colours)
    assert abs(ink - paper) > 150
