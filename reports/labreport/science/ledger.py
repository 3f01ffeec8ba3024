"""The claims ledger: two verdicts a claim, as stated and at the largest scale run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from labreport.science.claims import CLAIMS, Claim
from labreport.science.evidence import (
    FAILS,
    HOLDS,
    MIN_SEEDS,
    NOT_RUN,
    NOT_TESTED,
    UNDECIDED,
    Evidence,
    Finding,
)
from labreport.science.statistics import count_seeds, holm


@dataclass(frozen=True)
class Verdict:
    """A claim judged.

    stated: at the source's own settings. scaled: at the largest scale run, which `scale` names.
    corrected: the latter with Holm's correction over all `comparisons` of the ledger.
    beside: (what, measured, verdict or "") of what is shown with it and not counted.
    """

    claim: Claim
    stated: Finding
    scaled: Finding
    scale: str
    figures: tuple[str, ...]
    beside: tuple[tuple[str, str, str], ...] = ()
    corrected: str = ""
    comparisons: int = 0


def judge(results: Mapping[str, dict]) -> list[Verdict]:
    """A verdict on every claim, from the results JSON of each notebook."""
    plain = [_judge(claim, results) for claim in CLAIMS]
    adjusted = holm({says: p for verdict in plain for says, p in verdict.scaled.p.items()})
    corrected = [_scaled(claim, results, adjusted)[0].verdict for claim in CLAIMS]
    return [
        replace(verdict, corrected=word, comparisons=len(adjusted))
        for verdict, word in zip(plain, corrected, strict=True)
    ]


def _judge(claim: Claim, results: Mapping[str, dict]) -> Verdict:
    scaled, evidence = _scaled(claim, results, {})
    own = [Evidence(results, dataset, in_full=True) for dataset in claim.datasets]
    if claim.elsewhere:
        stated = Finding(NOT_RUN, NOT_RUN, reason=claim.elsewhere)
    else:
        stated = _first_tested(claim, own)[0]
        if stated.verdict == NOT_TESTED:
            stated = replace(stated, verdict=NOT_RUN)
    figures = [entry["figure"] for _, entry in map(evidence.find, claim.keys) if entry]
    scale = f"{evidence.dataset}, {evidence.scale(claim.keys)}"
    shown = tuple(dict.fromkeys(filter(None, figures)))
    return Verdict(claim, stated, scaled, scale, shown, tuple(_beside(claim, results, evidence)))


def _scaled(claim: Claim, results: Mapping, adjusted: Mapping) -> tuple[Finding, Evidence]:
    """The finding on the first of the claim's data sets that it was run on, at any size."""
    return _first_tested(claim, [Evidence(results, d, False, adjusted) for d in claim.datasets])


def _first_tested(claim: Claim, evidences: Sequence[Evidence]) -> tuple[Finding, Evidence]:
    found = [(claim.rule.find(evidence), evidence) for evidence in evidences]
    return next((pair for pair in found if pair[0].verdict != NOT_TESTED), found[0])


def _beside(claim: Claim, results: Mapping[str, dict], judged: Evidence):
    if claim.beside:
        what, rule = claim.beside
        yield what, rule.find(judged).measured, ""
    for dataset in claim.datasets:
        other = claim.rule.find(Evidence(results, dataset))
        if dataset != judged.dataset and other.verdict != NOT_TESTED:
            yield f"on {dataset}", other.measured, other.verdict


def count_verdicts(verdicts: Sequence[Verdict], which: str = "scaled") -> dict[str, int]:
    """Claims per verdict, "scaled" or "stated", in a fixed order, none left out."""
    found = [getattr(verdict, which).verdict for verdict in verdicts]
    words = (HOLDS, FAILS, UNDECIDED, NOT_RUN if which == "stated" else NOT_TESTED)
    return {word: found.count(word) for word in words}


def ledger_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """What the source says, both verdicts, what was measured, and where it is shown."""
    rows = []
    for verdict in verdicts:
        claim, scaled = verdict.claim, verdict.scaled
        tested = scaled.verdict != NOT_TESTED
        figures = ", ".join(f"@{label}" for label in verdict.figures)
        stated = NOT_RUN if verdict.stated.verdict == NOT_RUN else _in_words(verdict.stated)
        rows.append((claim.id, claim.text, stated, _in_words(scaled),
                     verdict.scale if tested else "–", scaled.measured or "–",
                     verdict.corrected if scaled.p else "–", figures or "–"))  # fmt: skip
        rows += [(claim.id, what, "–", word or "–", "–", measured or "–", "–", "–")
                 for what, measured, word in verdict.beside]  # fmt: skip
    columns = ("claim", "the source says", "as stated", "at scale", "the scale",
               "effect, 95 % interval", "after Holm", "shown in")  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def comparisons_sentence(verdicts: Sequence[Verdict]) -> str:
    """How many comparisons the ledger rests on, and what Holm's correction for them changes."""
    changed = [v.claim.id for v in verdicts if v.scaled.p and v.corrected != v.scaled.verdict]
    count = verdicts[0].comparisons
    what = f"changes {', '.join(changed)}" if changed else "changes no verdict"
    return f"The ledger rests on {count} comparisons; Holm's correction for their number {what}."


def rules_frame() -> pd.DataFrame:
    """How each claim is judged: what is measured for it, and the rule."""
    rows = [(claim.id, claim.quantity, claim.rule.says) for claim in CLAIMS]
    return pd.DataFrame(rows, columns=("claim", "measured for it", "it holds if"))


def _in_words(found: Finding) -> str:
    """A verdict with its reason: `undecided: 1 seed, 3 needed; points towards the claim`."""
    reason = found.reason
    if found.verdict == UNDECIDED and found.seeds >= MIN_SEEDS:
        reason = "inconclusive"
    elif found.verdict == UNDECIDED:
        towards = {HOLDS: "towards the claim", FAILS: "against the claim"}
        way = towards.get(found.leaning, "neither way")
        reason = f"{count_seeds(found.seeds)}, {MIN_SEEDS} needed; points {way}"
    return f"{found.verdict}: {reason}" if reason else found.verdict
