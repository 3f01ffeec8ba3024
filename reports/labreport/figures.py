"""Figures of the report: each function takes data and returns a Figure; it reads, saves and shows nothing.

Style is in notebooks/matplotlibrc. Sizes are in inches; WIDTH is the PDF's column, 16 cm. Accuracies come as
fractions and are drawn in percent; `{seed: value}` is drawn seed by seed, with the mean.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from labreport.glyphs import families_for
from labreport.statistics import Seeded, interval_of_mean, summarise

WIDTH = 6.3
INCHES_PER_CHARACTER = 0.07  # of 8-point text, about
GREY = "0.45"
TALLEST = 4.2  # inches of pictures: half a page, so that text and figure share one
GAP = 2  # pixels of white between pictures
MARKERS = "osD^vPX*"
REPORTED = "reported by the source"
STROKE = {"color": GREY, "marker": "|", "markersize": 13, "markeredgewidth": 2, "linestyle": "none"}
NOTE = {"textcoords": "offset points", "color": "0.25", "fontsize": "small"}
MIN_SEEDS_FOR_BAR = 3  # the interval of two seeds is nine standard deviations wide

Curves = Mapping[str, Sequence[float] | Mapping[int, Sequence[float]]]


# ---- curves over epochs -----------------------------------------------------------------------------------


def loss_curves(
    series: Curves,
    floors: Mapping[str, float] | None = None,
    ylabel: str = "NT-Xent loss (nats)",
    xlabel: str = "epoch",
    epochs: Sequence[int] | None = None,
) -> Figure:
    """A line a series: the mean, and each seed as a thin line where there are several (the axis says so).

    Args:
        series: name -> one value an epoch, or seed -> one value an epoch.
        floors: series -> the lowest loss possible, drawn as a dotted line; with several, in the series' colours.
        epochs: when the values were taken, if not after every epoch.
    """
    fig, ax = _axes(xlabel, ylabel)
    _draw_curves(ax, series, epochs)
    colours = {name: style["color"] for name, style in zip(series, _styles(len(series)), strict=True)}
    by_value = {value: name for name, value in reversed((floors or {}).items())}  # equal floors: the first series'
    for value, name in by_value.items():
        ax.axhline(value, color=colours[name] if len(by_value) > 1 else GREY, linestyle=":", linewidth=1.2)
        ax.annotate(f"lowest possible: {value:.2f}", (1, value), (0, 3), ("axes fraction", "data"), ha="right", **NOTE)
    return _finish(fig)


def accuracy_curves(
    series: Curves,
    ylabel: str = "test accuracy (%)",
    xlabel: str = "epoch",
    epochs: Sequence[int] | None = None,
) -> Figure:
    """As `loss_curves`, for fractions, drawn in percent."""
    fig, ax = _axes(xlabel, ylabel)
    _draw_curves(ax, series, epochs, scale=100)
    return _finish(fig)


def _draw_curves(ax: Axes, series: Curves, epochs: Sequence[int] | None, scale: float = 1) -> None:
    most_seeds = 1
    for (name, curves), style in zip(series.items(), _styles(len(series)), strict=True):
        rows = list(curves.values()) if isinstance(curves, Mapping) else [curves]
        rows = scale * np.array(rows, dtype=float)  # (seeds, epochs)
        most_seeds = max(most_seeds, len(rows))
        x = range(1, rows.shape[1] + 1) if epochs is None else epochs
        if len(rows) > 1:
            ax.plot(x, rows.T, color=style["color"], linestyle="-", linewidth=0.6, alpha=0.5)
        ax.plot(x, rows.mean(axis=0), label=name, marker="o" if len(x) <= 10 else None, **style)
    if epochs is None:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    else:
        ax.set_xticks(epochs)
    if most_seeds > 1:
        ax.set_xlabel(f"{ax.get_xlabel()}\nthick lines: mean over {most_seeds} seeds; thin lines: single seeds")
    if len(series) > 1:
        _legend(ax.figure, list(series))


# ---- scores and times -------------------------------------------------------------------------------------


def score_dots(
    scores: Mapping[str, Mapping[str, Seeded]],
    xlabel: str = "test accuracy (%)",
    percent: bool = True,
    reported: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Scores of conditions side by side: a row a condition, a colour and mark a variant.

    The large mark is the mean, with its value; small dots are seeds; the bar (from 3 seeds on) is the 95 %
    t-interval of the mean. The axis says so where there is more than one seed.

    Args:
        scores: condition -> variant -> seed -> score; "" names the only variant.
        percent: the scores are fractions, to be drawn in percent.
        reported: condition -> variant -> the source's score, drawn as an upright stroke.
    """
    reported = reported or {}
    scale, digits = (100, 1) if percent else (1, 3)
    variants = list(dict.fromkeys(variant for row in scores.values() for variant in row))
    fig, ax = _axes(xlabel, "", height=0.8 + len(scores) * (0.12 + 0.16 * len(variants)))
    for i, (variant, style) in enumerate(zip(variants, _styles(len(variants)), strict=True)):
        mark = {"color": style["color"], "marker": MARKERS[i], "markersize": 5, "linestyle": "none"}
        ax.plot([], [], label=variant, **mark)
        for row, (condition, values) in enumerate(scores.items()):
            if variant in values:
                y = row + (i - (len(variants) - 1) / 2) * 0.8 / len(variants)
                theirs = reported.get(condition, {}).get(variant)
                left, right = _draw_score(ax, y, values[variant], theirs, scale, mark)
                label = f"{scale * summarise(values[variant]).mean:.{digits}f}"
                if theirs is not None and scale * theirs > right:  # the value goes to the side the stroke is not on
                    ax.annotate(label, (left, y), (-5, 0), va="center", ha="right", **NOTE)
                else:
                    ax.annotate(label, (right, y), (5, 0), va="center", **NOTE)
    _rows(ax, list(scores))
    ax.margins(x=0.08)  # room for the values
    _explain_marks(ax, max(len(values) for row in scores.values() for values in row.values()))
    names = [*variants, REPORTED] if reported else variants
    if reported:
        ax.plot([], [], label=REPORTED, **STROKE)
    if names != [""]:
        _legend(fig, names)
    return _finish(fig)


