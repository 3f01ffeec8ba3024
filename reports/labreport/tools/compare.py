"""`./run_all.sh compare A B`: what differs between two finished reports, which numbers moved, is that beyond noise.

Noise is half the width of Welch's 95 % t-interval of B - A. Seeds are not paired here, unlike within a report: another
device, number of threads, version or commit may draw other weights and views from the same seed, and results.json
cannot show that it did not. Where seeds do go together the interval is too wide rather than too narrow, so that a
small move in every seed may count as within noise. Times get no verdict: they follow from the machine and its load.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from labreport.science.statistics import CONFIDENCE, MINUS, Seeded, summarise, unpaired_difference
from labreport.text import align_columns, clean_terminal_text, wrap_lines
from labreport.tools.finished_report import Entry, FinishedReport, explain, read_finished_report

VERDICTS = BEYOND, CANNOT_TELL, WITHIN, SAME = "beyond noise", "cannot tell", "within noise", "same"
SEEDS_NEEDED = 3  # on each side, as for a claim's verdict
ROUNDING = 1e-9  # a smaller move, relative to 1 or the mean, is the order of a sum, even where no seed differs
COLUMNS = 110  # of the terminal
NAMES_SHOWN = 8  # of measures that one report alone has; more are counted
SHOWN = {"fraction": (100, 2, "%"), "score": (1, 3, "score"), "seconds": (1, 3, "s")}  # unit -> factor, digits, name

Entries = Mapping[str, Entry]


def judge(a: Seeded, b: Seeded) -> str:
    """One of VERDICTS; SAME is equality to the bit in every seed that both have, at least one."""
    shared = a.keys() & b.keys()
    if shared and all(a[seed] == b[seed] for seed in shared):
        return SAME
    if min(len(a), len(b)) < SEEDS_NEEDED:
        return CANNOT_TELL
    if math.isclose(summarise(a).mean, summarise(b).mean, rel_tol=ROUNDING, abs_tol=ROUNDING):
        return WITHIN
    move = unpaired_difference(b, a)
    return BEYOND if move.low > 0 or move.high < 0 else WITHIN


def compare_reports(given_a: str, given_b: str) -> str:
    """The comparison as text, no line wider than COLUMNS. Raises: UserError if a report cannot be read."""
    a, b = read_finished_report(given_a), read_finished_report(given_b)
    lines = [f"A: {given_a}", f"B: {given_b}", "", "What differs", *explain(a, b), "", *_moves(a, b)]
    lines += [*_times(a.measures, b.measures), *_one_sided(a, b)]
    wrapped = wrap_lines(clean_terminal_text("\n".join(lines)), COLUMNS)
    return "\n".join(line.rstrip() for line in wrapped.split("\n"))


def _common(a: Entries, b: Entries, times: bool = False) -> list[str]:
    """Keys that both have, in the same unit."""
    return [key for key in a if key in b and a[key].unit == b[key].unit and (a[key].unit == "seconds") == times]


def _moves(a: FinishedReport, b: FinishedReport) -> Iterator[str]:
    verdicts = {key: judge(a.measures[key].values, b.measures[key].values) for key in _common(a.measures, b.measures)}
    deviations = {key: _deviation(a.series[key], b.series[key]) for key in _common(a.series, b.series)}
    yield from _totals(a, b, verdicts, deviations)
    for notebook in a.facts:
        rows = [
            (VERDICTS.index(verdict), *_row(key, a.measures[key], b.measures[key], verdict))
            for key, verdict in verdicts.items()
            if verdict != SAME and a.measures[key].notebook == notebook
        ]
        head = ("measure", "A", "B", f"B {MINUS} A", "noise", "unit", "n", "verdict")
        table = align_columns([head, *(cells for *_, cells in sorted(rows))]) if rows else []
        series = [
            [f"series {key}", text] for key, text in deviations.items() if text and a.series[key].notebook == notebook
        ]
        if rows or series:
            yield from ["", notebook, *table, *(align_columns(series) if series else [])]


def _totals(
    a: FinishedReport, b: FinishedReport, verdicts: Mapping[str, str], deviations: Mapping[str, str]
) -> Iterator[str]:
    count, moved = Counter(verdicts.values()), sum(map(bool, deviations.values()))
    if not verdicts and not deviations:
        yield "No number is in both reports"
    elif len(verdicts) == count[SAME] and not moved:
        yield f"Nothing moved: {len(verdicts)} measures and {len(deviations)} series in both are the same to the bit"
    else:
        yield "What moved"
        yield f"  of {len(verdicts)} measures: {', '.join(f'{count[verdict]} {verdict}' for verdict in VERDICTS)}"
        yield f"  of {len(deviations)} series, a number an epoch: {moved} differ, {len(deviations) - moved} same"
        yield f"  noise: half the width of the 95 % interval of B {MINUS} A (Welch); % moves by percentage points"
    same = [key for key, verdict in verdicts.items() if verdict == SAME]
    if partial := sum(a.measures[key].values.keys() != b.measures[key].values.keys() for key in same):
        yield f"  {partial} of the same ones by the seeds that both reports have; one report has more"
    if judged := count[BEYOND] + count[WITHIN]:
        yield (f"  beyond noise: {count[BEYOND]} seen; about {(1 - CONFIDENCE) * judged:.1f} expected by chance alone, "
               f"had nothing changed ({100 * (1 - CONFIDENCE):.0f} % of the {judged} judged)")  # fmt: skip
        yield "  (fewer where both drew the same from a seed; in groups, as measures of one encoder move together)"
    if count[CANNOT_TELL]:
        yield f"  cannot tell: fewer than {SEEDS_NEEDED} seeds on a side; ./run_all.sh --seeds 0,1,2 adds seeds"


def _row(key: str, a: Entry, b: Entry, verdict: str) -> tuple[float, list[str]]:
    """What a row is sorted by after its verdict, and its cells."""
    factor, digits, unit = SHOWN.get(a.unit, (1, 3, a.unit))
    move, n = unpaired_difference(b.values, a.values), (len(a.values), len(b.values))
    noise = "" if verdict == CANNOT_TELL else f"{factor * (move.high - move.mean):.{digits}f}"
    means = [summarise(side.values).text(factor, digits) for side in (a, b)]
    seeds = f"{n[0]}" if n[0] == n[1] else f"{n[0]}, {n[1]}"
    return -abs(move.mean), [key, *means, _signed(factor * move.mean, digits), noise, unit, seeds, verdict]


def _signed(value: float, digits: int) -> str:
    """With a sign; a move too small for the digits with its power of ten."""
    text = f"{value:+.{digits}f}" if abs(value) >= 0.5 * 10**-digits or not value else f"{value:+.0e}"
    return text.replace("-", MINUS)


def _deviation(a: Entry, b: Entry) -> str:
    """The largest deviation in the seeds that both have; empty where they are the same to the bit."""
    shared = sorted(a.values.keys() & b.values.keys())
    if not shared:
        return "no seed in common"
    if all(a.values[seed] == b.values[seed] for seed in shared):
        return ""
    factor, digits, unit = SHOWN.get(a.unit, (1, 3, a.unit))
    largest, seed, epoch = max(
        (abs(after - before), seed, epoch)
        for seed in shared
        for epoch, (before, after) in enumerate(zip(a.values[seed], b.values[seed], strict=False), start=1)
    )
    lengths = sorted({(len(a.values[seed]), len(b.values[seed])) for seed in shared})
    other = "".join(f"; {m} against {n} epochs" for m, n in lengths if m != n)
    text = _signed(factor * largest, digits).lstrip("+")
    if not largest:
        return f"the same as far as both go{other}"
    return f"differs by up to {text} {'points' if unit == '%' else unit} (seed {seed}, epoch {epoch}){other}"


def _times(a: Entries, b: Entries) -> Iterator[str]:
    rows = []
    for key in _common(a, b, times=True):
        before, after = summarise(a[key].values), summarise(b[key].values)
        if a[key].values != b[key].values:
            ratio = f"{after.mean / before.mean:.2f}" if before.mean else ""
            rows.append([key, before.text(digits=3), after.text(digits=3), ratio])
    if rows:
        yield from ["", "Times, without a verdict: they follow from the machine and its load"]
        yield from align_columns([["measure", "A (s)", "B (s)", "B / A"], *rows])


def _one_sided(a: FinishedReport, b: FinishedReport) -> Iterator[str]:
    sides = [(kind, *side) for kind in ("measures", "series") for side in (("A", a, b), ("B", b, a))]
    for kind, letter, report, other in sides:
        here, there = getattr(report, kind), getattr(other, kind)
        alone = [key for key in here if key not in there or here[key].unit != there[key].unit]
        names = [f"{key} (in {here[key].unit})" if key in there else key for key in alone]
        if len(names) > NAMES_SHOWN:
            count = Counter(here[key].notebook for key in alone)
            names = [f"{n} of {notebook}" for notebook, n in count.items()]
        if names:
            yield from ["", f"{kind} in {letter} only: {', '.join(names)}"]
