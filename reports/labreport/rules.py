"""Rules for verdicts, fixed before the runs (PROTOCOLS.md).

A `Rule` names the measures and series it reads and turns `Evidence` (the notebooks' results, as one claim
may use them) into a `Finding`. Rules combine with `all_of`, `any_of` and `negate`. A verdict is

    holds / does not hold   the numbers of at least 3 seeds satisfy / contradict the rule
    undecided               they leave both open, or there are fewer than 3 seeds, whatever the gap
    not tested              not measured; or on other data, stand-in data or a reduced protocol

Differences are judged by their paired 95 % t-interval over seeds, in percentage points:

    as well as      holds within ±1                does not hold wholly outside
    better          holds above 0                  does not hold below 0, or within ±1 (no gain)
    clearly worse   holds below -1                 does not hold above -1

and an interval that does neither is too wide: undecided. Curves are judged seed by seed; seeds that disagree
leave it undecided.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from labreport.statistics import (
    MINUS,
    Difference,
    count_seeds,
    interval_of_mean,
    paired_difference,
    summarise,
)

HOLDS, FAILS, UNDECIDED, NOT_TESTED = "holds", "does not hold", "undecided", "not tested"
MIN_SEEDS = 3
POINT = 0.01  # one percentage point, as a fraction
ROUNDING = 1e-9  # 0.95 - 0.94 is a little more than 0.01 in floating point
SMOOTH_EPOCHS, LARGEST_RISE = 5, 0.01  # "falls steadily"
LEVEL_EPOCHS, LARGEST_CHANGE = 3, 0.005  # "levelled off"
SHOWN_PARTS = 3  # of a composite rule, in `measured`

Decide = Callable[[float, float], str]  # (low, high) of an interval, as a fraction or in seconds -> leaning


# ---- evidence and findings --------------------------------------------------------------------------------


class NotTested(Exception):
    """Why a key says nothing about the claim."""


@dataclass(frozen=True)
class Evidence:
    """Results as one claim may use them: from its notebooks' files, on its data set."""

    results: Mapping[str, dict]
    notebooks: tuple[str, ...]
    dataset: str

    def entry(self, key: str) -> dict | None:
        """The measure or series with this key, wherever it was recorded."""
        return self._find(key)[1]

    def values(self, key: str) -> dict[int, float | list[float]]:
        """seed -> value. Raises: NotTested if nobody recorded it."""
        entry = self.entry(key)
        if entry is None:
            absent = [name for name in self.notebooks if name not in self.results]
            if absent:
                raise NotTested(f"this report has no {' and no '.join(absent)}")
            raise NotTested(f"{' and '.join(self.notebooks)} did not measure {_name(key)}")
        return {int(seed): value for seed, value in entry["values"].items()}

    def objection(self, key: str) -> str:
        """Why the recorded values do not speak about the claim; empty if they do."""
        content, _ = self._find(key)
        names = [data["name"] for data in content["data"] if not data["stand_in_for"]]
        if self.dataset not in names:
            stand_ins = [data["name"] for data in content["data"] if data["stand_in_for"] == self.dataset]
            if stand_ins:
                return f"{stand_ins[0]} stands in for {self.dataset}"
            return f"measured on {' and '.join(names) or 'other data'}, the claim is about {self.dataset}"
        return content["reduced"] and f"reduced protocol: {content['reduced']}"

    def _find(self, key: str) -> tuple[dict, dict | None]:
        for content in self.results.values():
            entry = content["measures"].get(key) or content["series"].get(key)
            if entry:
                return content, entry
        return {}, None


@dataclass(frozen=True)
class Finding:
    """What a rule makes of the evidence.

    `leaning` is what the seeds at hand say, however few; `verdict` is the same from 3 seeds on.
    """

    verdict: str
    leaning: str
    measured: str = ""
    seeds: int = 0
    reason: str = ""
    composed: bool = False


@dataclass(frozen=True)
class Rule:
    """`keys` it reads, `says` in words, and the judgement itself."""

    keys: tuple[str, ...]
    says: str
    find: Callable[[Evidence], Finding]


