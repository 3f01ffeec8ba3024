"""One call of run_all.sh from options to report: what to run, on which data, then run it and render."""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from labreport.parameters import notebook_defaults
from labreport.project import Project
from labreport.run.executed import Executed
from labreport.run.plan import (
    Cost,
    PlanFailure,
    PlannedRun,
    costs,
    epochs_to_keep,
    find_planned,
    list_runs,
    plan_runs,
    runs_in_order,
    total_cost,
)
from labreport.run.profiles import Profile, choose_parameters, load_profile, select_notebooks
from labreport.run.progress import Reporter
from labreport.run.runner import Job, execute_notebooks, only_one, stale_notebooks, write_results
from labreport.run.stand_ins import banner, settle_data
from labreport.run.stored_report import StoredReport, read_stored_report
from labreport.workers.pool import Computation, Workers
from labreport.workers.processes import Processes
from labreport.workers.ray_cluster import RayCluster, require_ray
from simclr_core.errors import UserError

Plans = dict[str, list[PlannedRun] | PlanFailure]
GIBIBYTES_A_NOTEBOOK = 3  # measured: a kernel that trains takes up to 1.7 GiB on a CPU


@dataclass(frozen=True)
class Prepared:
    """A job that can start: every option, parameter and data set has been checked."""

    job: Job
    profile: Profile
    source: StoredReport | None = None
    workers: int = 0  # processes that compute the runs before the notebooks; 0: the notebooks do
    ray: str = ""  # the address of the Ray cluster that does


def prepare(project: Project, options: argparse.Namespace) -> Prepared:
    """Check everything that can be checked before anything runs. Raises: UserError."""
    if options.source and (options.fresh or options.data):
        raise UserError("--from renders stored runs: it goes neither with --fresh nor with --data")
    if options.ray:
        require_ray()
    source = read_stored_report(Path(options.source)) if options.source else None
    device = _device(options.device)
    profile = load_profile(project, options.profile or (source and source.profile) or _default_profile(device))
    names = select_notebooks(project, profile, options.only)
    everywhere = {"seeds": options.seeds, "device": options.device}
    recorded = {project.find_notebook(name): values for name, values in source.parameters.items()} if source else {}
    sections = {**profile.sections, **recorded}
    parameters = choose_parameters(
        project,
        sections,
        names,
        {key: value for key, value in everywhere.items() if value is not None},
        options.settings,
    )
    output = project.report(profile.name)
    defaults = {name: notebook_defaults(project.notebook(name)) for name in names}
    jobs = options.jobs or _notebooks_at_a_time({name: defaults[name] | parameters[name] for name in names})
    if source:
        stored = source.fingerprint()
        inputs = {name: {"from": stored} for name in names}
        job = Job(project, parameters, output, source.store, inputs, from_store=True, jobs=jobs)
        return Prepared(job, profile, source)
    settled = settle_data(parameters, defaults, profile.stand_ins, options.require_real_data, project.root)
    inputs = {name: {"data": "+".join(data.fingerprint for data in used)} for name, used in settled.used.items()}
    job = Job(project, settled.parameters, output, project.store, inputs, jobs=jobs)
    return Prepared(job, profile, workers=options.workers or 0, ray=options.ray or "")


def _device(asked: str | None) -> str:
    """The device asked for, or the best one here. Raises: UserError for a CUDA device that is not here."""
    import torch

    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UserError(
            "--device cuda: there is no CUDA GPU that torch can use here; leave it out or give --device cpu"
        )
    return asked if asked in ("cpu", "cuda") else "cuda" if available else "cpu"


