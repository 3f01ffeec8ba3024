"""The finished report: sections and title page for the exporters, the results table for the terminal."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from labreport.parameters import read_notebook
from labreport.project import is_summary
from labreport.render.exporters import Front, Section, render
from labreport.results import read_report_results
from labreport.run.executed import Executed
from labreport.run.execution import failed_form
from labreport.run.profiles import Profile
from labreport.run.runner import Job
from labreport.run.stand_ins import banner
from labreport.science.summary import results_frame
from labreport.text import align_columns

DEFAULT_TITLE = "SimCLR: a lab report that rebuilds itself"


def make_report(
    job: Job, profile: Profile, errors: Mapping[str, str], recorded: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Render report.html and report.pdf from the executed notebooks; returns their paths.

    Args:
        errors: notebook -> "" or what stopped it, in reading order.
        recorded: provenance of a report whose stored runs are rendered (--from), or {}.
    """
    from labreport.store.provenance import provenance

    here = provenance()
    unknown = here["commit"] == "unknown"
    sections = [_section(job, name, error) for name, error in errors.items()]
    front = Front(
        title=profile.title or DEFAULT_TITLE,
        abstract_markdown=_abstract(sections),
        banner=banner(job.parameters),
        facts=_facts(job, profile, here, dict(recorded)),
        dirty=here["dirty"] or unknown,
    )
    return render(sections, front, job.output)


def _section(job: Job, name: str, error: str) -> Section:
    executed = Executed(job.output, name).path
    path = failed_form(executed) if error else executed
    return Section(name, path if path.is_file() else None, error or None)


def _abstract(sections: list[Section]) -> str:
    """The Markdown output that the summary marks with metadata {"labreport": {"abstract": true}}; "" without one."""
    for section in sections:
        if is_summary(section.name) and section.path is not None:
            for cell in read_notebook(section.path).cells:
                for output in cell.get("outputs", []):
                    if output.get("metadata", {}).get("labreport", {}).get("abstract"):
                        return "".join(output["data"].get("text/markdown", ""))
    return ""


def _facts(job: Job, profile: Profile, here: dict, recorded: dict) -> dict[str, str]:
    """The title page's facts; those of the runs where the runs were made elsewhere."""
    made = recorded or here
    commit = "not under version control" if made["commit"] == "unknown" else made["commit"][:12]
    facts = {
        "Profile": f"{profile.name}: {profile.description}" if profile.description else profile.name,
        "Commit": f"{commit} (with uncommitted changes)" if made["dirty"] else commit,
        "Device": made["device"],
        "Versions": ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
        "Data": "; ".join(_data_sources(job.output)) or "none",
    }
    seeds = ",".join(map(str, next((p["seeds"] for p in job.parameters.values() if "seeds" in p), [])))
    facts["Run it again"] = f"./run_all.sh --profile {profile.name}" + (f" --seeds {seeds}" if seeds else "")
    if job.from_store:
        facts["Rendered from"] = f"stored runs made elsewhere; no data were read; by commit {here['commit'][:12]}"
    return facts


def _data_sources(output: Path) -> list[str]:
    """One line per data set that the notebooks' results name, in order."""
    content = read_report_results(output / "results.json")
    records = [record for result in content["notebooks"].values() for record in result.get("data", [])]
    return list(dict.fromkeys(f"{record['name']} ({record['source']})" for record in records))


def last_lines(output: Path, profile: str, paths: Iterable[Path]) -> str:
    """What a call ends with: the main results and where the report is; smoke says what it was."""
    lines = [results_table(output), *map(str, paths)]
    if profile == "smoke":
        lines.append(
            "This was a check that everything runs, not a result: small pictures, a few epochs. "
            "For results: ./run_all.sh --profile quick"
        )
    return "\n".join(lines)


def results_table(output: Path) -> str:
    """The summary's main results as text, columns aligned; a hint at results.json where there are none."""
    content = read_report_results(output / "results.json")
    frame = results_frame(content["notebooks"])[["quantity", "accuracy (%)", "n", "data", "setting"]]
    if frame.empty:
        return f"  no main result among these notebooks; every measure is in {output / 'results.json'}"
    rows = [list(frame.columns), *frame.astype(str).values.tolist()]
    return "\n".join(align_columns(rows))