def _leaf(keys: Sequence[str], says: str, judge: Callable[..., tuple[str, str, int]]) -> Rule:
    """A rule from `judge(*values of the keys) -> (leaning, measured, number of seeds)`."""

    def find(evidence: Evidence) -> Finding:
        try:
            leaning, measured, seeds = judge(*(evidence.values(key) for key in keys))
        except NotTested as reason:
            return Finding(NOT_TESTED, NOT_TESTED, reason=str(reason))
        objections = dict.fromkeys(filter(None, map(evidence.objection, keys)))
        if objections:
            return Finding(NOT_TESTED, NOT_TESTED, measured, seeds, "; ".join(objections))
        return Finding(leaning if seeds >= MIN_SEEDS else UNDECIDED, leaning, measured, seeds)

    return Rule(tuple(keys), says, find)


# ---- rules on measures ------------------------------------------------------------------------------------


def comes_back(key: str, reported: float) -> Rule:
    """A reported accuracy comes back: our mean is within 1 point of it or above."""
    return _reported(key, reported, f"at least {100 * reported:.1f} %, less 1 point", 1)


def at_most(key: str, reported: float) -> Rule:
    """A reported upper bound comes back: our mean is within 1 point of it or below."""
    return _reported(key, reported, f"at most {100 * reported:.1f} %, plus 1 point", -1)


def _reported(key: str, reported: float, says: str, sign: int) -> Rule:
    def judge(values):
        ours = summarise(values)
        met = sign * (ours.mean - reported) >= -POINT - ROUNDING
        text = f"{_name(key)} {ours.percent()} ({count_seeds(ours.n)}), reported {100 * reported:.1f} %"
        return HOLDS if met else FAILS, text, ours.n

    return _leaf([key], f"{_name(key)}: {says}", judge)


def better(key_a: str, key_b: str) -> Rule:
    """a - b lies above 0."""
    return _contrast([key_a, key_b], "above 0", _above_zero(POINT))


def as_well_as(key_a: str, key_b: str) -> Rule:
    """a - b lies within ±1 point: also "no gain"."""

    def decide(low: float, high: float) -> str:
        if low >= -POINT - ROUNDING and high <= POINT + ROUNDING:
            return HOLDS
        return FAILS if low > POINT + ROUNDING or high < -POINT - ROUNDING else UNDECIDED

    return _contrast([key_a, key_b], "within ±1 point", decide)


def clearly_worse(key_a: str, key_b: str) -> Rule:
    """a - b lies below -1 point."""

    def decide(low: float, high: float) -> str:
        return HOLDS if high < -POINT - ROUNDING else FAILS if low >= -POINT - ROUNDING else UNDECIDED

    return _contrast([key_a, key_b], "below −1 point", decide)


def takes_longer(key_a: str, key_b: str) -> Rule:
    """a - b, in seconds, lies above 0."""
    return _contrast([key_a, key_b], "above 0", _above_zero(0), unit="s")


def gains_more(large_a: str, small_a: str, large_b: str, small_b: str) -> Rule:
    """a gains more than b from the same step: (large_a - small_a) - (large_b - small_b) lies above 0."""
    return _contrast([large_a, small_a, large_b, small_b], "above 0", _above_zero(POINT))


def above_zero(key: str) -> Rule:
    """The quantity itself (a correlation, say) lies above 0."""

    def judge(values):
        interval = interval_of_mean(values)
        return _lean(interval, _above_zero(0)), f"{_name(key)} {interval.text(digits=2)}", interval.n

    return _leaf([key], f"95 % interval of {_name(key)} above 0", judge)


def _above_zero(no_gain: float) -> Decide:
    def decide(low: float, high: float) -> str:
        if low > 0:
            return HOLDS
        return FAILS if high < 0 or (-no_gain <= low and high <= no_gain) else UNDECIDED

    return decide


