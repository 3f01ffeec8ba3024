"""A small report with everything in it that a report can hold, as executed notebooks, for tests."""

import base64
import io
from pathlib import Path

import nbformat
import pandas
from matplotlib import rc_context
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from labreport.render.exporters import Front, Section
from labreport.render.tables import table_from_frame, table_html

OUTPUT = "epoch 1\repoch 2: loss 4.9\n" + "\x1b[32m0.95\x1b[0m " * 60 + "\n" + "y" * 150
HTML_LOOKING = "<script>alert('x')</script> & <b>bold</b>"

FRONT = Front(
    title="SimCLR on handwritten digits",
    abstract_markdown="The linear probe on $h$ reaches **95.2 %** with 6,000 labels (@fig-loss), *n* = 1.",
    banner="Stand-in data: digits instead of MNIST. No number here says anything about MNIST.",
    facts={
        "Profile": "smoke",
        "Device": "cpu, 2 threads",
        "Commit": "0123abc",
        "Data": f"digits {'5f' * 32}",
    },
    dirty=True,
)

FORMULAS = r"""# Study of the temperature $\tau$

**Question.** Does the temperature matter? See @fig-loss and (@tbl-wide); `@fig-not-a-reference` stays code.

The loss of one positive pair is $\ell_{i,j}$, with
$\mathrm{sim}(u, v) = u^\top v / \lVert u\rVert \lVert v\rVert$:

$$\ell_{i,j} = -\log \frac{\exp(\mathrm{sim}(z_i, z_j)/\tau)}
{\sum_{k=1}^{2N} \mathbb{1}_{[k \ne i]} \exp(\mathrm{sim}(z_i, z_k)/\tau)}$$

\begin{align}
h_i &= f(x_i) \\
z_i &= g(h_i) = W^{(2)} \sigma(W^{(1)} h_i), \qquad
\hat\alpha \in \mathcal{L},\ \mathbf{W} \in \mathbb{R}^{d\times k}
\end{align}

## Data in words

Text with <b>raw HTML</b>, a note[^why], 中文字符 and a [link](#limits).

| choice | accuracy |
|:--|--:|
| linear | 0.95 |
| hidden layer | 0.96 |

- first item
- second item

[^why]: Because a footnote is possible.

## Limits

> Not tested: everything else. Details follow in [the ledger](02_tables.ipynb#claims) of
> [the second notebook](02_tables.ipynb).
"""


def sample_figure(points: int = 30) -> Figure:
    """A loss curve."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([5 / (1 + 0.2 * x) for x in range(points)])
    axes.set(xlabel="epoch", ylabel="NT-Xent loss (nats)", title="Pre-training")
    return figure


def figure_output(label: str, caption: str = "Loss.", alt: str = "A falling curve.") -> dict:
    """What `show_figure` leaves in a notebook."""
    data = {}
    for form, mimetype in (("svg", "image/svg+xml"), ("png", "image/png")):
        buffer = io.BytesIO()
        with rc_context({"svg.hashsalt": label}):
            sample_figure().savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else None)
        content = buffer.getvalue()
        data[mimetype] = content.decode() if form == "svg" else base64.b64encode(content).decode()
    metadata = {"labreport": {"label": label, "caption": caption, "alt": alt}}
    return new_output("display_data", data, metadata=metadata)


def table_output(frame: pandas.DataFrame, label: str, caption: str = "A table.") -> dict:
    """What `show_table` leaves in a notebook."""
    data = {"text/html": table_html(table_from_frame(frame)), "text/plain": str(frame)}
    return new_output("display_data", data, metadata={"labreport": {"label": label, "caption": caption}})


def code_cell(source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    """An executed cell."""
    return new_code_cell(source, outputs=list(outputs), execution_count=1, metadata={"tags": list(tags)})


def write_notebook(path: Path, *cells) -> Path:
    """Save cells (Markdown cells as strings) as an executed notebook."""
    notebook = new_notebook(cells=[new_markdown_cell(c) if isinstance(c, str) else c for c in cells])
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"c{index}"
    nbformat.write(notebook, path)
    return path


def wide_frame(columns: int = 16) -> pandas.DataFrame:
    """Numbers side by side under long headings."""
    data = {f"augmentation strength {c}": [12345.678 + c, 0.5, float("nan")] for c in range(columns)}
    return pandas.DataFrame({"setting": ["colour jitter", "blur", HTML_LOOKING], **data})


def claims_frame() -> pandas.DataFrame:
    """Prose in cells, with a reference and an address."""
    claim = "A larger batch helps when training is short, because more negatives are seen in each step."
    rows = [[f"R1-{n}", claim, "holds" if n % 2 else "not tested", 0.5 + n / 100, "@fig-loss"] for n in range(9)]
    rows.append(["R2", "https://arxiv.org/abs/2002.05709 and " + "0123456789abcdef" * 4, "holds", 1.0, "@tbl-long"])
    return pandas.DataFrame(rows, columns=["id", "claim", "verdict", "measured", "shown in"])


def sample_sections(folder: Path) -> list[Section]:
    """Three sections, the last of them failed."""
    study = write_notebook(
        folder / "01_study.ipynb",
        FORMULAS,
        code_cell("epochs = 5", tags=("parameters",)),
        code_cell("# Parameters\nepochs = 50", tags=("injected-parameters",)),
        code_cell("secret = 1", tags=("remove-cell",)),
        code_cell(
            f"import torch\nprint({'x' * 200!r})  # {'a remark that goes on ' * 8}\nloss = 0.5",
            new_output("stream", name="stdout", text=OUTPUT),
        ),
        code_cell("show_figure(...)", figure_output("fig-loss", r"Loss at $\tau = 0.5$; see also @tbl-wide.")),
        code_cell(
            "say(...)",
            new_output("display_data", {"text/markdown": "The probe **beats** a random encoder by 5 points."}),
            new_output("execute_result", {"text/plain": HTML_LOOKING}, execution_count=1),
        ),
    )
    tables = write_notebook(
        folder / "02_tables.ipynb",
        "# Tables",
        code_cell("wide", table_output(wide_frame(), "tbl-wide", "Wide: many columns.")),
        "## Long",
        code_cell(
            "long",
            table_output(
                pandas.DataFrame({"epoch": range(90), "loss": [4.9 / (1 + e) for e in range(90)], "state": "done"}),
                "tbl-long",
                "Loss of each epoch.",
            ),
            new_output("stream", name="stdout", text="\n".join(f"line {n}" for n in range(120))),
        ),
        "## Claims",
        code_cell("claims", table_output(claims_frame(), "tbl-claims", "The ledger.")),
        code_cell(
            "frame",
            new_output(
                "execute_result",
                {"text/html": pandas.DataFrame({"a": [1.5], "b": ["text"]}).to_html(), "text/plain": "a b"},
                execution_count=2,
            ),
        ),
    )
    failed = write_notebook(
        folder / "03_failed.ipynb",
        "# A notebook that stops",
        code_cell(
            "say(..., abstract=True)",
            new_output("display_data", {"text/markdown": "Twice."}, metadata={"labreport": {"abstract": True}}),
        ),
        code_cell(
            "1 / 0",
            new_output(
                "error",
                ename="ZeroDivisionError",
                evalue="division by zero",
                traceback=["\x1b[31mZeroDivisionError\x1b[0m: division by zero"],
            ),
        ),
    )
    return [
        Section("01_study", study),
        Section("02_tables", tables),
        Section("03_failed", failed, "cell 3: ZeroDivisionError: division by zero"),
        Section("04_missing", None, "the notebook was not run: no space left"),
    ]
