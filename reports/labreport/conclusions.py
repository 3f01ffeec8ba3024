"""The computed conclusions of 06 to 10: numbers in, sentences out, whose wording follows from the numbers.

Accuracies are fractions, seed -> value; differences are paired by seed. A sentence says which mean is ahead and by how
much; whether that is a verdict is said once, by `caution`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from labreport.rules import MIN_SEEDS
from labreport.statistics import MINUS, Seeded, count_seeds, paired_difference, summarise

Sweep = Mapping[float, Seeded]  # setting -> seed -> accuracy


def caution(seeds: int) -> str:
    """What too few seeds cannot say; empty from three on."""
    return "" if seeds >= MIN_SEEDS else f" With {count_seeds(seeds)} no difference is a verdict."


def best_setting(sweep: Sweep) -> float:
    """The setting with the highest mean; the smaller one of two equal ones."""
    return max(sorted(sweep), key=lambda setting: summarise(sweep[setting]).mean)


def best_temperatures(sweeps: Mapping[float, Sweep], what: str, at: str) -> str:
    """Whether the best temperature is the same under every value of another setting.

    Args:
        sweeps: value of the other setting -> temperature -> seed -> accuracy.
        what: the other setting, e.g. "batch". at: how a value of it is said, e.g. "at batch {:,g}".
    """
    best = {value: best_setting(sweeps[value]) for value in sorted(sweeps)}
    each = ", ".join(f"{temperature:g} {at.format(value)}" for value, temperature in best.items())
    if len(best) < 2:
        return f"Only one {what} was run: the best temperature is {each}."
    if len(set(best.values())) == 1:
        return f"The best temperature does not depend on the {what} here: {next(iter(best.values())):g} throughout."
    return f"The best temperature depends on the {what} here: {each}."


def batch_and_length(sweeps: Mapping[float, Sweep]) -> str:
    """The paper's finding, that small batches need more epochs: does the larger batch lose its lead with more of them?

    Args:
        sweeps: batch -> epochs -> seed -> accuracy.
    """
    small, large = min(sweeps), max(sweeps)
    short, long = min(sweeps[small]), max(sweeps[small])
    if small == large or short == long:
        return "One batch or one length says nothing about whether small batches need more epochs."
    leads = {epochs: paired_difference(sweeps[large][epochs], sweeps[small][epochs]) for epochs in (short, long)}
    now, later = leads[short].mean, leads[long].mean
    ground = "loses ground" if later < now else "gains ground" if later > now else "keeps its distance"
    agrees = "as the paper finds" if now > 0 and later < now else "other than the paper finds"
    by_epoch = ", ".join(f"{leads[epochs].points()} by epoch {epochs:g}" for epochs in (short, long))
    return (
        f"Batch {large:,g} against batch {small:,g}: {by_epoch}; with more epochs the larger batch {ground}, {agrees}."
    )


def gains(simclr: Sweep, supervised: Sweep, what: str) -> str:
    """Who gains more from the largest against the smallest value of a setting (R3.3)."""
    small, large = min(simclr), max(simclr)
    own, other = (paired_difference(sweep[large], sweep[small]) for sweep in (simclr, supervised))
    more = "more" if own.mean > other.mean else "no more"
    return (f"From {small:,g} to {large:,g} {what} SimCLR changes by {own.points()}, supervised learning by "
            f"{other.points()}: SimCLR gains {more}.")  # fmt: skip


def order_of_encoders(accuracies: Mapping[str, Seeded], costs: Mapping[str, Mapping[str, float]]) -> str:
    """The best encoder, and whether accuracy goes with its costs (Spearman's rank correlation of the means).

    Args:
        costs: what a cost is called -> encoder -> cost.
    """
    means = {name: summarise(values).mean for name, values in accuracies.items()}
    best = max(means, key=means.get)
    sentence = f"The best encoder here is **{best}** ({summarise(accuracies[best]).percent()})."
    if len(means) < 3:
        return sentence
    goes = []
    for cost, values in costs.items():
        rho = rank_correlation(list(means.values()), [values[name] for name in means])
        word = "rises with" if rho > 0.5 else "falls with" if rho < -0.5 else "does not go with"
        goes.append(f"{word} {cost} (rank correlation {_signed(rho)})")
    return f"{sentence} Over the {len(means)} encoders, accuracy {', '.join(goes)}."


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, -1 to 1; 0 where one of the two does not vary."""
    if len(set(a)) == 1 or len(set(b)) == 1:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)


def worth_of_pretraining(pretrained: Sweep, supervised: Sweep, start: str = "Against") -> str:
    """Fine-tuned against supervised, from the fewest and from the most labels: where is pre-training worth more?

    Args: number of labels -> seed -> accuracy.
    """
    few, many = min(pretrained), max(pretrained)
    leads = {labels: paired_difference(pretrained[labels], supervised[labels]) for labels in (few, many)}
    more = "more" if leads[few].mean > leads[many].mean else "no more"
    return (f"{start} the same network trained on the labels alone, the fine-tuned one {_stands(leads[few].mean)} from "
            f"{few:,g} labels ({leads[few].points()}) and {_stands(leads[many].mean)} from {many:,g} "
            f"({leads[many].points()}): pre-training is worth {more} where labels are few.")  # fmt: skip


