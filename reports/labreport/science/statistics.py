"""What a handful of seeds can say: mean, standard deviation, 95 % t-intervals; tables of them.

Values come as `{seed: value}`; two conditions are compared on the seeds they share, because a seed
fixes weights, order and views alike. Accuracies are fractions here and percent only in texts.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
MINUS = "\N{MINUS SIGN}"

Seeded = Mapping[int, float]
Scores = Mapping[str, Mapping[str, Seeded]]  # condition -> variant or quantity -> seed -> value


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1 in the denominator; NaN for one value)."""

    values: tuple[float, ...]
    mean: float
    sd: float

    @property
    def n(self) -> int:
        return len(self.values)

    def text(self, scale: float = 1.0, digits: int = 1) -> str:
        """`95.2 ± 0.3`, both times `scale`; the mean alone where there is one value."""
        spread = f" ± {scale * self.sd:.{digits}f}" if self.n > 1 else ""
        return f"{scale * self.mean:.{digits}f}{spread}".replace("-", MINUS)

    def percent(self, digits: int = 1) -> str:
        """A fraction as `95.2 ± 0.3 %`."""
        return f"{self.text(100, digits)} %"


@dataclass(frozen=True)
class Difference:
    """A mean (difference) of n values or pairs, and its 95 % interval: infinite for n = 1."""

    mean: float
    low: float
    high: float
    n: int

    def text(self, scale: float = 1.0, unit: str = "", digits: int = 1, sign: str = "+") -> str:
        """`+1.2 points (95 % interval +0.3 to +2.1, 3 seeds)`; one pair has no interval."""
        centre, low, high = (
            f"{scale * value:{sign}.{digits}f}".replace("-", MINUS)
            for value in (self.mean, self.low, self.high)
        )
        interval = f"95 % interval {low} to {high}, " if self.n > 1 else ""
        return f"{centre}{unit and ' ' + unit} ({interval}{count_seeds(self.n)})"

    def points(self, digits: int = 1) -> str:
        """A difference of two fractions in percentage points."""
        return self.text(100, "points", digits)


def count_seeds(n: int) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n} seed{'s' if n != 1 else ''}"


def summarise(values: Seeded | Sequence[float]) -> Summary:
    """Summary of the values, in the order of their seeds. Raises: ValueError if there is none."""
    if isinstance(values, Mapping):
        values = [values[seed] for seed in sorted(values)]
    values = tuple(map(float, values))
    if not values:
        raise ValueError("no values to summarise: expected one or more")
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    sd = math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan
    return Summary(values, mean, sd)


def interval_of_mean(values: Seeded | Sequence[float]) -> Difference:
    """Mean of the values with its 95 % t-interval (Student, n - 1 degrees of freedom)."""
    summary = summarise(values)
    return _t_interval(stats.ttest_1samp, summary.mean, summary.n, summary.values, 0.0)


def paired_difference(a: Seeded, b: Seeded) -> Difference:
    """a - b over the seeds that both have. Raises: ValueError if they share none."""
    common = sorted(a.keys() & b.keys())
    if not common:
        raise ValueError(f"no seed in common: {sorted(a)} and {sorted(b)}; run both with the same")
    ours, theirs = ([side[seed] for seed in common] for side in (a, b))
    mean = summarise([x - y for x, y in zip(ours, theirs, strict=True)]).mean
    return _t_interval(stats.ttest_rel, mean, len(common), ours, theirs)


def unpaired_difference(a: Seeded, b: Seeded) -> Difference:
    """mean(a) - mean(b), all values independent, with Welch's 95 % t-interval.

    n is that of the smaller side. Raises: ValueError if a side has no value.
    """
    ours, theirs = summarise(a), summarise(b)
    n = min(ours.n, theirs.n)
    mean = ours.mean - theirs.mean
    return _t_interval(stats.ttest_ind, mean, n, ours.values, theirs.values, equal_var=False)


def _t_interval(test: Callable, mean: float, n: int, *samples, **options) -> Difference:
    if n == 1:
        return Difference(mean, -math.inf, math.inf, 1)
    low, high = _quietly(test, *samples, **options).confidence_interval(CONFIDENCE)
    if math.isnan(low):  # neither side varies
        return Difference(mean, mean, mean, n)
    return Difference(mean, float(low), float(high), n)


