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
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from labreport.notebook.glyphs import families_for
from labreport.science.statistics import Difference, Seeded, interval_of_mean, summarise

WIDTH = 6.3
INCHES_PER_CHARACTER = 0.07  # of 8-point text, about
GREY = "0.45"
TALLEST = 4.2  # inches of pictures: half a page, so that text and figure share one
GAP = 2  # pixels of white between pictures
MARKERS = "osD^vPX*"
MORE_COLOURS = "#F0E442", "#882255"  # for ten classes: Okabe and Ito's yellow, Tol's wine
REPORTED = "reported by the source"
STROKE = {"color": GREY, "marker": "|", "markersize": 13, "markeredgewidth": 2, "linestyle": "none"}
NOTE = {"textcoords": "offset points", "color": "0.25", "fontsize": "small"}
MIN_SEEDS_FOR_BAR = 3  # the interval of two seeds is nine standard deviations wide

Curves = Mapping[str, Sequence[float] | Mapping[int, Sequence[float]]]
Sweep = Mapping[str, Mapping[float, Seeded]]  # series -> setting -> seed -> fraction


# ---- curves over epochs -----------------------------------------------------------------------------------


def loss_curves(
    series: Curves,
    floors: Mapping[str, float] | None = None,
    epochs: Sequence[int] | None = None,
) -> Figure:
    """A line a series: the mean, and each seed as a thin line where there are several (the axis says so).

    Args:
        series: name -> one value an epoch, or seed -> one value an epoch.
        floors: series -> the lowest loss possible, drawn as a dotted line; with several, in the series' colours.
        epochs: when the values were taken, if not after every epoch.
    """
    fig, ax = _axes("epoch", "NT-Xent loss (nats)")
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


def curve_panels(panels: Mapping[str, Curves], epochs: Sequence[int]) -> Figure:
    """The same series in panels beside each other, each with its own quantity: ylabel -> series; mean over seeds.

    Args:
        epochs: when the values were taken; on a logarithmic axis.
    """
    fig = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    for ax, (ylabel, series) in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for (name, curves), style in zip(series.items(), _styles(len(series)), strict=True):
            rows = np.array(list(curves.values()) if isinstance(curves, Mapping) else [curves], dtype=float)
            ax.plot(epochs, rows.mean(axis=0), label=name, marker="o", **style)
        _log_axis(ax, epochs)
        ax.set_xlabel("epoch")
        ax.set_ylabel(ylabel)
    _legend(fig, list(series), ax.get_legend_handles_labels()[0])
    return _finish(fig)


# ---- sweeps -----------------------------------------------------------------------------------------------


def sweep_curves(series: Sweep, xlabel: str, ylabel: str = "linear accuracy (%)", over: str = "seeds") -> Figure:
    """Accuracy against a setting on a logarithmic axis, a line a series: means, and from 3 values on their 95 %
    t-interval as a bar (the axis says so).

    Args:
        over: what the values of one point differ in, for the remark under the axis.
    """
    fig, ax = _axes(xlabel, ylabel, height=2.3)
    most, settings = 1, sorted({x for points in series.values() for x in points})
    for k, ((name, points), style) in enumerate(zip(series.items(), _styles(len(series)), strict=True)):
        intervals = [interval_of_mean(points[x]) for x in sorted(points)]
        most = max(most, *(interval.n for interval in intervals))
        means = [100 * interval.mean for interval in intervals]
        ax.plot(sorted(points), means, label=name, marker=MARKERS[k % len(MARKERS)], **style)
        for x, interval in zip(sorted(points), intervals, strict=True):
            _upright_bar(ax, x, interval, style["color"])
    _log_axis(ax, settings)
    if most > 1:
        bars = ", bars their 95 % t-interval" if most >= MIN_SEEDS_FOR_BAR else ""
        ax.set_xlabel(f"{xlabel}\nmarks: means over {over} ({most} at most){bars}")
    if list(series) != [""]:
        _legend(fig, list(series))
    return _finish(fig)


