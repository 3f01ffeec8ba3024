"""Figures: labelled with units, faithful to their data, which they leave alone, readable in any script."""

import io
from copy import deepcopy
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.text import Text

from labreport.notebook import figures, glyphs
from simclr_core.errors import UserError

STYLE = Path(__file__).parent.parent / "notebooks" / "matplotlibrc"
GREYS = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6, 1)
COLOURS = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
CURVES = {"ours": {0: [0.5, 0.7], 1: [0.7, 0.9]}, "random": [0.4, 0.4]}
SCORES = {
    "ours": {"linear": {0: 0.96, 1: 0.97, 2: 0.98}},
    "random": {"linear": {0: 0.84}, "hidden": {0: 0.9}},
}
REPORTED = {"ours": {"linear": 0.9527}}
MATRIX = np.array([[90, 10], [0, 50]])

TIMES = {"pre-training": 179.4, "classifier": {0: 30.0, 1: 40.0}}
LONG_NAMES = [f"a rather long name {i}" for i in range(12)]

CALLS = {  # function, its arguments, texts that the figure must bear
    "loss": (
        figures.loss_curves,
        ({"a": [4.9, 4.5]}, {"a": 4.24}),
        "epoch|NT-Xent loss (nats)|lowest possible: 4.24",
    ),
    "accuracy": (figures.accuracy_curves, (CURVES,), "test accuracy (%)|ours|random"),
    "scores": (figures.score_dots, (SCORES, "accuracy (%)", True, REPORTED), "97.0|84.0|ours|linear"),
    "times": (
        figures.phase_times,
        (TIMES,),
        "time (seconds)\nmean ± standard deviation over 2 seeds|179 s|35.0 ± 7.1 s",
    ),
    "confusion": (figures.confusion_matrix, (MATRIX, ["cat", "dog"]), "predicted class|true class|90|cat"),
    "12 classes": (
        figures.confusion_matrix,
        (np.eye(12, dtype=int), LONG_NAMES),
        "share of the true class (%)",
    ),
    "views": (figures.view_grid, (GREYS, [GREYS[::-1]], ["image", "view 1"]), "image|view 1"),
    "clusters": (
        figures.cluster_examples,
        ([COLOURS, COLOURS[:0]], ["7", "1"], [1200, 0]),
        "7 (n = 1,200)|1 (n = 0)",
    ),
    "panels": (figures.curve_panels, ({"alignment": CURVES, "rank": CURVES}, [1, 8]), "alignment|rank|ours|8|epoch"),
    "sweep": (
        figures.sweep_curves,
        ({"batch 64": {0.1: {0: 0.5, 1: 0.6, 2: 0.7}, 0.5: {0: 0.4}}, "batch 256": {0.1: {0: 0.3}}}, "temperature"),
        "temperature\nmarks: means over seeds (3 at most), bars their 95 % t-interval|0.1|0.5|batch 64",
    ),
    "costs": (
        figures.cost_scatter,
        ({"ResNet": {0: 0.5}, "ViT": {0: 0.6}}, {"parameters": {"ResNet": 1e6, "ViT": 2e6}}),
        "parameters|ResNet|ViT|linear accuracy (%)",
    ),
    "heat map": (figures.heat_map, ([[0.5, 0.25]], ["64"], "accuracy (%)", ["0.1", "0.5"], "temperature", "batch"),
                 "50.0|25.0|temperature|batch|64|accuracy (%)"),
    "distances": (figures.heat_map, ([[0.1, 1.25], [1.25, 0.2]], ["cat", "dog"], "distance", None, "", "", False),
                  "1.25|0.10|dog"),
    "neighbours": (figures.neighbour_rows, (COLOURS[:2], np.stack([COLOURS, COLOURS]), [[True, False, True]] * 2,
                                            ["a cat", "a dog"]), "a cat|a dog"),
    "maps": (figures.plane_maps, ({"h": (np.arange(8.0).reshape(4, 2), [0, 1, 1, 0]), "z": (np.ones((2, 2)), [0, 0])},
                                  ["cat", "dog"]), "h|z|cat|dog"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _style():
    with matplotlib.rc_context(fname=STYLE):
        yield


def texts(fig):
    return {text.get_text() for text in fig.findobj(Text)}


def svg(fig):
    buffer = io.BytesIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@pytest.mark.parametrize(("function", "arguments", "expected"), CALLS.values(), ids=CALLS)
def test_every_figure_is_labelled_with_units(function, arguments, expected):
    fig = function(*arguments)
    assert isinstance(fig, Figure)
    assert set(expected.split("|")) <= texts(fig)


@pytest.mark.parametrize(("function", "arguments", "expected"), CALLS.values(), ids=CALLS)
def test_every_figure_leaves_its_data_unchanged(function, arguments, expected):
    before = deepcopy(arguments)
    svg(function(*arguments))
    np.testing.assert_equal(arguments, before)


@pytest.mark.parametrize(("function", "arguments", "expected"), CALLS.values(), ids=CALLS)
def test_every_figure_is_drawn_to_the_same_bytes_and_outside_pyplot(function, arguments, expected):
    assert svg(function(*arguments)) == svg(function(*arguments))
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(("function", "arguments", "expected"), CALLS.values(), ids=CALLS)
def test_nothing_is_drawn_outside_the_page(function, arguments, expected):
    fig = function(*arguments)
    fig.draw_without_rendering()
    drawn = fig.get_tightbbox()
    assert drawn.x0 >= -0.01 and drawn.y0 >= -0.01
    assert drawn.x1 <= fig.get_figwidth() + 0.01 and drawn.y1 <= fig.get_figheight() + 0.01
    assert fig.get_figwidth() <= figures.WIDTH + 0.01


def test_accuracy_is_drawn_in_percent_mean_and_every_seed():
    (ax,) = figures.accuracy_curves(CURVES).axes
    drawn = [line.get_ydata().tolist() for line in ax.lines]
    assert [np.round(y, 9).tolist() for y in drawn] == [
        [50.0, 70.0],
        [70.0, 90.0],
        [60.0, 80.0],
        [40.0, 40.0],
    ]
    assert "mean over 2 seeds" in ax.get_xlabel()


def test_one_seed_needs_no_explanation_and_one_series_no_legend():
    fig = figures.loss_curves({"a": {0: [3.0, 2.0]}})
    assert fig.axes[0].get_xlabel() == "epoch"
    assert fig.legends == []


def test_floors_are_drawn_where_they_are_in_their_series_colour():
    series = {"small": [4.0, 3.5], "large": [5.0, 4.5], "deep": [4.0, 3.6]}
    (ax,) = figures.loss_curves(series, {"small": 3.1, "large": 4.2, "deep": 3.1}).axes
    lines = {float(line.get_ydata()[0]): line for line in ax.lines if line.get_linestyle() == ":"}
    colours = {line.get_label(): line.get_color() for line in ax.lines}
    assert set(lines) == {3.1, 4.2}
    assert lines[4.2].get_color() == colours["large"] and lines[3.1].get_color() == colours["small"]
    assert {text.get_text() for text in ax.texts} == {"lowest possible: 3.10", "lowest possible: 4.20"}


def test_values_stand_at_the_epochs_given():
    (ax,) = figures.accuracy_curves({"ours": [0.9, 0.95]}, epochs=[4, 10]).axes
    assert list(ax.lines[0].get_xdata()) == [4, 10]
    assert list(ax.get_xticks()) == [4, 10]


def test_seeds_of_different_length_are_refused():
    with pytest.raises(ValueError):
        figures.loss_curves({"a": {0: [3.0, 2.0], 1: [3.0]}})


def test_nine_series_are_too_many_for_the_colours():
    with pytest.raises(ValueError, match="9 series"):
        figures.loss_curves({str(i): [1.0, 0.5] for i in range(9)})


def test_scores_show_mean_seeds_interval_and_the_reported_figure():
    (ax,) = figures.score_dots(SCORES, reported=REPORTED).axes
    drawn = [np.round(line.get_xdata(), 2).tolist() for line in ax.lines]
    assert [96.0, 97.0, 98.0] in drawn
    assert [97.0] in drawn and [95.27] in drawn
    assert [94.52, 99.48] in drawn  # 97 ± 4.303 / sqrt(3)
    assert "bars its 95 % t-interval" in ax.get_xlabel()


def test_two_seeds_get_no_interval():
    (ax,) = figures.score_dots({"ours": {"": {0: 0.96, 1: 0.98}}}, percent=False, xlabel="NMI").axes
    assert "t-interval" not in ax.get_xlabel() and "small dots" in ax.get_xlabel()
    assert sorted(len(line.get_xdata()) for line in ax.lines) == [0, 1, 2]  # legend, mean, seeds: no bar
    assert "0.970" in texts(ax.figure)


def test_confusion_colours_are_shares_of_the_true_class():
    fig = figures.confusion_matrix(MATRIX, ["cat", "dog"])
    assert fig.axes[0].images[0].get_array().tolist() == [[90, 10], [0, 100]]


def test_a_class_without_images_has_an_empty_row():
    fig = figures.confusion_matrix(np.array([[0, 0], [1, 1]]), ["cat", "dog"])
    assert fig.axes[0].images[0].get_array().tolist() == [[0, 0], [50, 50]]


def test_a_matrix_that_does_not_fit_its_names_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 2\): expected \(3, 3\)"):
        figures.confusion_matrix(MATRIX, ["cat", "dog", "bird"])


@pytest.mark.parametrize("images", [GREYS, COLOURS], ids=["grey", "colour"])
def test_each_view_stands_below_its_image(images):
    views = 255 - images
    picture = np.asarray(figures.view_grid(images, [views], ["image", "view"]).axes[0].images[0].get_array())
    height, width, step = images.shape[1], images.shape[2], images.shape[2] + figures.GAP
    for k, (image, view) in enumerate(zip(images, views, strict=True)):
        column = picture[:, k * step : k * step + width]
        np.testing.assert_array_equal(column[:height], image.squeeze())
        np.testing.assert_array_equal(column[height + figures.GAP :], view.squeeze())


def test_views_of_another_shape_or_type_are_refused_by_name():
    with pytest.raises(ValueError, match=r"view 1: uint8 \(3, 5, 6, 1\), expected uint8 \(4, 5, 6, 1\)"):
        figures.view_grid(GREYS, [GREYS[:3]], ["image", "view 1"])
    with pytest.raises(ValueError, match="view 1: float64"):
        figures.view_grid(GREYS, [GREYS / 255], ["image", "view 1"])
    with pytest.raises(ValueError, match="1 titles for 2 rows"):
        figures.view_grid(GREYS, [GREYS], ["image"])


def test_the_usual_font_has_greek_and_cyrillic():
    assert glyphs.families_for(["αβγ", "кошка", "naïve"]) == ["sans-serif"]


def test_a_font_that_has_the_characters_is_added(monkeypatch):
    fonts = {"Some": {"飞"}, "Other": {"飞", "机"}}
    monkeypatch.setattr(glyphs, "_other_families", lambda: tuple(fonts))
    monkeypatch.setattr(glyphs, "findfont", lambda family: family)
    monkeypatch.setattr(glyphs, "_charmap", lambda path: frozenset(fonts.get(path, "cat")))
    assert glyphs.families_for(["cat", "飞机"]) == ["sans-serif", "Other"]


@pytest.mark.parametrize(
    ("name", "font"), [("飞机", "Noto Sans CJK"), ("แมว", "Noto Sans Thai"), ("ネコ", "Noto Sans CJK")]
)
def test_a_missing_font_is_named_in_one_line(monkeypatch, name, font):
    monkeypatch.setattr(glyphs, "_other_families", lambda: ())
    with pytest.raises(
        UserError, match=f"no installed font has the characters .*: install {font}, or rename"
    ) as caught:
        figures.confusion_matrix(MATRIX, ["cat", name])
    assert "\n" not in str(caught.value)
    assert all(character in str(caught.value) for character in name)


@pytest.mark.parametrize("name", ["飞机", "แมว", "고양이", "ネコ", "قطة"])
def test_class_names_are_drawn_without_a_missing_glyph_or_refused(name):
    """Warnings are errors here, and matplotlib warns of a missing glyph."""
    try:
        svg(figures.confusion_matrix(MATRIX, ["cat", name]))
    except UserError as error:
        assert "install Noto Sans" in str(error)


def test_neighbours_of_another_class_are_framed_and_no_other():
    same = [[True, False, True], [False, True, True]]
    fig = figures.neighbour_rows(COLOURS[:2], np.stack([COLOURS, COLOURS]), same, ["a", "b"])
    corners = sorted(patch.get_xy() for patch in fig.axes[0].patches)
    side = 4 + figures.GAP
    assert corners == [(2 * side - 1.5, side - 1.5), (3 * side - 1.5, -1.5)]


def test_a_sweep_has_bars_from_three_values_on_only():
    points = {0.1: {0: 0.5, 1: 0.6, 2: 0.7}, 0.5: {0: 0.4, 1: 0.5}}
    (ax,) = figures.sweep_curves({"a": points}, "temperature").axes
    bars = [line for line in ax.lines if len(set(line.get_xdata())) == 1]
    assert [line.get_xdata()[0] for line in bars] == [0.1]
    assert sum(bars[0].get_ydata()) / 2 == pytest.approx(60)
