"""What a notebook shows: its metadata, its files, and the sameness of its bytes."""

import pandas
import pytest
from matplotlib import pyplot
from sample_report import HTML_LOOKING, sample_figure

from labreport.notebook import display as display_module
from labreport.notebook import say, show_figure, show_table


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: a list of (data, metadata)."""
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: outputs.append((data, metadata)))
    return outputs


@pytest.fixture
def output_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LABREPORT_OUTPUT", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def no_output_folder(monkeypatch):
    monkeypatch.delenv("LABREPORT_OUTPUT", raising=False)


def test_figure_carries_label_caption_and_alternative_text_and_is_svg_and_png(shown):
    show_figure(sample_figure(), "fig-loss", "Loss at $\\tau$.", "A falling curve.")
    ((data, metadata),) = shown
    assert metadata == {"labreport": {"label": "fig-loss", "caption": "Loss at $\\tau$.", "alt": "A falling curve."}}
    assert data["image/svg+xml"].startswith("<?xml") and data["image/png"] and "fig-loss" in data["text/plain"]


def test_same_figure_gives_same_bytes(shown, output_folder):
    show_figure(sample_figure(), "fig-loss", "Loss.", "A curve.")
    first = (output_folder / "figures" / "fig-loss.pdf").read_bytes()
    show_figure(sample_figure(), "fig-loss", "Loss.", "A curve.")
    assert shown[0] == shown[1]
    assert (output_folder / "figures" / "fig-loss.pdf").read_bytes() == first
    assert b"CreationDate" not in first


def test_figure_with_thousands_of_points_is_shown_as_png_alone(shown, monkeypatch):
    monkeypatch.setattr(display_module, "LARGEST_SVG", 1000)
    show_figure(sample_figure(), "fig-loss", "Loss.", "A curve.")
    assert "image/svg+xml" not in shown[0][0] and "image/png" in shown[0][0]


def test_shown_figure_is_closed_so_that_the_notebook_does_not_show_it_again(shown):
    figure, _ = pyplot.subplots()
    show_figure(figure, "fig-empty", "Nothing.", "Empty axes.")
    assert figure.number not in pyplot.get_fignums()


def test_files_are_written_below_the_output_folder_and_nothing_else_is(shown, output_folder):
    show_figure(sample_figure(), "fig-loss", "Loss.", "A curve.")
    show_table(pandas.DataFrame({"x": [0.123456789]}), "tbl-x", "Values.")
    files = sorted(str(path.relative_to(output_folder)) for path in output_folder.rglob("*") if path.is_file())
    assert files == ["figures/fig-loss.pdf", "tables/tbl-x.csv"]
    assert (output_folder / "tables" / "tbl-x.csv").read_text() == "x\n0.123456789\n"


def test_without_an_output_folder_nothing_is_written(shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    show_figure(sample_figure(), "fig-loss", "Loss.", "A curve.")
    show_table(pandas.DataFrame({"x": [1]}), "tbl-x", "Values.")
    assert list(tmp_path.iterdir()) == []


def test_table_formats_numbers_sets_them_right_and_escapes_text(shown):
    frame = pandas.DataFrame({"what": [HTML_LOOKING, "b"], "accuracy": [0.95234, float("nan")], "n": [6000, 12000]})
    show_table(frame, "tbl-x", "Values.", formats={"accuracy": "{:.1%}", "n": lambda n: f"{n:,}"})
    html = shown[0][0]["text/html"]
    assert '<td style="text-align:right">95.2%</td>' in html and "<td" in html and ">–</td>" in html
    assert '<td style="text-align:right">12,000</td>' in html
    assert "<script>" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize(("value", "text"), [(0.123456, "0.1235"), (60000.0, "60,000"), (7, "7"), (None, "–")])
def test_values_without_a_format_are_rounded_for_reading(shown, value, text):
    show_table(pandas.DataFrame({"x": pandas.Series([value], dtype=object)}), "tbl-x", "Values.")
    assert f">{text}</td>" in shown[0][0]["text/html"]


def test_named_index_is_shown_and_the_default_one_is_not(shown):
    show_table(pandas.DataFrame({"x": [1]}, index=pandas.Index(["a"], name="setting")), "tbl-x", "Values.")
    show_table(pandas.DataFrame({"x": [1]}), "tbl-y", "Values.")
    assert "setting" in shown[0][0]["text/html"]
    assert shown[1][0]["text/html"].count("<th") == 2  # <thead> and the one column


@pytest.mark.parametrize("label", ["tbl-loss", "loss", "fig-", "fig-Loss", "fig-a b", "fig_loss"])
def test_malformed_label_is_refused_by_name(label):
    with pytest.raises(ValueError, match=label):
        show_figure(sample_figure(), label, "Loss.", "A curve.")


@pytest.mark.parametrize(("caption", "alt", "missing"), [("", "A curve.", "caption"), ("Loss.", " ", "alt")])
def test_figure_without_caption_or_alternative_text_is_refused(caption, alt, missing):
    with pytest.raises(ValueError, match=f"fig-loss: {missing} is empty"):
        show_figure(sample_figure(), "fig-loss", caption, alt)


def test_format_for_an_unknown_column_is_refused():
    with pytest.raises(ValueError, match="acuracy"):
        show_table(pandas.DataFrame({"accuracy": [1.0]}), "tbl-x", "Values.", formats={"acuracy": "{:.1f}"})


def test_said_markdown_is_markdown(monkeypatch):
    said = []
    monkeypatch.setattr("IPython.display.display", lambda shown, metadata: said.append((shown.data, metadata)))
    say("**beats**")
    say("In short.", abstract=True)
    assert said == [("**beats**", {}), ("In short.", {"labreport": {"abstract": True}})]
