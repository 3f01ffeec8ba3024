"""README's numbers, taken from the committed reference report: `python -m labreport.readme` writes them anew."""

import re
from pathlib import Path

import pandas as pd

from labreport.report import results_table
from labreport.results import read_report_results
from labreport.science.summary import results_frame
from simclr_core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "reports/reference"


def blocks(report: Path) -> dict[str, str]:
    """Marker -> Markdown between `<!-- marker:start -->` and `<!-- marker:end -->`."""
    content = read_report_results(report / "results.json")
    if not content["finished"]:
        raise UserError(f"{report} was not finished: make it again")
    origin = next(iter(content["notebooks"].values()))["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    frame = results_frame(content["notebooks"])
    caption = (
        f"Profile `{content['profile']}`, {origin['device']}, threads: {origin['threads']}; {versions}; results of "
        f"commit {content['provenance']['commit'][:12]}. Mean over seeds ± standard deviation; test images, last "
        "epoch. The whole report: `reports/reference/`, which also names the commit of each run."
    )
    name = content["profile"]
    ending = f"```\n{results_table(report)}\n…/reports/{name}/report.html\n…/reports/{name}/report.pdf\n```"
    return {"results": f"{_table(frame)}\n\n{caption}", "last-lines": ending}


def _table(frame: pd.DataFrame) -> str:
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


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
    path.write_text(with_blocks(path.read_text(encoding="utf-8"), blocks(REFERENCE)), encoding="utf-8")
