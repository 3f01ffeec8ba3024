"""nbconvert's exporters labreport_html, labreport_typst and labreport_pdf, and `render` for both files.

Work on the notebook's content is in `weave`; here are the templates' surroundings and the two file formats.
"""

import base64
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from nbconvert.exporters.templateexporter import TemplateExporter
from nbconvert.preprocessors import Preprocessor
from traitlets import Unicode, default
from traitlets.config import Config

from labreport.render.merge import Front, Section, merge
from labreport.render.weave import weave
from labreport.scratch import scratch_folder
from labreport.text import breakable, typst_string, wrap_lines
from simclr_core.data.files import write_atomically
from simclr_core.errors import StoreError, UserError

TEXT_COLUMNS, CODE_COLUMNS = 90, 106  # monospaced characters on a line of the PDF, of outputs and of code
CJK_FONTS = ("Noto Serif CJK SC", "Noto Sans CJK SC", "Source Han Serif SC", "Noto Serif SC", "Noto Sans SC")


def render(sections: list[Section], front: Front, output: Path) -> tuple[Path, Path]:
    """Write report.html and report.pdf into the folder `output`, made if need be; neither on an error.

    Raises: UserError naming the notebook, and the label where there is one, of what cannot be rendered.
    """
    notebook = merge(sections, front)
    html, _ = LabReportHTMLExporter().from_notebook_node(notebook)
    pdf, _ = LabReportPDFExporter().from_notebook_node(notebook)
    paths = output / "report.html", output / "report.pdf"
    _write_together(dict(zip(paths, (html.encode(), pdf), strict=True)))
    return paths


def _write_together(contents: Mapping[Path, bytes]) -> None:
    """All files or none: nothing is replaced before everything is on the disk. Raises: StoreError."""
    written = {path.with_name(f".{path.name}.new"): path for path in contents}
    try:
        for path in contents:
            if path.is_dir():
                raise StoreError(f"{path} is a folder: move it away")
        for new, path in written.items():
            write_atomically(new, contents[path])
        for new, path in written.items():
            new.replace(path)
    finally:
        for new in written:
            new.unlink(missing_ok=True)


class WeavePreprocessor(Preprocessor):
    """Puts the woven report, which the templates set, into the resources; its pictures are `outputs`."""

    target = Unicode()

    def preprocess(self, nb, resources):
        where = resources.get("metadata", {})
        report = weave(nb, self.target, where.get("name") or "report", where.get("path", ""))
        return nb, {**resources, "report": report, "outputs": report.assets}


class _ReportExporter(TemplateExporter):
    """Leaves out cells tagged remove-cell, weaves the notebook, and has it set by the template."""

    target = ""

    @default("extra_template_basedirs")
    def _extra_template_basedirs_default(self):
        return [str(files("labreport.render") / "templates")]

    @default("template_name")
    def _template_name_default(self):
        return f"labreport_{self.target}"

    @property
    def default_config(self):
        config = Config(
            {
                "TagRemovePreprocessor": {"enabled": True, "remove_cell_tags": {"remove-cell"}},
                "CoalesceStreamsPreprocessor": {"enabled": True},
            }
        )
        config.merge(super().default_config)
        return config

    def _init_preprocessors(self):
        super()._init_preprocessors()
        self.register_preprocessor(WeavePreprocessor(target=self.target, parent=self), enabled=True)

    def default_filters(self):
        yield from super().default_filters()
        filters = {f.__name__: f for f in (breakable, highlight_python, typst_string, wrap_lines)}
        yield from filters.items()


class LabReportHTMLExporter(_ReportExporter):
    """One HTML file without scripts and requests; pictures and maths font are inside, formulas are MathML."""

    export_from_notebook = "Lab report (HTML)"
    output_mimetype = "text/html"
    target = "html"

    @default("file_extension")
    def _file_extension_default(self):
        return ".html"

    @default("template_extension")
    def _template_extension_default(self):
        return ".html.j2"

    def _init_resources(self, resources):
        font = (files("labreport.render") / "fonts" / "stix-two-math.woff2").read_bytes()
        return {**super()._init_resources(resources), "maths_font": base64.b64encode(font).decode()}


class LabReportTypstExporter(_ReportExporter):
    """The source of the PDF; pictures are files beside it (nbconvert's `outputs`)."""

    export_from_notebook = "Lab report (Typst)"
    output_mimetype = "text/plain"
    target = "typst"

    @default("file_extension")
    def _file_extension_default(self):
        return ".typ"

    @default("template_extension")
    def _template_extension_default(self):
        return ".typ.j2"

    def _init_resources(self, resources):
        widths = {"text": TEXT_COLUMNS, "code": CODE_COLUMNS}
        return {**super()._init_resources(resources), "cjk_fonts": CJK_FONTS, "columns": widths}


class LabReportPDFExporter(LabReportTypstExporter):
    """The PDF, by Typst: tagged (PDF/UA-1), and the same bytes for the same notebooks.

    Typst's own fonts are used, and the system's only where those lack a character (Chinese, for example).
    """

    export_from_notebook = "Lab report (PDF)"
    output_mimetype = "application/pdf"

    def from_notebook_node(self, nb, resources=None, **kw):
        source, resources = super().from_notebook_node(nb, resources, **kw)
        pdf = self._compile(source, resources.pop("outputs"))
        resources["output_extension"] = ".pdf"
        return pdf, resources

    def _compile(self, source: str, assets: dict[str, bytes]) -> bytes:
        """Compile; a character that no font has is a warning. Raises: UserError with Typst's message."""
        import typst

        with scratch_folder() as folder:
            for name, content in assets.items():
                (folder / name).write_bytes(content)
            main = folder / "report.typ"
            main.write_text(source, encoding="utf8")
            for own_fonts, standards in ((True, ["ua-1"]), (False, ["ua-1"]), (False, [])):
                options = {"ignore_system_fonts": own_fonts, "pdf_standards": standards}
                try:
                    pdf = typst.compile(str(main), root=str(folder), **options)
                except typst.TypstError as error:
                    failure = error
                    continue
                if not standards:
                    self.log.warning("the PDF is not complete: %s", failure)
                return pdf
            raise UserError(f"the PDF cannot be set: {failure}") from failure


def highlight_python(source: str) -> str:
    """Python source as HTML with pygments' short class names."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip()