def few_against_all(finetuned: Seeded, linear: Seeded, few: str) -> str:
    """R4's comparison: the whole network fine-tuned on few labels against a linear classifier with all labels."""
    gap = paired_difference(finetuned, linear)
    reached, with_all = (summarise(values).percent() for values in (finetuned, linear))
    return (f"Fine-tuned on {few}, the network reaches {reached}; a linear classifier with all labels {with_all}: "
            f"fine-tuning on few {_stands(gap.mean)}, {gap.points()}.")  # fmt: skip


def tracking(correlations: Seeded, encoders: int, few: str) -> str:
    """Whether linear evaluation tells which encoder fine-tunes best (R4.1)."""
    mean = summarise(correlations).mean
    word = "follows" if mean > 0.5 else "runs against" if mean < -0.5 else "hardly follows"
    return (f"Over {encoders} encoders the order by fine-tuning on {few} {word} the order by linear evaluation "
            f"(rank correlation {_signed(mean)}).")  # fmt: skip


def geometry_over_training(measured: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    """How alignment, uniformity and effective rank moved from the first to the last of the epochs looked at.

    Args:
        measured: "alignment", "uniformity", "effective_rank" -> seed -> one value an epoch.
    """
    ends = {key: np.mean(list(rows.values()), axis=0)[[0, -1]] for key, rows in measured.items()}
    closer = _moved(ends["alignment"], "move apart", "come closer together")
    spread = _moved(ends["uniformity"], "crowd together", "spread out")
    rank = _moved(ends["effective_rank"], "more", "fewer")
    return (f"In training the two views of an image {closer} (alignment {_from_to(ends['alignment'])}), the images "
            f"{spread} (uniformity {_from_to(ends['uniformity'])}), and h uses {rank} directions (effective rank "
            f"{_from_to(ends['effective_rank'], 1)}).")  # fmt: skip


def classes_apart(within: Seeded, between: Seeded, name: str) -> str:
    """Whether images of one class lie closer together than images of different classes."""
    inside, across = summarise(within), summarise(between)
    closer = "closer together than" if inside.mean < across.mean else "no closer together than"
    return (f"Under {name}, images of one class lie {closer} images of different classes (mean cosine distance "
            f"{inside.text(digits=3)} and {across.text(digits=3)}).")  # fmt: skip


def before_and_behind(h: Seeded, z: Seeded) -> str:
    """Effective rank before and behind the projection head."""
    before, behind = summarise(h), summarise(z)
    word = "fewer" if behind.mean < before.mean else "no fewer"
    return f"z uses {word} directions than h (effective rank {behind.text()} against {before.text()})."


def most_confused(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> str:
    """The two classes most often taken for each other, by the shares of both."""
    counts = np.asarray(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    both = np.triu(shares + shares.T, 1)
    if not both.any():
        return "The linear classifier takes no class for another."
    a, b = np.unravel_index(both.argmax(), both.shape)
    one, other = class_names[a], class_names[b]
    return (f"The linear classifier most often takes {one} and {other} for each other: {100 * shares[a, b]:.0f} % of "
            f"{one} for {other}, {100 * shares[b, a]:.0f} % the other way.")  # fmt: skip


def against_published(ours: Mapping[str, Seeded], published: Mapping[str, float], source: str) -> str:
    """Which of several measures come to a published figure or above it."""
    reached = [name for name in published if summarise(ours[name]).mean >= published[name]]
    each = ", ".join(
        f"{name} {summarise(ours[name]).text(100)} (there {100 * published[name]:.1f})" for name in published
    )
    verdict = "all of" if len(reached) == len(published) else f"{', '.join(reached)} of" if reached else "none of"
    return f"k-means on h of unit length: {each}. It reaches {verdict} {source}'s figures."


def own_images(linear: Seeded, untrained: Seeded, commonest: float) -> str:
    """What pre-training brought on the user's pictures, beside an untrained encoder and the commonest class."""
    gain = paired_difference(linear, untrained)
    chance = "above" if summarise(linear).mean > commonest else "not above"
    return (f"A linear classifier on the encoder reads {summarise(linear).percent()} of the test images, {chance} "
            f"always naming the commonest class ({100 * commonest:.1f} %); against an untrained encoder it "
            f"{_stands(gain.mean)} ({gain.points()}).")  # fmt: skip


def _stands(difference: float) -> str:
    return "is ahead" if difference > 0 else "is behind" if difference < 0 else "is level"


def _moved(ends: Sequence[float], up: str, down: str) -> str:
    return up if ends[1] > ends[0] else down


def _from_to(ends: Sequence[float], digits: int = 2) -> str:
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}".replace("-", MINUS)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)
