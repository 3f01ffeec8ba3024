"""The runs that notebooks would make, known before anything is trained: `--list`, --fresh and the progress line.

A notebook's cells tagged parameters, setup and plan are executed here, in this process; they leave `plan` (name ->
PretrainConfig), `seeds` and `data` (name -> data set, where there are several) behind, and `keep_epochs` where encoders
of earlier epochs are wanted too.
"""

import difflib
import io
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labreport.parameters import data_of, has_tag, read_notebook
from labreport.project import working_in
from labreport.text import in_words
from simclr_core.errors import UserError

TAGS = ("parameters", "setup", "plan")


class PlanFailure(Exception):
    """A notebook's own code fails before its plan is made: its execution will show the same."""


@dataclass(frozen=True)
class PlannedRun:
    """A pre-training run that a notebook asks for; `name` is its folder in the run store, `keep` the epochs whose
    encoders it wants."""

    name: str
    config: Any
    data: Any
    stored: bool
    keep: tuple[int, ...] = ()


def plan_runs(path: Path, parameters: Mapping[str, Any], store: Path) -> list[PlannedRun]:
    """Every run of the notebook, one for each entry of its plan and each seed, none twice; [] without a plan cell.

    Raises: UserError for values that no run can be made with; PlanFailure if the notebook's code is at fault.
    """
    cells = [cell for cell in read_notebook(path).cells if any(has_tag(cell, tag) for tag in TAGS)]
    if not any(has_tag(cell, "plan") for cell in cells):
        return []
    from labreport.store.identity import run_name
    from labreport.store.runs import find_run

    runs = {}
    with working_in(path.parent):
        namespace = _execute(path.stem, cells, parameters)
        for config in namespace["plan"].values():
            data = data_of(config, namespace["data"])
            for seeded in (replace(config, seed=seed) for seed in namespace["seeds"]):
                name = run_name(seeded, data)
                stored = find_run(seeded, data, store) is not None
                keep = tuple(epoch for epoch in namespace.get("keep_epochs", ()) if epoch < seeded.epochs)
                runs[name] = PlannedRun(name, seeded, data, stored, keep)
    return list(runs.values())


def _execute(name: str, cells: list, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The namespace after the cells; papermill's values come after the cell tagged parameters."""
    namespace: dict[str, Any] = {"__name__": "__main__", "display": lambda *_, **__: None}
    for cell in cells:
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                exec(compile(cell.source, f"{name}.ipynb", "exec"), namespace)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        except Exception as error:
            if isinstance(error, ValueError) and has_tag(cell, "plan"):
                raise UserError(f"{name}: {error}") from error
            raise PlanFailure(f"{type(error).__name__}: {error}") from error
        if has_tag(cell, "parameters"):
            namespace |= parameters
    if missing := {"plan", "seeds", "data"} - namespace.keys():
        raise PlanFailure(f"its setup and plan cells define no {' and no '.join(sorted(missing))}")
    return namespace


def epochs_to_keep(runs: Iterable[PlannedRun]) -> dict[str, list[int]]:
    """Run name -> epochs whose encoders some notebook wants: whoever trains the run first keeps them for all."""
    keep: dict[str, set[int]] = {}
    for run in runs:
        if run.keep:
            keep.setdefault(run.name, set()).update(run.keep)
    return {name: sorted(epochs) for name, epochs in keep.items()}


@dataclass(frozen=True)
class Cost:
    """Of runs that are not stored yet."""

    petaflop: float
    seconds: float


NETWORK = ("encoder", "width", "stem", "precision", "device", "micro_batch")  # what a step's FLOP/s depend on


def costs(runs: Iterable[PlannedRun]) -> dict[str, Cost]:
    """Run name -> cost here. A few steps of each network are timed; runs of the same network go by their FLOP."""
    from labreport.run.cost import estimate_seconds, pretrain_flops

    rates: dict[tuple, float] = {}  # FLOP/s
    answer = {}
    for run in runs:
        flop, seconds = pretrain_flops(run.config, run.data), 0.0
        if flop and not run.stored:
            network = (*(getattr(run.config, field) for field in NETWORK), run.data.fingerprint)
            if network not in rates:
                rates[network] = flop / estimate_seconds(run.config, run.data)
            seconds = flop / rates[network]
        answer[run.name] = Cost(flop / 1e15, seconds)
    return answer


def list_runs(plans: Mapping[str, list[PlannedRun] | PlanFailure]) -> str:
    """The text of --list: each notebook's runs with their numbers, stored or not, PFLOP and minutes here; totals count
    a run once."""
    once = runs_in_order(plans)
    numbers = {run.name: k for k, run in enumerate(once, 1)}
    cost = costs(once)
    width, digits = max(map(len, numbers), default=0), len(str(len(once)))
    lines, seen = [], set()
    for notebook, runs in plans.items():
        lines.append(notebook)
        if isinstance(runs, PlanFailure):
            lines.append(f"  no plan: {runs}")
            continue
        for run in runs:
            state = "stored" if run.stored else "shared, above" if run.name in seen else "to train"
            minutes = f"{cost[run.name].seconds / 60:8.1f} min" if state == "to train" else ""
            named = f"  {numbers[run.name]:>{digits}}  {run.name:<{width}}  {state:<13}"
            lines.append(f"{named} {cost[run.name].petaflop:10.4f} PFLOP {minutes}".rstrip())
            seen.add(run.name)
        lines += [] if runs else ["  no runs of its own"]
    return "\n".join([*lines, total_cost(once, cost)])


def runs_in_order(plans: Mapping[str, list[PlannedRun] | PlanFailure]) -> list[PlannedRun]:
    """Each run once, where it comes first: its place, counted from 1, is its number in --list."""
    once: dict[str, PlannedRun] = {}
    for runs in plans.values():
        for run in [] if isinstance(runs, PlanFailure) else runs:
            once.setdefault(run.name, run)
    return list(once.values())


def find_planned(word: str, runs: list[PlannedRun]) -> PlannedRun:
    """The run meant by its number in --list or its folder's name. Raises: UserError."""
    if word.isdecimal():
        if not 1 <= int(word) <= len(runs):
            raise UserError(f"run {word}: the list has {len(runs)} runs, counted from 1; --list numbers them")
        return runs[int(word) - 1]
    by_name = {run.name: run for run in runs}
    if word not in by_name:
        near = difflib.get_close_matches(word, by_name, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"run {word}: not in the list{hint}; --list with the same options names and numbers them")
    return by_name[word]


def total_cost(runs: Iterable[PlannedRun], cost: Mapping[str, Cost]) -> str:
    """ "12 runs, 4 stored, 8 to train: 0.31 PFLOP, about 9 min of pre-training here"."""
    runs = list(runs)
    to_train = [cost[run.name] for run in runs if not run.stored]
    work = f"{sum(c.petaflop for c in to_train):.4g} PFLOP, about {in_words(sum(c.seconds for c in to_train))}"
    return (f"{len(runs)} runs, {len(runs) - len(to_train)} stored, {len(to_train)} to train: "
            f"{work} of pre-training here")  # fmt: skip
