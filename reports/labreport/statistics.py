"""What a handful of seeds can say: mean, standard deviation and the paired 95 % t-interval.

Values come as `{seed: value}`, as in the results JSON; two conditions are compared on the seeds they share,
because a seed fixes weights, order and views alike; `unpaired_difference` is for values that need not go together.
Accuracies are fractions here and percent only in texts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
MINUS = "\N{MINUS SIGN}"

Seeded = Mapping[int, float]


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1 in the denominator; NaN for one value) of n values."""

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
    """A mean difference and its 95 % t-interval, infinite for n = 1; in the values' unit.

    n: pairs; where the values are not paired, those of the smaller side.
    """

    mean: float
    low: float
    high: float
    n: int

    def text(self, scale: float = 1.0, unit: str = "", digits: int = 1) -> str:
        """`+1.2 points (95 % interval +0.3 to +2.1, 3 seeds)`; one pair has no interval to print."""
        centre, low, high = (
            f"{scale * value:+.{digits}f}".replace("-", MINUS) for value in (self.mean, self.low, self.high)
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
    """Summary of the values, in the order of their seeds where they have any.

    Raises: ValueError if there is none.
    """
    if isinstance(values, Mapping):
        values = [values[seed] for seed in sorted(values)]
    if not values:
        raise ValueError("no values to summarise: expected one or more")
    values = tuple(float(value) for value in values)
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Summary(values, mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan)


def interval_of_mean(values: Seeded | Sequence[float]) -> Difference:
    """Mean of the values with its 95 % t-interval (Student, n - 1 degrees of freedom)."""
    summary = summarise(values)
    if summary.n == 1:
        return Difference(summary.mean, -math.inf, math.inf, 1)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, summary.n - 1))
    half_width = quantile * summary.sd / math.sqrt(summary.n)
    return Difference(summary.mean, summary.mean - half_width, summary.mean + half_width, summary.n)


def paired_difference(a: Seeded, b: Seeded) -> Difference:
    """a - b over the seeds that both have.

    Raises: ValueError if they share none.
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        raise ValueError(f"no seed in common: {sorted(a)} and {sorted(b)}; run both with the same seeds")
    return interval_of_mean([a[seed] - b[seed] for seed in common])


def unpaired_difference(a: Seeded, b: Seeded) -> Difference:
    """mean(a) - mean(b), all values independent, with Welch's 95 % t-interval; their variances may differ.

    The interval is infinite where a side has one value, and of width zero where neither side varies.
    Raises: ValueError if a side has no value.
    Source: Welch 1947, Biometrika 34, with Satterthwaite's degrees of freedom.
    """
    sides = summarise(a), summarise(b)
    mean, n = sides[0].mean - sides[1].mean, min(side.n for side in sides)
    if n == 1:
        return Difference(mean, -math.inf, math.inf, 1)
    squares = [side.sd**2 / side.n for side in sides]  # of the standard errors
    if not sum(squares):
        return Difference(mean, mean, mean, n)
    shares = [square / sum(squares) for square in squares]
    freedom = 1 / sum(share**2 / (side.n - 1) for share, side in zip(shares, sides, strict=True))
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(sum(squares))
    return Difference(mean, mean - half_width, mean + half_width, n)


def percent_table(rows: Mapping[str, Seeded], name: str, quantity: str = "test accuracy") -> pd.DataFrame:
    """A row a condition: its name, mean ± sd in percent, n, and every seed's value."""
    summaries = {row: summarise(values) for row, values in rows.items()}
    return pd.DataFrame(
        {
            name: list(summaries),
            f"{quantity} (%)": [summary.text(100) for summary in summaries.values()],
            "n": [summary.n for summary in summaries.values()],
            "every seed (%)": [
                ", ".join(f"{100 * value:.1f}" for value in summary.values) for summary in summaries.values()
            ],
        }
    )


def score_table(scores: Mapping[str, Mapping[str, Seeded]], name: str) -> pd.DataFrame:
    """A row a condition, a column a variant, in percent: the value, or mean ± sd and every seed's value.

    Args:
        scores: condition -> variant -> seed -> fraction; a missing variant is left as a dash.
        name: heading of the conditions' column.
    """
    variants = list(dict.fromkeys(variant for row in scores.values() for variant in row))
    rows = [[condition, *(_cell(row.get(variant)) for variant in variants)] for condition, row in scores.items()]
    return pd.DataFrame(rows, columns=[name, *(f"{variant} (%)" for variant in variants)])


def value_table(scores: Mapping[str, Mapping[str, Seeded]], name: str, digits: Mapping[str, int]) -> pd.DataFrame:
    """A row a condition, a column a quantity, each as mean ± sd with its own number of digits.

    Args:
        scores: condition -> quantity -> seed -> value. digits: quantity -> digits behind the point, in this order.
    """
    rows = [
        [condition, *(summarise(row[quantity]).text(digits=n) for quantity, n in digits.items())]
        for condition, row in scores.items()
    ]
    return pd.DataFrame(rows, columns=[name, *(quantity.replace("_", " ") for quantity in digits)])


def _cell(values: Seeded | None) -> str:
    if not values:
        return "–"
    summary = summarise(values)
    every = ", ".join(f"{100 * value:.2f}" for value in summary.values)
    return summary.text(100, 2) + (f" ({every})" if summary.n > 1 else "")


def cluster_table(results: Mapping[tuple[str, str], Mapping[int, Mapping]]) -> pd.DataFrame:
    """A row a clustering, means over restarts: (method, features) -> seed -> result of simclr_core.cluster."""
    rows = []
    for (method, features), by_seed in results.items():
        means = {
            key: summarise({seed: sum(result[key]) / len(result[key]) for seed, result in by_seed.items()})
            for key in ("accuracies", "nmi", "ari", "seconds")
        }
        every = [100 * value for result in by_seed.values() for value in result["accuracies"]]
        rows.append({
            "method": method, "on": features, "accuracy (%)": means["accuracies"].text(100),
            "restarts (%)": f"{min(every):.1f} to {max(every):.1f}", "NMI": means["nmi"].text(digits=3),
            "ARI": means["ari"].text(digits=3), "seconds a start": means["seconds"].text(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def in_words(difference: Difference, up: str, down: str) -> str:
    """`up` or `down` where the 95 % interval lies on one side of zero; otherwise that it leaves it open."""
    if difference.low > 0:
        return up
    if difference.high < 0:
        return down
    return f"leaves it open whether it {up} or {down}"
