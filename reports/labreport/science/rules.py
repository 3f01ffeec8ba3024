"""Rules for verdicts, fixed before the runs (PROTOCOLS.md).

Differences are judged by their paired 95 % t-interval over seeds, in percentage points:

    as well as      holds within ±1                does not hold wholly outside
    better          holds above 0                  does not hold below 0, or within ±1 (no gain)
    clearly worse   holds below -1                 does not hold above -1
    comes back      holds above the figure less 1  does not hold below it

and an interval that does neither is undecided. Curves are judged seed by seed; seeds that disagree
leave it undecided. Figures come from sources.py; what is typed here is the rules' own margins.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations

import numpy as np
from scipy import stats

from labreport.science.evidence import (
    FAILS,
    HOLDS,
    LEVEL,
    MIN_SEEDS,
    UNDECIDED,
    NotTested,
    Rule,
    leaf,
    name_of,
    names_apart,
)
from labreport.science.statistics import MINUS, Difference, count_seeds, p_value, paired_difference

POINT = 0.01  # one percentage point, as a fraction
SMOOTH_EPOCHS, LARGEST_RISE = 5, 0.01  # "falls steadily"
LAST_EPOCHS, LEVEL_SHARE = 5, 0.15  # "has not converged"; of the mean fall per epoch
FAR = 0.25  # of the run: an epoch is far before another
INF = math.inf

Region = tuple[float, float]


# ---- on measures ------------------------------------------------------------------------------


def comes_back(key: str, reported: float) -> Rule:
    """A reported accuracy comes back: the interval of our mean lies above it, less 1 point."""
    bound, words = reported - POINT, f"at least {_percent(reported)}, less 1 point"
    return _reported(key, reported, words, (bound, INF), (-INF, bound))


def at_most(key: str, reported: float) -> Rule:
    """A reported upper bound comes back: the interval lies below it, plus 1 point."""
    bound, words = reported + POINT, f"at most {_percent(reported)}, plus 1 point"
    return _reported(key, reported, words, (-INF, bound), (bound, INF))


def better(a: str, b: str) -> Rule:
    """a - b lies above 0."""
    return _contrast([a, b], "above 0", (0, INF), (-INF, 0), (-POINT, POINT))


def gains_more(large_a: str, small_a: str, large_b: str, small_b: str) -> Rule:
    """a gains more than b from the same step: (large_a - small_a) - (large_b - small_b) > 0."""
    keys = [large_a, small_a, large_b, small_b]
    return _contrast(keys, "above 0", (0, INF), (-INF, 0), (-POINT, POINT))


def as_well_as(a: str, b: str) -> Rule:
    """a - b lies within ±1 point: also "no gain"."""
    return _contrast([a, b], "within ±1 point", (-POINT, POINT), (POINT, INF), (-INF, -POINT))


def clearly_worse(a: str, b: str) -> Rule:
    """a - b lies below -1 point."""
    return _contrast([a, b], "below −1 point", (-INF, -POINT), (-POINT, INF))


def takes_longer(a: str, b: str) -> Rule:
    """a - b, in seconds, lies above 0."""
    return _contrast([a, b], "above 0", (0, INF), (-INF, 0), unit="s")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def _reported(key: str, reported: float, words: str, *regions: Region) -> Rule:
    def show(ours: Difference) -> str:
        return f"{name_of(key)} {ours.text(100, '%', sign='-')}, reported {_percent(reported)}"

    return _on_interval([key], f"{name_of(key)}: {words}", show, *regions)


def _contrast(keys: Sequence[str], words: str, *regions: Region, unit: str = "points") -> Rule:
    name = " − ".join(names_apart(*keys[:2]))
    if len(keys) == 4:
        a, b = names_apart(*keys[::2])
        name = f"{a} ({name}) − {b} ({' − '.join(names_apart(*keys[2:]))})"

    def show(gap: Difference) -> str:
        return f"{name}: {gap.points() if unit == 'points' else gap.text(unit=unit)}"

    return _on_interval(keys, f"95 % interval of {name} {words}", show, *regions)


def _on_interval(keys: Sequence[str], says: str, show: Callable, *regions: Region) -> Rule:
    """Rule on a, a - b or (a - b) - (c - d): holds in the first region, fails in the others."""

    def judge(*values):
        seeds = sorted(set.intersection(*map(set, values)))
        if not seeds:
            raise NotTested(f"no seed in common to {', '.join(map(name_of, keys))}")
        plus, minus = (
            {seed: math.fsum(each[seed] for each in side) for seed in seeds}
            for side in (values[::3], values[1:3])
        )
        gap = paired_difference(plus, minus)
        effect = [plus[seed] - minus[seed] for seed in seeds]
        return _lean(gap, effect, regions) + (show(gap), gap.n)

    return leaf(keys, says, judge)


def _lean(gap: Difference, effect: list[float], regions: Sequence[Region]) -> tuple[str, float]:
    """Where the interval (of few seeds the bare mean) lies, and at which p it still would."""
    low, high = (gap.low, gap.high) if gap.n >= MIN_SEEDS else (gap.mean, gap.mean)
    for region in regions:
        if region[0] < low and high < region[1]:
            p = max(p_value(effect, bound) for bound in region if math.isfinite(bound))
            return HOLDS if region is regions[0] else FAILS, p
    return UNDECIDED, 1.0


# ---- on curves --------------------------------------------------------------------------------


def falls_steadily(key: str) -> Rule:
    """The 5-epoch mean never rises by more than 1 % above its lowest, and ends below its start."""

    def judge(curves):
        _needs(key, curves, SMOOTH_EPOCHS + 1)
        kernel = np.ones(SMOOTH_EPOCHS) / SMOOTH_EPOCHS
        means = [np.convolve(curve, kernel, "valid") for curve in curves.values()]
        rises = [max(mean[1:] / np.minimum.accumulate(mean)[:-1] - 1) for mean in means]
        falls = [
            mean[-1] < mean[0] and rise <= LARGEST_RISE
            for mean, rise in zip(means, rises, strict=True)
        ]
        overall = max(mean[-1] / mean[0] - 1 for mean in means)
        change = f"overall {100 * overall:+.1f} %, largest rise {100 * max(0, *rises):.1f} %"
        return _curves(key, falls, change.replace("-", MINUS))

    says = f"{SMOOTH_EPOCHS}-epoch mean of {name_of(key)} never rises by more than 1 %"
    return leaf([key], says, judge)


def levelled_off(key: str, epoch: int, of: int) -> Rule:
    """From epoch - 1 to the last of `of` epochs the loss falls, per epoch, by less than 15 % of its
    mean fall per epoch over the whole run; says the earliest epoch of which that is true."""

    def judge(curves):
        _needs(key, curves, epoch)
        cut = [curve[:of] for curve in curves.values()]
        shares = [_share(curve, epoch - 1) for curve in cut]
        first = max(_earliest_level(curve) for curve in cut)
        since = f"level from {first}" if first <= of else "level nowhere"
        far = f", far before {epoch}" if epoch - first > FAR * of else ""
        text = f"falls by {_of_mean(max(shares))} from epoch {epoch - 1}; {since}{far}"
        return _curves(key, [share < LEVEL_SHARE for share in shares], text)

    says = f"{name_of(key)} falls by less than {_of_mean(LEVEL_SHARE)} from epoch {epoch - 1}"
    return leaf([key], says, judge)


def has_not_converged(key: str, epoch: int) -> Rule:
    """Over the last five epochs up to this one (of a shorter run: up to its last) the loss still
    falls, per epoch, by 15 % or more of its mean fall per epoch."""

    def judge(curves):
        _needs(key, curves, LAST_EPOCHS + 1)
        cut = [curve[:epoch] for curve in curves.values()]
        shares = [_share(curve, len(curve) - LAST_EPOCHS) for curve in cut]
        text = f"after {len(cut[0])} epochs falls by {_of_mean(min(shares))}"
        return _curves(key, [LEVEL_SHARE <= share < INF for share in shares], text)

    says = f"{name_of(key)} still falls by {_of_mean(LEVEL_SHARE)} or more before epoch {epoch}"
    return leaf([key], says, judge)


def _share(curve: Sequence[float], start: int) -> float:
    """Fall per epoch from epoch `start` (from 1) on, as a share of the whole curve's."""
    whole = (curve[0] - curve[-1]) / (len(curve) - 1)
    return (curve[start - 1] - curve[-1]) / (len(curve) - start) / whole if whole > 0 else INF