def _notebooks_at_a_time(parameters: Mapping[str, Mapping]) -> int:
    """One a core where each asks for one CPU thread (1.2 to 1.4 times faster than one after the other with two threads
    each, and the numbers do not depend on the cores); else one, as on a GPU."""
    trained = [values for values in parameters.values() if "device" in values]
    on_gpu = {"auto": _device("auto"), "cpu": "cpu"}  # and a stored report's "cuda", whether there is one here or not
    if any(on_gpu.get(values["device"]) != "cpu" or values.get("threads") != 1 for values in trained):
        return 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(memory // GIBIBYTES_A_NOTEBOOK)))


def _default_profile(device: str) -> str:
    return "full" if device == "cuda" else "quick"


def print_list(prepared: Prepared) -> int:
    """--list. Returns 1 if a notebook's plan cannot be made, else 0."""
    plans = _plans(prepared.job, list(prepared.job.parameters))
    print(list_runs(plans))
    return int(any(isinstance(plan, PlanFailure) for plan in plans.values()))


def _plans(job: Job, names: list[str]) -> Plans:
    plans: Plans = {}
    for name in names:
        try:
            with _leaving_raises():
                plans[name] = plan_runs(job.project.notebook(name), job.parameters[name], job.store)
        except PlanFailure as failure:
            plans[name] = failure
        except SystemExit as left:
            plans[name] = PlanFailure(f"its setup or plan cell leaves the notebook (SystemExit {left.code or ''})")
    return plans


@contextmanager
def _leaving_raises() -> Iterator[None]:
    """A plan is made in this process: a cell that ends it would end the call, without a report and with any status."""
    leave, os._exit = os._exit, sys.exit
    try:
        yield
    finally:
        os._exit = leave


def run_one(prepared: Prepared, word: str) -> int:
    """`run K`: compute one run of the list, in a worker of its own. Returns 0, or 1 if it failed."""
    job, reporter = prepared.job, Reporter()
    plans = _plans(job, list(job.parameters))
    runs = runs_in_order(plans)
    run = find_planned(word, runs)
    reporter.say(f"run {runs.index(run) + 1} of {len(runs)}: {run.name}{', stored' if run.stored else ''}")
    cost = {run.name: Cost(0.0, 0.0)}  # not timed: nothing but the worker may use the GPU
    workers = Processes(1, run.config.device, reporter)
    return int(bool(Computation(workers, job.store, _epochs_to_keep(plans), cost, reporter).run([run])))


def _epochs_to_keep(plans: Plans) -> dict[str, list[int]]:
    return epochs_to_keep(run for plan in plans.values() if not isinstance(plan, PlanFailure) for run in plan)


def make(prepared: Prepared, fresh: bool = False) -> int:
    """Execute, render, print. Returns 0, or 1 if a notebook or a run before them failed."""
    job, reporter = prepared.job, Reporter()
    with only_one(job.output, reporter):
        _announce(prepared, reporter)
        if fresh:
            _set_runs_aside(job, reporter)
        plans = {} if job.from_store else _plans(job, stale_notebooks(job))
        runs, keep = runs_in_order(plans), _epochs_to_keep(plans)
        workers = _open_workers(prepared, [run for run in runs if not run.stored], reporter)
        cost = costs(runs) if runs and (prepared.profile.estimate or workers) else {}
        if cost:
            reporter.say(total_cost(runs, cost))
        failed_runs = Computation(workers, job.store, keep, cost, reporter).run(runs) if workers else {}
        left = {run.name for run in runs if not run.stored and (not workers or run.name in failed_runs)}
        to_train = {name: sum(run.name in left for run in plan)
                    for name, plan in plans.items() if not isinstance(plan, PlanFailure)}  # fmt: skip
        errors = execute_notebooks(replace(job, keep_epochs=keep), to_train, reporter)
        from labreport.run.report import last_lines, make_report

        reporter.say("rendering the report")
        paths = make_report(job, prepared.profile, errors, prepared.source.provenance if prepared.source else {})
        write_results(job, errors, finished=True)
        reporter.say(last_lines(job.output, prepared.profile.name, paths))
    failed = [name for name, error in errors.items() if error]
    if failed:
        reporter.say(f"failed: {', '.join(failed)}; the report shows where")
    if failed_runs:
        reporter.say(f"failed before the notebooks: {', '.join(failed_runs)}; said above, why")
    return int(bool(failed or failed_runs))


def _open_workers(prepared: Prepared, missing: list[PlannedRun], reporter: Reporter) -> Workers | None:
    """Whoever --workers or --ray asks for, if there is anything to train."""
    if not missing or not (prepared.workers or prepared.ray):
        return None
    device = "cuda" if any(run.config.device == "cuda" for run in missing) else "cpu"
    if prepared.ray:
        return RayCluster(prepared.ray, device, prepared.job.store)
    return Processes(prepared.workers, device, reporter)


def _announce(prepared: Prepared, reporter: Reporter) -> None:
    job, profile = prepared.job, prepared.profile
    reporter.say(f"profile {profile.name}: {', '.join(job.parameters)}")
    if job.from_store:
        reporter.say(f"from the stored runs in {job.store}: nothing is trained, no data are read; "
                     f"the report goes to {job.output}")  # fmt: skip
    if prepared.source and not prepared.source.finished:
        reporter.say("the call that made that report was stopped: it may lack notebooks")
    if warning := banner(job.parameters):
        reporter.say(warning)


def _set_runs_aside(job: Job, reporter: Reporter) -> None:
    """--fresh: move the runs of these notebooks to <store>/.set-aside-<n>/ and forget their executed forms."""
    from labreport.store.runs import writer_lock

    plans = _plans(job, list(job.parameters))
    if failures := [f"{name}: {plan}" for name, plan in plans.items() if isinstance(plan, PlanFailure)]:
        raise UserError(f"--fresh cannot tell which runs to set aside; {'; '.join(failures)}")
    names = sorted({run.name for plan in plans.values() for run in plan if (job.store / run.name).exists()})
    count = 1
    while (aside := job.store / f".set-aside-{count}").exists():
        count += 1
    for name in names:
        aside.mkdir(parents=True, exist_ok=True)
        with writer_lock(job.store, name):
            (job.store / name).rename(aside / name)
    for name in job.parameters:
        Executed(job.output, name).forget()
    reporter.say(f"{len(names)} stored runs set aside in {aside}" if names else "no stored runs to set aside")