def _contrast(keys: Sequence[str], says: str, decide: Decide, unit: str = "points") -> Rule:
    """Rule on a - b, or on (a - b) - (c - d), over the seeds that all have."""
    name = " − ".join(_distinct_names(keys[:2]))
    if len(keys) == 4:
        a, b = _distinct_names(keys[::2])
        name = f"{a} ({name}) − {b} ({' − '.join(_distinct_names(keys[2:]))})"

    def judge(*values):
        seeds = set.intersection(*map(set, values))
        if not seeds:
            raise NotTested(f"no seed in common to {', '.join(keys)}")
        first, second, *rest = ({seed: each[seed] for seed in seeds} for each in values)
        if rest:
            first = {seed: first[seed] - second[seed] for seed in seeds}
            second = {seed: rest[0][seed] - rest[1][seed] for seed in seeds}
        interval = paired_difference(first, second)
        text = interval.points() if unit == "points" else interval.text(unit=unit)
        return _lean(interval, decide), f"{name}: {text}", interval.n

    return _leaf(keys, f"95 % interval of {name} {says}", judge)


def _lean(interval: Difference, decide: Decide) -> str:
    """The rule applied to the interval, or to the bare mean where the seeds are too few for one."""
    enough = interval.n >= MIN_SEEDS
    return decide(interval.low, interval.high) if enough else decide(interval.mean, interval.mean)


# ---- rules on curves --------------------------------------------------------------------------------------


def falls_steadily(key: str) -> Rule:
    """The 5-epoch mean never rises by more than 1 % above its lowest so far, and ends below its start."""

    def judge(curves):
        means = [_moving_mean(key, curve, SMOOTH_EPOCHS, spare=1) for curve in curves.values()]
        rises = [max(value / min(mean[:i]) - 1 for i, value in enumerate(mean) if i) for mean in means]
        falls = [mean[-1] < mean[0] and rise <= LARGEST_RISE for mean, rise in zip(means, rises, strict=True)]
        overall = max(mean[-1] / mean[0] - 1 for mean in means)
        change = f"overall {overall:+.1%}, largest rise {max(0, *rises):.1%}".replace("-", MINUS).replace("%", " %")
        return _unanimous(falls), f"{_name(key)}: {change} ({count_seeds(len(means))})", len(means)

    return _leaf([key], f"{SMOOTH_EPOCHS}-epoch mean of {_name(key)} never rises by more than 1 %", judge)


def levelled_off(key: str, epoch: int) -> Rule:
    """The 3-epoch mean ending at `epoch` differs by less than 0.5 % from the one ending 3 epochs before."""

    def judge(curves):
        shortest = min(map(len, curves.values()))
        if shortest < epoch:
            raise NotTested(f"{_name(key)} ends at epoch {shortest}, the claim is about epoch {epoch}")
        changes = []
        for curve in curves.values():
            *_, before, _, _, now = _moving_mean(key, curve[:epoch], LEVEL_EPOCHS, spare=LEVEL_EPOCHS)
            changes.append(abs(now / before - 1))
        text = f"{_name(key)}: {100 * max(changes):.2f} % change at epoch {epoch}"
        level = [change < LARGEST_CHANGE for change in changes]
        return _unanimous(level), f"{text} ({count_seeds(len(level))})", len(level)

    return _leaf([key], f"{_name(key)} changes by less than 0.5 % in the 3 epochs up to {epoch}", judge)


def _moving_mean(key: str, curve: Sequence[float], width: int, spare: int) -> list[float]:
    """Means of `width` epochs. Raises: NotTested if the curve has fewer than width + spare epochs."""
    if len(curve) < width + spare:
        raise NotTested(f"{_name(key)} has {len(curve)} epochs, the rule needs {width + spare}")
    return [sum(curve[end - width : end]) / width for end in range(width, len(curve) + 1)]


def _unanimous(answers: Sequence[bool]) -> str:
    """Each seed answers; seeds that disagree leave it undecided."""
    return HOLDS if all(answers) else UNDECIDED if any(answers) else FAILS


# ---- composition ------------------------------------------------------------------------------------------

_OPPOSITE = {HOLDS: FAILS, FAILS: HOLDS}


def all_of(*rules: Rule) -> Rule:
    """Holds if each part holds; one part that does not hold settles it."""
    return _composed(rules, "and", (FAILS, NOT_TESTED, UNDECIDED, HOLDS))


def any_of(*rules: Rule) -> Rule:
    """Holds if some part holds, whatever the others say."""
    return _composed(rules, "or", (HOLDS, NOT_TESTED, UNDECIDED, FAILS))


