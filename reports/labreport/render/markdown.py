"""Markdown through pandoc: many fragments in one process, so that a report takes seconds.

Between reading and writing, the fragments are pandoc's syntax tree (https://hackage.haskell.org/package/pandoc-types):
dictionaries with a type "t" and a content "c".
"""

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from labreport.render.blocks import Fragment
from labreport.scratch import scratch_folder
from labreport.text import how_it_ended
from simclr_core.errors import UserError

# Jupyter's Markdown, as near as pandoc comes. "@word" is no citation, raw HTML stays text, raw TeX is kept to
# be checked.
READER = (
    "markdown-raw_html-native_divs-native_spans-markdown_in_html_blocks-citations-smart-implicit_figures"
    "-raw_attribute-blank_before_header-blank_before_blockquote+autolink_bare_uris+lists_without_preceding_blankline"
)
FILE_PREFIX = r"^f\d+\.md__"  # what pandoc puts before identifiers and local links
_MARK = "labreport-boundary"
_MARKS = {"html": f"<!-- {_MARK} -->", "typst": f"/* {_MARK} */"}


class PandocError(RuntimeError):
    """What pandoc said."""


def read_fragments(fragments: list[Fragment]) -> None:
    """Fill each fragment's `ast`. Raises: UserError naming the place of what pandoc cannot read."""
    asts = _whole_or_one_by_one(_read, fragments, lambda f: f.text)
    for fragment, ast in zip(fragments, asts, strict=True):
        fragment.ast = ast


def write_fragments(fragments: list[Fragment], target: str) -> str:
    """Fill each fragment's `result` in the target, "html" or "typst"; returns what comes last (footnotes).

    Raises: UserError naming the place of TeX that pandoc cannot convert.
    """
    results = _whole_or_one_by_one(lambda asts: _write(asts, target), fragments, lambda f: f.ast)
    for fragment, result in zip(fragments, results, strict=False):
        fragment.result = result
    return results[-1]


def _whole_or_one_by_one(convert: Callable[[list], list], fragments: list[Fragment], part: Callable) -> list:
    """All in one process; when that fails, each on its own, to find out whose fault it is."""
    try:
        return convert([part(fragment) for fragment in fragments])
    except PandocError as error:
        whole = error
    for fragment in fragments:
        try:
            convert([part(fragment)])
        except PandocError as error:
            raise UserError(f"{fragment.place}: {error}") from None
    raise whole


def _read(texts: list[str]) -> list[list]:
    with scratch_folder() as folder:
        names = []
        (folder / "mark").write_text(_MARK)
        for number, text in enumerate(texts):
            (folder / f"f{number}.md").write_text(text, encoding="utf8")
            names += [f"f{number}.md", "mark"]
        document = json.loads(_pandoc("-f", READER, "-t", "json", "--file-scope", *names, cwd=folder))
    parts: list[list] = [[]]
    mark = {"t": "Para", "c": [{"t": "Str", "c": _MARK}]}
    for block in document["blocks"]:
        if block == mark:
            parts.append([])
        else:
            parts[-1].append(block)
    return parts[:-1]


def _write(asts: list[list], target: str) -> list[str]:
    mark = {"t": "RawBlock", "c": [target, _MARKS[target]]}
    document = {
        "pandoc-api-version": _api_version(),
        "meta": {},
        "blocks": [block for ast in asts for block in [*ast, mark]],
    }
    options = ["--mathml"] if target == "html" else []
    written = _pandoc("-f", "json", "-t", target, *options, stdin=json.dumps(document))
    return [part.strip("\n") for part in written.split(_MARKS[target])]


@cache
def _api_version() -> list[int]:
    return json.loads(_pandoc("-f", "markdown", "-t", "json", stdin=""))["pandoc-api-version"]


def _pandoc(*arguments: str, stdin: str = "", cwd: Path | None = None) -> str:
    import pypandoc

    options = ["--wrap=none", "--syntax-highlighting=none", "--fail-if-warnings"]
    command = [pypandoc.get_pandoc_path(), *options, *arguments]
    done = subprocess.run(command, input=stdin.encode(), capture_output=True, cwd=cwd, check=False)
    if done.returncode < 0:
        raise UserError(f"pandoc was {how_it_ended(done.returncode)} while the report was rendered: if memory ran out, "
                        "give it more and run the same command again")  # fmt: skip
    if done.returncode:
        raise PandocError(_first_warning(done.stderr.decode()))
    return done.stdout.decode()


def _first_warning(stderr: str) -> str:
    """pandoc's first complaint as one line."""
    lines = stderr.replace("[WARNING] ", "\n").strip().split("\n\n")[0].splitlines()
    return " ".join(line.strip() for line in lines if "Failing because" not in line)


def walk(node, visit: Callable[[dict], list | None]) -> None:
    """Replace, in place, each element below `node` for which `visit` returns a list; others are gone into."""
    if isinstance(node, dict):
        walk(node.get("c"), visit)
    elif isinstance(node, list):
        items = []
        for item in node:
            new = visit(item) if isinstance(item, dict) and "t" in item else None
            if new is None:
                walk(item, visit)
            items += [item] if new is None else new
        node[:] = items
