"""What notebooks call to put figures, tables and computed sentences into the report.

Each output carries its label, caption and alternative text in its metadata (`labreport`), from which the
exporters number and set it. Nothing depends on the clock: the same figure gives the same bytes.
"""

import base64
import io
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from labreport.render.tables import has_default_index, table_from_frame, table_html

PNG_DPI = 150
LARGEST_SVG = 2_000_000  # bytes; a figure with more (thousands of points) goes into the report as PNG
_LABEL = re.compile(r"(fig|tbl)-[a-z0-9]+(-[a-z0-9]+)*")


def show_figure(fig, label: str, caption: str, alt: str) -> None:
    """Show a matplotlib figure as a numbered figure; writes figures/<label>.pdf beside the report.

    Args:
        fig: matplotlib Figure; closed afterwards, so that the notebook does not show it twice.
        label: `fig-...`, unique in the report; `@fig-...` in Markdown refers to it.
        caption: Markdown, one paragraph, without the number.
        alt: what the figure shows, for those who do not see it; plain text.
    Raises: ValueError naming the argument that is missing or malformed.
    """
    from matplotlib import pyplot, rc_context

    _check(label, "fig", caption=caption, alt=alt)
    with rc_context({"svg.hashsalt": label, "svg.fonttype": "path", "pdf.fonttype": 42}):
        svg = _drawn(fig, "svg", metadata={"Date": None})
        png = _drawn(fig, "png", metadata={"Software": None}, dpi=PNG_DPI)
        _write(f"figures/{label}.pdf", lambda: _drawn(fig, "pdf", metadata={"CreationDate": None}))
    pyplot.close(fig)
    data = {"image/png": base64.b64encode(png).decode(), "text/plain": f"{label}: {caption}"}
    if len(svg) <= LARGEST_SVG:
        data["image/svg+xml"] = svg.decode()
    _display(data, label=label, caption=caption, alt=alt)


def show_table(frame, label: str, caption: str, formats: Mapping[str, str | Callable] | None = None) -> None:
    """Show a DataFrame as a numbered table; writes tables/<label>.csv, unrounded, beside the report.

    Args:
        frame: pandas DataFrame; cells are plain text, `@fig-x` and web addresses become links.
        label: `tbl-...`, unique in the report.
        caption: short, Markdown, one paragraph.
        formats: column -> format string ("{:.1f}") or function; floats get four significant digits otherwise.
    Raises: ValueError naming the argument that is missing or malformed.
    """
    _check(label, "tbl", caption=caption)
    table = table_from_frame(frame, formats)
    csv = frame.to_csv(index=not has_default_index(frame), lineterminator="\n")
    _write(f"tables/{label}.csv", csv.encode)
    plain = "\n".join("  ".join(row) for row in table.head + table.body)
    _display({"text/html": table_html(table), "text/plain": plain}, label=label, caption=caption)


def say(markdown: str, abstract: bool = False) -> None:
    """Show computed sentences (Markdown) as part of the report's text, or as its abstract on the title page."""
    from IPython.display import Markdown, display

    display(Markdown(markdown), metadata={"labreport": {"abstract": True}} if abstract else {})


def _check(label: str, kind: str, **texts: str) -> None:
    if not _LABEL.fullmatch(label) or not label.startswith(kind):
        raise ValueError(f"label {label!r}: expected {kind}- and lower-case words, such as {kind}-loss-curve")
    for name, text in texts.items():
        if not text or not text.strip():
            raise ValueError(f"{label}: {name} is empty; say in a sentence what is shown")


def _drawn(fig, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    fig.savefig(buffer, format=form, bbox_inches="tight", **options)
    return buffer.getvalue()


def _write(name: str, content: Callable[[], bytes]) -> None:
    """Write a file below $LABREPORT_OUTPUT, whole or not at all; nothing when that is not set."""
    folder = os.environ.get("LABREPORT_OUTPUT")
    if not folder:
        return
    from simclr_core.data.files import write_atomically

    write_atomically(Path(folder, name), content())


def _display(data: dict[str, str], **metadata: str) -> None:
    from IPython.display import display

    display(data, raw=True, metadata={"labreport": metadata})