def p_value(values: Sequence[float], bound: float) -> float:
    """Two-sided p of the t-test that the mean of the values is `bound`; 1 for a single value."""
    if len(values) == 1:
        return 1.0
    p = float(_quietly(stats.ttest_1samp, values, bound).pvalue)
    return 1.0 if math.isnan(p) else p


def _quietly(test: Callable, *samples, **options):
    with warnings.catch_warnings():  # values that do not vary are no error here
        warnings.simplefilter("ignore", RuntimeWarning)
        return test(*samples, **options)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of all comparisons, adjusted for their number. Source: Holm 1979."""
    adjusted, largest = {}, 0.0
    for done, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p))
        adjusted[name] = largest
    return adjusted


def image_interval(confusions: Mapping[int, Sequence], draws: int = 10_000) -> Difference:
    """Mean accuracy with the 95 % interval over other test images, as many of each class.

    A bootstrap: images are drawn again class by class from the counts averaged over the seeds, as
    if every seed erred on the same images, so that the interval is rather too wide than too narrow.
    Args:
        confusions: seed -> counts by true (rows) and predicted class, shape (K, K).
    """
    counts = np.mean(list(confusions.values()), axis=0)  # (K, K)
    sizes = counts.sum(axis=1).round().astype(int)  # (K,)
    shares = counts.diagonal() / np.maximum(sizes, 1)
    right = np.random.default_rng(0).binomial(sizes, shares, size=(draws, len(sizes))).sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(right / sizes.sum(), [tail, 1 - tail])
    return Difference(counts.trace() / sizes.sum(), float(low), float(high), len(confusions))


def in_words(difference: Difference, up: str, down: str) -> str:
    """`up` or `down` where the interval lies on one side of zero, else that it is inconclusive."""
    if difference.low > 0:
        return up
    return down if difference.high < 0 else "the comparison is inconclusive"


def percent_table(rows: Mapping[str, Seeded], name: str, quantity: str = "test accuracy"):
    """A DataFrame with a row a condition: mean ± sd in percent, n, and every seed's value."""
    heads = (name, f"{quantity} (%)", "n", "every seed (%)")
    cells = [(row, summarise(values)) for row, values in rows.items()]
    table = [(row, cell.text(100), cell.n, every_seed(cell, 1)) for row, cell in cells]
    return pd.DataFrame(table, columns=heads)


def score_table(scores: Scores, name: str) -> pd.DataFrame:
    """A row a condition, a column a variant, in percent; a missing variant is a dash."""
    variants = list(dict.fromkeys(variant for row in scores.values() for variant in row))
    rows = [[c, *(_cell(row.get(variant)) for variant in variants)] for c, row in scores.items()]
    return pd.DataFrame(rows, columns=[name, *(f"{variant} (%)" for variant in variants)])


def value_table(scores: Scores, name: str, digits: Mapping[str, int]) -> pd.DataFrame:
    """A row a condition, a column a quantity, as mean ± sd with so many digits."""
    rows = [
        [condition, *(summarise(row[quantity]).text(digits=n) for quantity, n in digits.items())]
        for condition, row in scores.items()
    ]
    return pd.DataFrame(rows, columns=[name, *(quantity.replace("_", " ") for quantity in digits)])


def cluster_table(results: Mapping[tuple[str, str], Mapping[int, Mapping]]) -> pd.DataFrame:
    """A row a clustering: (method, features) -> seed -> result; means over restarts."""
    rows = []
    for (method, features), by_seed in results.items():
        accuracy, nmi, ari, seconds = (
            summarise([np.mean(result[key]) for result in by_seed.values()])
            for key in ("accuracies", "nmi", "ari", "seconds")
        )
        every = [100 * value for result in by_seed.values() for value in result["accuracies"]]
        rows.append({
            "method": method, "on": features, "accuracy (%)": accuracy.text(100),
            "restarts (%)": f"{min(every):.1f} to {max(every):.1f}", "NMI": nmi.text(digits=3),
            "ARI": ari.text(digits=3), "seconds a start": seconds.text(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def every_seed(summary: Summary, digits: int = 2) -> str:
    """Every value in percent, separated by commas."""
    return ", ".join(f"{100 * value:.{digits}f}" for value in summary.values)


def _cell(values: Seeded | None) -> str:
    if not values:
        return "–"
    summary = summarise(values)
    return summary.text(100, 2) + (f" ({every_seed(summary)})" if summary.n > 1 else "")
