"""README's headline, computed from the committed report: `python -m labreport.tools.readme` writes it.

A row a data set: test accuracy of a classifier on an untrained encoder and on SimCLR's, and of the
same network trained on the labels alone.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from labreport.results import read_report_results
from labreport.science.statistics import interval_of_mean
from labreport.science.summary import measured
from simclr_core.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "reports/reference-quick"

HEADINGS = ("test accuracy (%)", "untrained encoder", "SimCLR", "supervised", "n")
HEADLINES = {
    "MNIST as in the lab report [R2]{reduced}: one hidden layer on top, {labels:,} labels": (
        "mnist.random.hidden.1part", "mnist.r2.hidden.1part", "mnist.supervised.1part",
    ),
    "CIFAR-10 as in the CIFAR-10 report [R1]{reduced}: linear classifier on top": (
        "cifar.aug.random.linear", "cifar.aug.strong.linear", "cifar.aug.supervised.whole_network",
    ),
}  # fmt: skip


def blocks(report: Path) -> dict[str, str]:
    """Marker -> Markdown between `<!-- marker:start -->` and `<!-- marker:end -->`.

    Raises: UserError if the report is unfinished, damaged or lacks one of the numbers.
    """
    content = read_report_results(report / "results.json")
    if not content["finished"]:
        raise UserError(f"{report} was not finished: make it again")
    entries = measured(content["notebooks"])
    if missing := [key for keys in HEADLINES.values() for key in keys if key not in entries]:
        raise UserError(f"{report} lacks {', '.join(missing)}: make it again with all notebooks")
    rows = [HEADINGS, ["---"] * len(HEADINGS)]
    rows += [_row(text, [entries[key] for key in keys]) for text, keys in HEADLINES.items()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    made = f"Profile `{content['profile']}`, commit {content['provenance']['commit'][:12]}"
    caption = (f"{made}. Means over n seeds with 95 % intervals (Student’s t), on the test images "
               "after the last epoch.")  # fmt: skip
    return {"headline": f"{table}\n\n{caption}"}


def _row(text: str, entries: list[Mapping]) -> list[str]:
    parameters, (data, *_) = entries[0]["parameters"], entries[0]["data"]
    labels = data["train"] // parameters.get("parts", 1)
    reduced = entries[0]["reduced"] and f", cut down ({entries[0]['reduced']})"
    means = [interval_of_mean(entry["values"]) for entry in entries]
    sizes = dict.fromkeys(str(mean.n) for mean in means)
    cells = [_cell(mean) for mean in means]
    return [text.format(labels=labels, reduced=reduced), *cells, ", ".join(sizes)]


def _cell(mean) -> str:
    """`95.1 (94.7 to 95.5)`, or the mean alone where one seed has no interval."""
    interval = f" ({100 * mean.low:.1f} to {100 * mean.high:.1f})" if mean.n > 1 else ""
    return f"{100 * mean.mean:.1f}{interval}"


def with_blocks(text: str, new: dict[str, str]) -> str:
    """The text with each block replaced. Raises: ValueError if a marker is missing."""
    for marker, content in new.items():
        pattern = rf"(<!-- {marker}:start -->\n).*?(<!-- {marker}:end -->)"
        text, found = re.subn(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text, flags=re.S)
        if found != 1:
            raise ValueError(f"README.md has {found} blocks {marker!r}, expected 1")
    return text


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = with_blocks(path.read_text(encoding="utf-8"), blocks(REFERENCE))
    path.write_text(text, encoding="utf-8")