def _draw_score(
    ax: Axes, y: float, values: Seeded, reported: float | None, scale: float, mark: dict
) -> tuple[float, float]:
    """One condition and variant; returns the x of its own leftmost and rightmost marks."""
    summary, interval = summarise(values), interval_of_mean(values)
    drawn = [scale * value for value in summary.values]
    if summary.n >= MIN_SEEDS_FOR_BAR:
        bar = [scale * interval.low, scale * interval.high]
        ax.plot(bar, [y, y], color=mark["color"], linestyle="-", linewidth=1.2)
        drawn += bar
    if reported is not None:
        ax.plot(scale * reported, y, **STROKE)
    ax.plot(scale * summary.mean, y, markeredgecolor="white", **mark)
    if summary.n > 1:
        seeds = [scale * value for value in summary.values]
        ax.plot(seeds, [y] * summary.n, "o", color="black", markersize=2, alpha=0.6, markeredgewidth=0)
    return min(drawn), max(drawn)


def _explain_marks(ax: Axes, seeds: int) -> None:
    """Say under the axis what the marks mean, where there is more than one seed."""
    if seeds > 1:
        bars = ", bars its 95 % t-interval" if seeds >= MIN_SEEDS_FOR_BAR else ""
        ax.set_xlabel(f"{ax.get_xlabel()}\nlarge marks: mean over seeds{bars}; small dots: single seeds")


def phase_times(seconds: Mapping[str, float | Seeded], xlabel: str = "time (seconds)") -> Figure:
    """A horizontal bar a phase, mean over seeds, with its value."""
    fig, ax = _axes(xlabel, "", height=0.65 + 0.26 * len(seconds))
    means = [summarise(value if isinstance(value, Mapping) else [value]).mean for value in seconds.values()]
    ax.barh(range(len(means)), means, height=0.62)
    for y, mean in enumerate(means):
        label = f"{mean:.1f} s" if mean < 100 else f"{mean:,.0f} s"
        ax.annotate(label, (mean, y), (4, 0), va="center", **NOTE)
    _rows(ax, list(seconds))
    ax.set_xlim(0, 1.12 * max(means))
    return _finish(fig)


# ---- matrices ---------------------------------------------------------------------------------------------


