"""A finished report's results.json, read to be compared: its numbers, and what is recorded of how they were made."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from labreport.results import read_report_results
from simclr_core.errors import UserError

SAID_ELSEWHERE = ("reduced", "stand_in_for", "threads")  # parameters that results.json also holds as facts of their own


class Entry(NamedTuple):
    """A measure (values: seed -> number) or a series (seed -> list of numbers, one an epoch)."""

    notebook: str
    unit: str
    values: dict[int, Any]


@dataclass(frozen=True)
class FinishedReport:
    """Measures and series by key. facts: notebook -> label -> text; failed: notebook -> what stopped it; finished:
    whether the call that made it came to its end."""

    profile: str
    finished: bool
    failed: dict[str, str]
    facts: dict[str, dict[str, str]]
    measures: dict[str, Entry]
    series: dict[str, Entry]


def read_finished_report(given: str) -> FinishedReport:
    """A report's folder, or its results.json. Raises: UserError in one line that names it; OSError."""
    path = Path(given) / "results.json" if Path(given).is_dir() else Path(given)
    if not path.is_file():
        missing = "it holds no results.json" if Path(given).is_dir() else "no such file or folder"
        raise UserError(
            f"report {given!r}: {missing}; give a report's folder such as reports/quick, or its results.json"
        )
    content = read_report_results(path)
    try:
        notebooks = content["notebooks"]
        return FinishedReport(
            str(content["profile"]),
            bool(content["finished"]),
            {name: " ".join(error.split()) for name, error in content["failed"].items()},
            {name: _facts(result) for name, result in notebooks.items()},
            _entries(notebooks, "measures", _number),
            _entries(notebooks, "series", lambda row: [_number(value) for value in row]),
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path} is damaged ({reason}); copy the report anew or make it again") from error


def _entries(notebooks: Mapping[str, Mapping], kind: str, read: Callable) -> dict[str, Entry]:
    entries = {}
    for name, result in notebooks.items():
        for key, entry in result.get(kind, {}).items():
            values = {int(seed): read(value) for seed, value in entry["values"].items()}
            if not values or [] in values.values():
                raise ValueError(f"{key} has no value")
            entries[key] = Entry(name, str(entry["unit"]), values)
    return entries


def _number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} in place of a finite number")
    return float(value)


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    made, parameters = result.get("provenance", {}), result.get("parameters", {})
    data = [
        f"{record['name']} {record['fingerprint'][:12]}"
        + (f" in place of {record['stand_in_for']}" if record.get("stand_in_for") else "")
        for record in result.get("data", [])
    ]
    facts = {
        "commit": made.get("commit", "unknown")[:12] + (" with uncommitted changes" if made.get("dirty") else ""),
        "device": made.get("device", "unknown"),
        "threads": made.get("threads", "unknown"),
        **made.get("versions", {}),
        "data": "; ".join(data) or "none",
        "reduced setting": result.get("reduced") or "none",
        **{f"parameter {name}": parameters[name] for name in sorted(parameters) if name not in SAID_ELSEWHERE},
    }
    return {label: str(value) for label, value in facts.items()}


def explain(a: FinishedReport, b: FinishedReport) -> list[str]:
    """What is recorded and may explain a difference, a line each; notebooks are named unless it holds for all of both.

    Uncommitted changes are named even where both have them: the commit does not say what ran.
    """
    both = [name for name in a.facts if name in b.facts]
    found = {("profile", a.profile, b.profile): both} if a.profile != b.profile else {}
    for label in dict.fromkeys(label for name in both for label in (*a.facts[name], *b.facts[name])):
        for name in both:
            before, after = (report.facts[name].get(label, "none") for report in (a, b))
            if before != after or (label == "commit" and "uncommitted" in before):
                found.setdefault((label, before, after), []).append(name)
    width = max((len(label) for label, *_ in found), default=0)
    lines = [
        f"  {label:<{width}}  {before} -> {after}" + (f"  ({', '.join(names)})" if names != both else "")
        for (label, before, after), names in found.items()
    ]
    lines += [f"  {letter} is not finished: the call that made it was stopped"
              for letter, report in (("A", a), ("B", b)) if not report.finished]  # fmt: skip
    for name in sorted({*a.facts, *b.facts, *a.failed, *b.failed}):
        for letter, report in (("A", a), ("B", b)):
            if name in report.failed:
                lines.append(f"  {name} failed in {letter}: {report.failed[name]}")
            elif name not in report.facts and (name in a.facts or name in b.facts):
                lines.append(f"  {name} has no results in {letter}: it was left out there")
    return lines or ["  nothing that is recorded: profile, commit, device, versions, data, parameters are the same"]
