"""The computed conclusions of the notebooks: numbers in, sentences out that follow from them.

Accuracies are fractions, seed -> value; differences are paired by seed. A sentence says which mean
is ahead and by how much; whether that is a verdict is said once, by `caution`.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from labreport.science.evidence import MIN_SEEDS
from labreport.science.rules import rank_test
from labreport.science.statistics import (
    MINUS,
    Seeded,
    count_seeds,
    image_interval,
    interval_of_mean,
    paired_difference,
    summarise,
)

Sweep = Mapping[float, Seeded]  # setting -> seed -> accuracy


def caution(seeds: int) -> str:
    """What too few seeds cannot say; empty from three on."""
    return "" if seeds >= MIN_SEEDS else f" With {count_seeds(seeds)} no difference is a verdict."


def other_images(accuracies: Seeded, confusions: Mapping[int, Sequence]) -> str:
    """What the interval over seeds leaves out, other test images, and how much more that is.

    Args: confusions: seed -> counts by true and predicted class, shape (K, K).
    """
    ours, images = interval_of_mean(accuracies), image_interval(confusions)
    seeds, more = ours.high - ours.mean, (images.high - images.low) / 2
    told = f"Other test images would move the mean by ±{100 * more:.1f} points as well"
    if not 1e-9 < seeds < math.inf:
        return f"{told}."
    both = math.hypot(seeds, more)
    together = f"±{100 * both:.1f} together, {both / seeds:.1f} times as wide"
    return (f"The interval over {count_seeds(ours.n)}, ±{100 * seeds:.1f} points, covers seeds "
            f"alone. {told}: {together}.")  # fmt: skip


def against(a: Seeded, b: Seeded, name_a: str, name_b: str) -> str:
    """Which of two accuracies is ahead, and by how much."""
    gap, (ours, theirs) = paired_difference(a, b), (summarise(each).percent() for each in (a, b))
    stands = "is ahead of" if gap.mean > 0 else "is behind" if gap.mean < 0 else "is level with"
    return f"{name_a} ({ours}) {stands} {name_b} ({theirs}): {gap.points()}."


def change_of_lead(a: Sweep, b: Sweep, name_a: str, name_b: str, at: str) -> str:
    """Whether a's lead over b grows from the smallest to the largest setting.

    Args: at: how a setting is said, e.g. "from {:,g} labels".
    """
    small, large = min(a), max(a)
    if small == large:
        return f"One setting says nothing about how the lead of {name_a} over {name_b} changes."
    first, last = (paired_difference(a[setting], b[setting]) for setting in (small, large))
    word = "grows" if last.mean > first.mean else "shrinks" if last.mean < first.mean else "stays"
    return (f"{name_a} against {name_b}: {first.points()} {at.format(small)}, {last.points()} "
            f"{at.format(large)}; the lead {word}.")  # fmt: skip


def smaller(a: Seeded, b: Seeded, name_a: str, name_b: str, what: str, digits: int = 3) -> str:
    """Whether some quantity is smaller for a than for b, e.g. distances within classes."""
    ours, theirs = summarise(a), summarise(b)
    word = "smaller" if ours.mean < theirs.mean else "no smaller"
    both = f"{ours.text(digits=digits)} and {theirs.text(digits=digits)}"
    return f"The {what} {name_a} is {word} than {name_b} ({both})."


def best_temperatures(sweeps: Mapping[float, Sweep], what: str, at: str) -> str:
    """Whether the best temperature (of equal ones the smaller) depends on another setting.

    Args:
        sweeps: value of the other setting -> temperature -> seed -> accuracy.
        what: the other setting, e.g. "batch". at: how a value of it is said, "at batch {:,g}".
    """
    best = {
        value: max(sorted(sweep), key=lambda tau: summarise(sweep[tau]).mean)
        for value, sweep in sorted(sweeps.items())
    }
    each = ", ".join(f"{tau:g} {at.format(value)}" for value, tau in best.items())
    if len(best) < 2:
        return f"Only one {what} was run: the best temperature is {each}."
    depends = "depends" if len(set(best.values())) > 1 else "does not depend"
    return f"The best temperature {depends} on the {what} here: {each}."


def order_of_encoders(accuracies: Mapping[str, Seeded], costs: Mapping[str, Mapping]) -> str:
    """The best encoder, and whether accuracy goes with its costs: name -> encoder -> cost."""
    means = {name: summarise(values).mean for name, values in accuracies.items()}
    best = max(means, key=means.get)
    sentence = f"The best encoder here is **{best}** ({summarise(accuracies[best]).percent()})."
    if len(means) < 3:
        return sentence
    goes = []
    for cost, values in costs.items():
        rho, _ = rank_test(list(means.values()), [values[name] for name in means])
        word = "rises with" if rho > 0.5 else "falls with" if rho < -0.5 else "does not go with"
        goes.append(f"{word} {cost} (rank correlation {_signed(rho)})")
    return f"{sentence} Over the {len(means)} encoders, accuracy {', '.join(goes)}."


def tracking(linear: Sequence[Seeded], tuned: Sequence[Seeded], few: str) -> str:
    """Whether linear evaluation tells which encoder fine-tunes best (R4.1); an entry an encoder."""
    rho, p = rank_test(*([summarise(each).mean for each in side] for side in (linear, tuned)))
    word = "follows" if rho > 0.5 else "runs against" if rho < -0.5 else "hardly follows"
    return (f"Over {len(linear)} encoders the order by fine-tuning on {few} {word} the order by "
            f"linear evaluation (rank correlation {_signed(rho)}, p {p:.2g}).")  # fmt: skip


def geometry_over_training(measured: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    """How alignment, uniformity and effective rank moved: quantity -> seed -> a value an epoch."""
    told = []
    for key, digits, up, down in (
        ("alignment", 2, "the two views of an image move apart", "the two views of an image come "
         "closer together"),
        ("uniformity", 2, "the images crowd together", "the images spread out"),
        ("effective_rank", 1, "h uses more directions", "h uses fewer directions"),
    ):  # fmt: skip
        first, last = np.mean(list(measured[key].values()), axis=0)[[0, -1]]
        moved = f"{first:.{digits}f} to {last:.{digits}f}".replace("-", MINUS)
        told.append(f"{up if last > first else down} ({key.replace('_', ' ')} {moved})")
    return f"In training {', '.join(told)}."


def most_confused(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> str:
    """The two classes most often taken for each other, by the shares of both."""
    counts = np.asarray(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    both = np.triu(shares + shares.T, 1)
    if not both.any():
        return "The linear classifier takes no class for another."
    a, b = np.unravel_index(both.argmax(), both.shape)
    one, other = class_names[a], class_names[b]
    return (f"The linear classifier most often takes {one} and {other} for each other: "
            f"{100 * shares[a, b]:.0f} % of {one} for {other}, {100 * shares[b, a]:.0f} % the "
            "other way.")  # fmt: skip


def against_published(ours: Mapping[str, Seeded], theirs: Mapping[str, float], source: str) -> str:
    """Each of several measures beside a published figure, and which come to it or above."""
    own = {name: summarise(ours[name]) for name in theirs}
    each = ", ".join(f"{k} {own[k].text(100)} (there {100 * theirs[k]:.1f})" for k in theirs)
    reached = ", ".join(k for k in theirs if own[k].mean >= theirs[k]) or "none"
    return f"k-means on h of unit length: {each}. Of {source}'s figures it reaches: {reached}."


def above_commonest(accuracies: Seeded, commonest: float) -> str:
    """Whether a classifier does better than always naming the commonest class (its share)."""
    reached = summarise(accuracies)
    word = "more" if reached.mean > commonest else "no more"
    chance = f"always naming the commonest class ({100 * commonest:.1f} %)"
    return (f"A linear classifier on the encoder reads {reached.percent()} of the test images, "
            f"{word} than {chance}.")  # fmt: skip


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)
