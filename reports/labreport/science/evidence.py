"""What a claim may be judged by, and what a judgement is.

A `Rule` names the measures and series it reads and turns `Evidence` into a `Finding`. A verdict is
"holds" or "does not hold" where at least 3 seeds settle it, "undecided" where they do not or where
there are fewer, "not tested" where nothing was run.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from labreport.science.statistics import count_seeds

HOLDS, FAILS, UNDECIDED, NOT_TESTED = "holds", "does not hold", "undecided", "not tested"
NOT_RUN = "not run here"  # at the source's own settings
MIN_SEEDS = 3
LEVEL = 0.05  # of a comparison
SHOWN_PARTS = 3  # of a composite rule
_OPPOSITE = {HOLDS: FAILS, FAILS: HOLDS}


class NotTested(Exception):
    """Why a key says nothing about the claim."""


@dataclass(frozen=True)
class Evidence:
    """The notebooks' results, as one claim may use them on one data set.

    in_full: only measures at the source's own settings speak.
    adjusted: comparison -> its p-value after Holm's correction; empty: the plain intervals judge.
    """

    results: Mapping[str, dict]
    dataset: str
    in_full: bool = False
    adjusted: Mapping[str, float] = field(default_factory=dict)

    def values(self, key: str) -> dict[int, float | list[float]]:
        """seed -> value. Raises: NotTested if nobody recorded it, or not for this data set."""
        content, entry = self.find(key)
        if entry is None:
            raise NotTested(f"nobody measured {name_of(key)}")
        used = {data["stand_in_for"] or data["name"]: data["name"] for data in content["data"]}
        if self.dataset not in used:
            raise NotTested(f"measured on {' and '.join(used.values())}, not on {self.dataset}")
        if used[self.dataset] != self.dataset:
            raise NotTested(f"{used[self.dataset]} stands in for {self.dataset}")
        if self.in_full and (reduced := reduction(content, entry)):
            raise NotTested(f"reduced here: {reduced}")
        return {int(seed): value for seed, value in entry["values"].items()}

    def find(self, key: str) -> tuple[dict, dict | None]:
        """The largest measurement of this key, and the notebook's results that hold it.

        On MNIST a claim's CIFAR-10 keys are read as those of the same measures there.
        """
        key = re.sub(r"^cifar\.", "mnist.", key) if self.dataset == "mnist" else key
        both = [(c, c["measures"].get(key) or c["series"].get(key)) for c in self.results.values()]
        return max((pair for pair in both if pair[1]), key=_images_seen, default=({}, None))

    def scale(self, keys: Sequence[str]) -> str:
        """The settings of these measures in words, each once."""
        found = [pair for pair in map(self.find, keys) if pair[1]]
        return "; ".join(dict.fromkeys(_setting_text(*pair) for pair in found))


def reduction(content: Mapping, entry: Mapping) -> str:
    """How a measure's protocol is cut down: its own word, else its notebook's; empty if not."""
    return entry.get("reduced", content["reduced"])


def _setting(content: Mapping, entry: Mapping) -> dict:
    """A measure's own setting; of older results what the notebook's parameters tell of it."""
    told = {k: v for k, v in content["parameters"].items() if k in ("images", "width", "epochs")}
    return entry.get("setting") or told


def _images_seen(pair: tuple[Mapping, Mapping]) -> tuple:
    setting = _setting(*pair)
    return not reduction(*pair), setting.get("images", 0) * setting.get("epochs", 0)


def _setting_text(content: Mapping, entry: Mapping) -> str:
    words = {"images": "{:,} images", "width": "width {:g}", "epochs": "{} epochs",
             "pflop": "{:.2g} PFLOP"}  # fmt: skip
    setting = _setting(content, entry)
    parts = [] if reduction(content, entry) else ["in full"]
    parts += [words[key].format(setting[key]) for key in words if key in setting]
    return ", ".join([*parts, count_seeds(len(entry["values"]))])


@dataclass(frozen=True)
class Finding:
    """What a rule makes of the evidence.

    leaning: what the seeds at hand say, however few; verdict: the same from 3 seeds on.
    p: comparison -> p-value, of every comparison that it rests on.
    """

    verdict: str
    leaning: str
    measured: str = ""
    seeds: int = 0
    reason: str = ""
    p: Mapping[str, float] = field(default_factory=dict)
    composed: bool = False


@dataclass(frozen=True)
class Rule:
    """`keys` it reads, `says` in words, and the judgement itself."""

    keys: tuple[str, ...]
    says: str
    find: Callable[[Evidence], Finding]


def leaf(keys: Sequence[str], says: str, judge: Callable[..., tuple]) -> Rule:
    """A rule from `judge(*values of the keys) -> (leaning, p or None, measured, seeds)`."""

    def find(evidence: Evidence) -> Finding:
        try:
            leaning, p, measured, seeds = judge(*(evidence.values(key) for key in keys))
        except NotTested as reason:
            return Finding(NOT_TESTED, NOT_TESTED, reason=str(reason))
        verdict = leaning if seeds >= MIN_SEEDS else UNDECIDED
        if evidence.adjusted.get(says, 0) > LEVEL:
            verdict = UNDECIDED
        compared = {says: p} if p is not None and seeds >= MIN_SEEDS else {}
        return Finding(verdict, leaning, measured, seeds, p=compared)

    return Rule(tuple(keys), says, find)


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


def _composed(rules: Sequence[Rule], conjunction: str, strongest: tuple[str, ...]) -> Rule:
    def find(evidence: Evidence) -> Finding:
        parts = [rule.find(evidence) for rule in rules]
        verdict = min((part.verdict for part in parts), key=strongest.index)
        leaning = min((part.leaning for part in parts), key=strongest.index)
        reasons = [part.reason for part in parts if part.reason and verdict == NOT_TESTED]
        shown = sorted((p for p in parts if p.measured), key=lambda part: part.leaning != leaning)
        disagree = len({part.leaning for part in parts}) > 1
        texts = [
            f"{part.measured}: {part.leaning}" if disagree and not part.composed else part.measured
            for part in shown
        ]
        compared = {says: p for part in parts for says, p in part.p.items()}
        seeds = min((part.seeds for part in shown), default=0)
        reason = _first(reasons, "; ", "; and {} more")
        measured = _first(texts, "; ", "; and {} more")
        return Finding(verdict, leaning, measured, seeds, reason, compared, True)

    keys = dict.fromkeys(key for rule in rules for key in rule.keys)
    says = [f"({rule.says})" for rule in rules]
    shown = _first(says, f" {conjunction} ", f" {conjunction} {{}} more alike")
    return Rule(tuple(keys), shown, find)


def _first(texts: Sequence[str], between: str, rest: str) -> str:
    texts = list(dict.fromkeys(texts))
    more = len(texts) - SHOWN_PARTS
    return between.join(texts[:SHOWN_PARTS]) + (rest.format(more) if more > 0 else "")


# ---- keys in words ----------------------------------------------------------------------------

_WORDS = {
    "r2": "R2's recipe", "hidden": "one hidden layer", "1part": "a tenth of the labels",
    "2parts": "a fifth of the labels", "kmeans": "k-means", "gmm": "Gaussian mixture",
    "pixels": "on pixels", "pretrain": "pre-training", "simclr": "SimCLR",
    "finetune": "fine-tuned", "random": "untrained", "classifier_loss": "the classifier's loss",
    "few_labels": "few labels", "resnet18": "ResNet-18", "resnet34": "ResNet-34",
    "resnet50": "ResNet-50", "crop_jitter": "crop and jitter",
}  # fmt: skip
_UNSAID = ("aug", "head", "accuracy", "seconds", "compose", "gain", "temperature")
_PATTERNS = {
    r"classifier(\d+)": r"\1 classifier epochs", r"epochs?(\d+)": r"\1 epochs",
    r"(\d+)percent": r"\1 % of the labels", r"batch(\d+)": r"batch \1",
    r"t(\d+)": r"temperature \1", r"t(\d+)_(\d+)": r"temperature \1.\2",
}  # fmt: skip


def name_of(key: str) -> str:
    """A key as the ledger prints it: `mnist.r2.hidden.1part` is `R2's recipe, one hidden …`."""
    return _in_words(key.split(".")[1:])


def names_apart(first: str, second: str) -> list[str]:
    """What tells two keys apart: their parts less the common beginning and end."""
    a, b = (key.split(".")[1:] for key in (first, second))
    while len(a) > 1 and len(b) > 1 and a[0] == b[0] and not a[1].isdigit():
        a, b = a[1:], b[1:]
    while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return [_in_words(a), _in_words(b)]


def _in_words(parts: Sequence[str]) -> str:
    words = []
    for part in [part for part in parts if part not in _UNSAID]:
        for pattern, said in _PATTERNS.items():
            if re.fullmatch(pattern, part):
                part = re.sub(pattern, said, part)
        words.append(_WORDS.get(part, part))
    return re.sub(r"\bbatch, (\d)", r"batch \1", ", ".join(words))
