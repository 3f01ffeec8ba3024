"""Notebooks executed and the report made: what has changed is executed, the rest is taken as it was."""

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labreport.environment import read_lock, unlocked
from labreport.parameters import notebook_defaults
from labreport.project import Project, is_summary
from labreport.run.executed import Executed, execution_key
from labreport.run.execution import Execution
from labreport.run.progress import Reporter, Watched
from labreport.scratch import scratch_folder
from labreport.store.files import read_json, write_json
from labreport.store.provenance import provenance
from labreport.text import in_words
from simclr_core.data.files import one_at_a_time

TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Args:
        parameters: notebook -> what papermill injects; its keys are the notebooks, in reading order.
        output: the report's folder. store: the run store.
        inputs: notebook -> whatever else its outputs follow from (fingerprints of data, stored runs); JSON types.
        from_store: nothing is trained and no data are read.
        jobs: notebooks at a time.
        keep_epochs: run -> epochs whose encoders are kept, for whichever notebook trains it.
    """

    project: Project
    parameters: dict[str, dict[str, Any]]
    output: Path
    store: Path
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    from_store: bool = False
    jobs: int = 1
    keep_epochs: dict[str, list[int]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What kernels and in-process plans find in their environment, beside this process's own."""
        return {"LABREPORT_OUTPUT": str(self.output), "SIMCLR_RUNS": str(self.store),
                "LABREPORT_KEEP": json.dumps(self.keep_epochs),
                **({"LABREPORT_FROM": "1"} if self.from_store else {})}  # fmt: skip

    def kernel_environment(self, name: str, progress_file: Path) -> dict[str, str]:
        """All variables of one notebook's kernel; the inline backend draws, whatever MPLBACKEND says outside."""
        inherited = {key: value for key, value in os.environ.items() if key not in ("MPLBACKEND", "LABREPORT_FROM")}
        threads = (notebook_defaults(self.project.notebook(name)) | self.parameters[name]).get("threads")
        limit = {"OMP_NUM_THREADS": str(threads)} if isinstance(threads, int) and threads > 0 else {}
        return {**inherited, **limit, **self.environment, "LABREPORT_PROGRESS": str(progress_file)}


@contextmanager
def only_one(output: Path, reporter: Reporter) -> Iterator[None]:
    """One run_all.sh at a time on a report's folder; the others wait and say so. A dead one's lock is free."""
    output.mkdir(parents=True, exist_ok=True)
    busy = f"another run_all.sh is at work on {output}: waiting for it to end"
    with one_at_a_time(output / ".lock", busy, reporter.say):
        yield


def execute_notebooks(job: Job, runs_to_train: Mapping[str, int], reporter: Reporter) -> dict[str, str]:
    """Execute what is not current, the summary last and alone.

    Args:
        runs_to_train: notebook -> number of runs, for the progress line; missing where not known.
    Returns: notebook -> "" or the error that stopped it. A failing notebook does not stop the others.
    """
    for stale in (job.output / "results").glob("*.json"):
        stale.unlink()
    errors: dict[str, str] = {}
    with scratch_folder() as scratch:
        for last in (False, True):
            names = [name for name in job.parameters if is_summary(name) == last]
            write_results(job, errors)
            keys = {name: _key(job, name, errors if last else {}) for name in names}
            changed = {}
            for name in names:
                if Executed(job.output, name).is_current(keys[name]):
                    Executed(job.output, name).restore_results()
                    reporter.say(f"{name}: unchanged, executed before")
                    errors[name] = ""
                else:
                    changed[name] = _watched(job, name, scratch, runs_to_train.get(name, 0))
            errors |= _execute_all(job, changed, keys, reporter)
        write_results(job, errors)
    return {name: errors[name] for name in job.parameters}


def stale_notebooks(job: Job) -> list[str]:
    """Those that will be executed for certain: the summary is not judged before the others are done."""
    names = [name for name in job.parameters if not is_summary(name)]
    return [name for name in names if not Executed(job.output, name).is_current(_key(job, name, {}))]


def _key(job: Job, name: str, errors: Mapping[str, str]) -> str:
    """The summary also follows from the others' results, from which of them failed, and from what is installed."""
    others = {}
    if is_summary(name):
        others = {"errors": errors, "results": merged_results(job.output), "unlocked": unlocked(read_lock())}
    return execution_key(job.project.notebook(name), job.parameters[name], **job.inputs.get(name, {}), **others)


def _watched(job: Job, name: str, scratch: Path, runs_to_train: int) -> Watched:
    events = scratch / f"{name}.events"
    environment = job.kernel_environment(name, events)
    source, target = job.project.notebook(name), Executed(job.output, name).path
    results = None if is_summary(name) else Executed(job.output, name).results
    execution = Execution(source, target, job.parameters[name], environment, scratch, results)
    return Watched(name, execution, events, runs_to_train)


def _execute_all(
    job: Job, watched: Mapping[str, Watched], keys: Mapping[str, str], reporter: Reporter
) -> dict[str, str]:
    """Execute job.jobs notebooks at a time, keep each that is complete; on Ctrl-C stop the kernels first."""
    errors: dict[str, str] = {}
    with ThreadPoolExecutor(job.jobs) as pool:
        futures = {pool.submit(each.execution.run): each for each in watched.values()}
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, TICK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    name, error = futures[future].name, future.result()
                    Executed(job.output, name).conclude(keys[name], error)
                    seconds = in_words(futures[future].execution.seconds)
                    reporter.say(
                        f"{name}: " + (f"failed after {seconds}: {error}" if error else f"executed in {seconds}")
                    )
                    errors[name] = error
                reporter.update([futures[future] for future in pending if futures[future].execution.cells])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while pending := {future for future in pending if not future.done()}:
                for future in pending:
                    futures[future].execution.stop()
                wait(pending, TICK_SECONDS)
            raise
    return errors


def merged_results(output: Path) -> dict[str, dict]:
    """Notebook -> its results JSON, seeds as text. Raises: StoreError for a damaged file."""
    paths = sorted((output / "results").glob("[!.]*.json"))
    return {path.stem: read_json(path) for path in paths}


def write_results(job: Job, errors: Mapping[str, str], finished: bool = False) -> None:
    """`<output>/results.json`: every notebook's results, which notebooks failed, profile and provenance.

    Written before the notebooks and the summary, too, which finds there what failed; `finished` once there is a report
    of it, so that what a call leaves that was stopped says so.
    """
    failed = {name: error for name, error in errors.items() if error}
    content = {"notebooks": merged_results(job.output), "failed": failed, "finished": finished,
               "profile": job.output.name, "provenance": provenance()}  # fmt: skip
    write_json(job.output / "results.json", content)