def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Counts, coloured by their share of the true class (square-root scale, so that rare confusions show).

    Args:
        matrix: counts, shape (classes, classes), rows true, columns predicted.
    Raises: ValueError if the shape does not fit the names.
    """
    matrix, n = np.asarray(matrix), len(class_names)
    if matrix.shape != (n, n):
        raise ValueError(f"matrix has shape {matrix.shape}: expected ({n}, {n}), a row and a column a class")
    longest = max(map(len, class_names))
    label = min(INCHES_PER_CHARACTER * longest, WIDTH / 3)
    side = min(1.08 + 0.32 * n, WIDTH - 0.9 - label)
    fig, ax = _axes("predicted class", "true class", side + 0.7 * label, side + 0.9 + label, "compressed")
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    picture = ax.imshow(100 * share, norm=PowerNorm(0.5, 0, 100), cmap="Blues")
    for (row, column), count in np.ndenumerate(matrix):
        shade = "white" if share[row, column] > 0.35 else "black" if count else "0.75"
        ax.text(column, row, f"{count:d}", ha="center", va="center", color=shade, size=7 if n <= 10 else 5)
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest > 3 else {}
    ax.set_xticks(range(n), class_names, **slanted)
    ax.set_yticks(range(n), class_names)
    _bare(ax)
    bar = fig.colorbar(picture, shrink=0.8, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("share of the true class (%)")
    bar.outline.set_visible(False)
    return _finish(fig)


def heat_map(matrix: Sequence[Sequence[float]], names: Sequence[str], quantity: str) -> Figure:
    """Fractions in percent, a row and a column a name, each value written into its cell.

    Args:
        matrix: fractions, shape (n, n).
        names: of rows and columns alike.
        quantity: what the colour stands for, with its unit.
    """
    values = 100 * np.asarray(matrix, dtype=float)
    side = 1.4 + 0.62 * len(names)
    fig, ax = _axes("", "", side, side + 1.0)
    picture = ax.imshow(values, cmap="Blues")
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        ax.text(column, row, f"{value:.1f}", ha="center", va="center", color="white" if value > middle else "black")
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), names)
    _bare(ax)
    bar = fig.colorbar(picture, shrink=0.8)
    bar.set_label(quantity)
    bar.outline.set_visible(False)
    return _finish(fig)


# ---- pictures ---------------------------------------------------------------------------------------------


def view_grid(images: np.ndarray, views: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Originals in the first row, each of their views in a row below.

    Args:
        images: uint8, shape (N, H, W, C), C = 1 or 3.
        views: arrays of the same shape and type.
        titles: a name a row: of the originals, then of each set of views.
    Raises: ValueError if shapes, types or the number of titles differ.
    """
    rows = [np.asarray(each) for each in (images, *views)]
    if len(titles) != len(rows):
        raise ValueError(f"{len(titles)} titles for {len(rows)} rows: expected one a row")
    for title, row in zip(titles, rows, strict=True):
        if row.shape != rows[0].shape or row.dtype != np.uint8:
            raise ValueError(f"{title}: {row.dtype} {row.shape}, expected uint8 {rows[0].shape}")
    return _finish(_picture_rows(rows, titles))


def cluster_examples(images: Sequence[np.ndarray], classes: Sequence[str], sizes: Sequence[int]) -> Figure:
    """Example images of each cluster in a row, with the class that the cluster stands for and its size.

    Args:
        images: a cluster's examples, uint8, shape (n, H, W, C); n may differ, even be 0.
        classes: the class of each cluster, matched or most frequent (the caption says which).
        sizes: number of images in each cluster.
    """
    titles = [f"{name!s} (n = {size:,})" for name, size in zip(classes, sizes, strict=True)]
    return _finish(_picture_rows([np.asarray(each) for each in images], titles))


def _picture_rows(rows: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """One mosaic: a row a title, pictures side by side, rows filled up with white."""
    height, width, channels = max(row.shape[1:] for row in rows)
    columns = max(map(len, rows))
    size = (len(rows) * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels)
    canvas = np.full(size, 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = y * (height + GAP), x * (width + GAP)
            canvas[top : top + height, left : left + width] = picture
    label_width = 0.2 + INCHES_PER_CHARACTER * max(map(len, titles))
    cell = min(0.62, (WIDTH - label_width) / columns, TALLEST / len(rows))
    fig, ax = _axes("", "", cell * len(rows) + 0.1, cell * columns + label_width, "compressed")
    ax.imshow(canvas.squeeze(-1) if channels == 1 else canvas, cmap="gray", vmin=0, vmax=255)
    ax.set_yticks([(height - 1) / 2 + y * (height + GAP) for y in range(len(rows))], titles)
    ax.set_xticks([])
    _bare(ax)
    return fig


# ---- what all of them share -------------------------------------------------------------------------------


def _axes(
    xlabel: str, ylabel: str, height: float = 2.5, width: float = WIDTH, layout: str = "constrained"
) -> tuple[Figure, Axes]:
    """A figure outside pyplot, so that no notebook shows it twice, with one labelled pair of axes."""
    fig = Figure(figsize=(width, height), layout=layout)
    ax = fig.subplots()
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return fig, ax


def _styles(n: int) -> list[dict]:
    """The first n entries of the colour cycle. Raises: ValueError if it has fewer."""
    cycle = list(rcParams["axes.prop_cycle"])
    if n > len(cycle):
        raise ValueError(f"{n} series in one figure: expected at most {len(cycle)}, split them over two")
    return cycle[:n]


def _rows(ax: Axes, names: Sequence[str]) -> None:
    """Conditions down the page, the first one on top, with gridlines across the values."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    ax.spines["left"].set_visible(False)


def _bare(ax: Axes) -> None:
    """No lines around or across a picture."""
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def _legend(fig: Figure, names: Sequence[str]) -> None:
    """Above the axes, never over the data, in as many columns as fit."""
    columns = int(WIDTH / (0.55 + INCHES_PER_CHARACTER * max(map(len, names))))
    fig.legend(loc="outside upper left", ncols=min(max(columns, 1), len(names)))


def _finish(fig: Figure) -> Figure:
    """Give every text fonts that have its characters, and take no "$" in it for a formula.

    Raises: UserError naming a font that is missing.
    """
    texts = [text for text in fig.findobj(Text) if text.get_text()]
    families = families_for(text.get_text() for text in texts)
    for text in texts:
        text.set_fontfamily(families)
        text.set_parse_math(False)
    return fig