def _earliest_level(curve: Sequence[float]) -> int:
    """The first epoch at which the curve has levelled off; one past its end if there is none."""
    epochs = range(2, len(curve) + 1)
    return next((e for e in epochs if _share(curve, e - 1) < LEVEL_SHARE), len(curve) + 1)


def _of_mean(share: float) -> str:
    return f"{100 * share:.3g} % of its mean fall per epoch"


def _needs(key: str, curves: Mapping[int, Sequence[float]], epochs: int) -> None:
    shortest = min(map(len, curves.values()))
    if shortest < epochs:
        raise NotTested(f"{name_of(key)} has {shortest} epochs, the rule needs {epochs}")


def _curves(key: str, answers: Sequence[bool], text: str) -> tuple:
    """Each seed answers; seeds that disagree leave it undecided."""
    leaning = HOLDS if all(answers) else UNDECIDED if any(answers) else FAILS
    n = len(answers)
    return leaning, None, f"{name_of(key)}: {text} ({count_seeds(n)})", n


# ---- on encoders ------------------------------------------------------------------------------


def tracks(key_a: str, key_b: str) -> Rule:
    """Two measures order the encoders alike: their rank correlation lies above 0 by a permutation
    test. The unit is the encoder: a series' entries are encoders, each the mean of its seeds."""

    def judge(*series):
        a, b = (np.mean(list(rows.values()), axis=0) for rows in series)
        if len(a) < MIN_SEEDS:
            raise NotTested(f"{len(a)} encoders, a rank correlation needs {MIN_SEEDS}")
        rho, p = rank_test(a, b)
        leaning = UNDECIDED if p > LEVEL else HOLDS if rho > 0 else FAILS
        text = f"rank correlation {rho:+.2f} over {len(a)} encoders (p {p:.2g})"
        return leaning, p, text.replace("-", MINUS), len(a)

    says = f"rank correlation of {name_of(key_a)} and {name_of(key_b)} above 0, p ≤ {LEVEL}"
    return leaf([key_a, key_b], says, judge)


def rank_test(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Spearman's correlation and its two-sided p, exact for up to 8 encoders; (0, 1) where one
    side does not vary."""
    if len(set(a)) == 1 or len(set(b)) == 1:
        return 0.0, 1.0
    rho, p = stats.spearmanr(a, b)
    if len(a) <= 8:
        ranks = stats.zscore(stats.rankdata(a)), stats.zscore(stats.rankdata(b))
        every = np.array(list(permutations(ranks[0]))) @ ranks[1] / len(a)
        p = np.mean(abs(every) > abs(rho) - 1e-9)
    return float(rho), float(p)