def cost_scatter(accuracies: Mapping[str, Seeded], costs: Mapping[str, Mapping[str, float]]) -> Figure:
    """Accuracy against each cost in a panel of its own, costs on logarithmic axes: a colour and mark a condition.

    Args:
        costs: cost with its unit -> condition -> value, > 0.
    """
    names = list(accuracies)
    fig = Figure(figsize=(WIDTH, 2.7 + 0.16 * ((len(names) + 2) // 3)), layout="constrained")
    axes = fig.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for ax, (xlabel, values) in zip(axes, costs.items(), strict=True):
        for k, (name, style) in enumerate(zip(names, _styles(len(names)), strict=True)):
            interval = interval_of_mean(accuracies[name])
            y = 100 * interval.mean
            ax.plot(values[name], y, label=name, marker=MARKERS[k % len(MARKERS)], markersize=6, linestyle="none",
                    color=style["color"])  # fmt: skip
            _upright_bar(ax, values[name], interval, style["color"])
        _cost_axis(ax, min(values.values()), max(values.values()))
        ax.set_xlabel(xlabel)
    axes[0].set_ylabel("linear accuracy (%)")
    _legend(fig, names, axes[0].get_legend_handles_labels()[0][: len(names)])
    return _finish(fig)


def _upright_bar(ax: Axes, x: float, interval: Difference, color: str) -> None:
    """The interval of a fraction, in percent, where there are values enough for one."""
    if interval.n >= MIN_SEEDS_FOR_BAR:
        ax.plot([x, x], [100 * interval.low, 100 * interval.high], color=color, linestyle="-", linewidth=1)


def _cost_axis(ax: Axes, low: float, high: float) -> None:
    """A logarithmic axis around the values, with a few round numbers on it, however large."""
    ax.set_xscale("log")
    room = max(high / low, 2) ** 0.12
    ax.set_xlim(low / room, high * room)
    ax.xaxis.set_major_locator(
        LogLocator(subs=(1,) if high / low > 100 else (1, 3) if high / low > 5 else (1, 2, 4, 6))
    )
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1e4 else EngFormatter(sep="")(value))
    ax.minorticks_off()


def _log_axis(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each of the values and nowhere else."""
    ax.set_xscale("log")
    ax.set_xticks(values, [f"{value:,g}" for value in values])
    ax.minorticks_off()


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


def phase_times(seconds: Mapping[str, float | Seeded]) -> Figure:
    """A horizontal bar a phase, mean over seeds, with its value and, where there are several, standard deviation."""
    fig, ax = _axes("time (seconds)", "", height=0.65 + 0.26 * len(seconds))
    phases = [summarise(value if isinstance(value, Mapping) else [value]) for value in seconds.values()]
    means, most = [phase.mean for phase in phases], max(phase.n for phase in phases)
    ax.barh(range(len(means)), means, height=0.62)
    for y, phase in enumerate(phases):
        label = f"{phase.text(digits=1 if phase.mean < 100 else 0)} s"
        ax.annotate(label, (phase.mean, y), (4, 0), va="center", **NOTE)
    _rows(ax, list(seconds))
    ax.set_xlim(0, (1.12 if most == 1 else 1.22) * max(means))
    if most > 1:
        ax.set_xlabel(f"{ax.get_xlabel()}\nmean ± standard deviation over {most} seeds")
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


def heat_map(matrix: Sequence[Sequence[float]], names: Sequence[str], quantity: str,
             columns: Sequence[str] | None = None, xlabel: str = "", ylabel: str = "", percent: bool = True
             ) -> Figure:  # fmt: skip
    """Fractions in percent, a row and a column a name, each value written into its cell.

    Args:
        matrix: fractions, shape (rows, columns).
        names: of the rows, and of the columns where `columns` are not given.
        quantity: what the colour stands for, with its unit.
        percent: draw fractions in percent; else the values as they are, with two decimals.
    """
    values = (100 if percent else 1) * np.asarray(matrix, dtype=float)
    columns = names if columns is None else columns
    width, height = (min(1.4 + 0.62 * len(each), WIDTH - 1) for each in (columns, names))
    fig, ax = _axes(xlabel, ylabel, height, width + 1.0)
    picture = ax.imshow(values, cmap="Blues")
    middle = (values.min() + values.max()) / 2
    size = 7 if max(values.shape) >= 10 else None
    for (row, column), value in np.ndenumerate(values):
        shade = "white" if value > middle else "black"
        ax.text(column, row, f"{value:.{1 if percent else 2}f}", ha="center", va="center", color=shade, size=size)
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, columns)) > 4 else {}
    ax.set_xticks(range(len(columns)), columns, **slanted)
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


def neighbour_rows(queries: np.ndarray, neighbours: np.ndarray, same: Sequence[Sequence[bool]], titles: Sequence[str]
                   ) -> Figure:  # fmt: skip
    """A query in each row and, after a gap, its nearest neighbours; those of another class are framed.

    Args:
        queries: uint8 (Q, H, W, C). neighbours: uint8 (Q, k, H, W, C).
        same: is the neighbour of the query's class, (Q, k).
        titles: one a row.
    """
    gap = np.full_like(queries[:, None], 255)
    rows = np.concatenate([queries[:, None], gap, neighbours], axis=1)
    fig = _picture_rows(list(rows), titles)
    height, width = queries.shape[1] + GAP, queries.shape[2] + GAP
    for row, alike in enumerate(same):
        for k, of_the_class in enumerate(alike, 2):
            if not of_the_class:
                corner = (k * width - 1.5, row * height - 1.5)
                fig.axes[0].add_patch(Rectangle(corner, width - 1, height - 1, fill=False, edgecolor="#D55E00", lw=1.6))
    return _finish(fig)


def plane_maps(maps: Mapping[str, tuple[np.ndarray, Sequence[int]]], class_names: Sequence[str]) -> Figure:
    """Images as points in the plane, panels beside each other; a colour and mark a class.

    Args:
        maps: title -> (coordinates (N, 2), class of each point). Axes have no unit.
    """
    columns = min(2, len(maps))
    rows = -(-len(maps) // columns)
    fig = Figure(figsize=(WIDTH, 2.15 * rows + 0.6), layout="constrained")
    colours = [*(style["color"] for style in rcParams["axes.prop_cycle"]), *MORE_COLOURS]
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax, (title, (points, labels)) in zip(axes, maps.items(), strict=False):
        points, labels = np.asarray(points), np.asarray(labels)
        for k, name in enumerate(class_names):
            look = {"color": colours[k % len(colours)], "marker": MARKERS[k % len(MARKERS)]}
            ax.scatter(*points[labels == k].T, s=8, alpha=0.7, linewidths=0, label=name, **look)
        ax.set_title(title)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
    for ax in axes[len(maps) :]:
        ax.remove()
    _legend(fig, class_names, axes[0].get_legend_handles_labels()[0], markerscale=2)
    return _finish(fig)


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


def _legend(fig: Figure, names: Sequence[str], handles: Sequence | None = None, markerscale: float = 1) -> None:
    """Above the axes, never over the data, in as many columns as fit."""
    columns = int(WIDTH / (0.55 + INCHES_PER_CHARACTER * max(map(len, names))))
    chosen = {} if handles is None else {"handles": handles}
    fig.legend(loc="outside upper left", ncols=min(max(columns, 1), len(names)), markerscale=markerscale, **chosen)


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