def negate(rule: Rule) -> Rule:
    """Holds where the rule does not hold, and the reverse."""

    def find(evidence: Evidence) -> Finding:
        found = rule.find(evidence)
        verdict, leaning = (_OPPOSITE.get(word, word) for word in (found.verdict, found.leaning))
        return replace(found, verdict=verdict, leaning=leaning)

    return Rule(rule.keys, f"not ({rule.says})", find)


def _composed(rules: Sequence[Rule], conjunction: str, strongest_first: tuple[str, ...]) -> Rule:
    def find(evidence: Evidence) -> Finding:
        parts = [rule.find(evidence) for rule in rules]
        verdict = min((part.verdict for part in parts), key=strongest_first.index)
        leaning = min((part.leaning for part in parts), key=strongest_first.index)
        reasons = dict.fromkeys(part.reason for part in parts if part.reason and verdict == NOT_TESTED)
        decisive_first = sorted(parts, key=lambda part: part.leaning != leaning)
        disagree = len({part.leaning for part in parts}) > 1
        texts = [
            f"{part.measured}: {part.leaning}" if disagree and not part.composed else part.measured
            for part in decisive_first if part.measured
        ]  # fmt: skip
        seeds = min((part.seeds for part in parts if part.measured), default=0)
        return Finding(verdict, leaning, _first_parts(texts, "; ", "; and {} more"), seeds, "; ".join(reasons), True)

    keys = dict.fromkeys(key for rule in rules for key in rule.keys)
    says = _first_parts([f"({rule.says})" for rule in rules], f" {conjunction} ", f" {conjunction} {{}} more alike")
    return Rule(tuple(keys), says, find)


def _first_parts(texts: Sequence[str], between: str, rest: str) -> str:
    texts = list(dict.fromkeys(texts))
    more = len(texts) - SHOWN_PARTS
    return between.join(texts[:SHOWN_PARTS]) + (rest.format(more) if more > 0 else "")


# ---- names ------------------------------------------------------------------------------------------------


_WORDS = {
    "r2": "R2's recipe", "hidden": "one hidden layer", "1part": "a tenth of the labels",
    "2parts": "a fifth of the labels", "kmeans": "k-means", "gmm": "Gaussian mixture", "pixels": "on pixels",
    "pretrain": "pre-training", "simclr": "SimCLR", "finetune": "fine-tuned",
    "classifier_loss": "the classifier's loss", "rank_correlation": "rank correlation", "few_labels": "few labels",
    "resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50", "crop_jitter": "crop and jitter",
}  # fmt: skip
_UNSAID = ("aug", "head", "accuracy", "seconds")  # the claim's own words say so
_UNITS = {"classifier": "classifier epochs", "epochs": "epochs", "epoch": "epochs", "percent": "% of the labels"}


def _name(key: str) -> str:
    """A key as the ledger prints it: `mnist.r2.linear.1part` is `R2's recipe, linear, a tenth of the labels`."""
    return _in_words(key.split(".")[1:])


def _in_words(parts: Sequence[str]) -> str:
    return re.sub(r"\bbatch, (\d)", r"batch \1", ", ".join(_word(part) for part in parts if part not in _UNSAID))


def _word(part: str) -> str:
    """`epoch6` is `6 epochs`, `batch128` `batch 128`, `t0_5` `temperature 0.5`; other parts by _WORDS."""
    if match := re.fullmatch(r"(classifier|epochs?)(\d+)|(\d+)(percent)", part):
        return f"{match[2] or match[3]} {_UNITS[match[1] or match[4]]}"
    if match := re.fullmatch(r"(batch|t)(\d+(?:_\d+)?)", part):
        return f"{'temperature' if match[1] == 't' else 'batch'} {match[2].replace('_', '.')}"
    return _WORDS.get(part, part)


def _distinct_names(keys: Sequence[str]) -> list[str]:
    """What tells two keys apart: their parts less the common beginning (of a bare number: all but one) and end."""
    first, second = (key.split(".")[1:] for key in keys)
    while len(first) > 1 and len(second) > 1 and first[0] == second[0] and not first[1].isdigit():
        first, second = first[1:], second[1:]
    while len(first) > 1 and len(second) > 1 and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    return [_in_words(first), _in_words(second)]
