"""Profiles: one YAML file each in notebooks/profiles, overriding the notebooks' own default parameters.

    report: {title: …, description: …, notebooks: [01, 05, 99], stand_ins: {mnist: digits}, estimate: true}
    01_mnist_study: {epochs: 10, seeds: [0]}

`report` is optional: `notebooks` gives the reading order (default: all), `stand_ins` the data sets that take the place
of missing ones, and with `estimate` the cost is printed before anything is trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from labreport.parameters import conform, notebook_defaults, parse_value
from labreport.project import Project, unknown
from simclr_core.errors import UserError

DEEPEST = 20  # levels of lists and mappings; a profile has three
REPORT_KEYS = {"title": "", "description": "", "notebooks": ["01"], "stand_ins": {}, "estimate": False}


@dataclass(frozen=True)
class Profile:
    """sections: notebook -> parameter -> value, as the file has them; `choose_parameters` checks them."""

    name: str
    notebooks: tuple[str, ...]  # in reading order
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    title: str = ""
    description: str = ""
    stand_ins: dict[str, str] = field(default_factory=dict)
    estimate: bool = False


def load_profile(project: Project, name: str) -> Profile:
    """Raises: UserError for an unknown profile, notebook or key, and for YAML that is not a plain mapping."""
    if name not in project.profile_names():
        raise unknown("profile", name, project.profile_names())
    path = project.profiles / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_bombs(text)
        content = yaml.safe_load(text) or {}
    except Exception as error:  # PyYAML raises many kinds on values that it cannot make
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path.name} is not plain YAML: {reason}") from error
    content = _mapping(content, path.name)
    report = _mapping(content.pop("report", None), f"{path.name}, report")
    for key, value in report.items():
        if key not in REPORT_KEYS:
            raise unknown(f"key in {path.name}, report", str(key), REPORT_KEYS)
        if key != "notebooks":
            conform(value, REPORT_KEYS[key], f"{path.name}, report.{key}")
    for wanted, used in report.get("stand_ins", {}).items():
        if not (isinstance(wanted, str) and isinstance(used, str)):
            raise UserError(f"{path.name}, report.stand_ins: expected names such as mnist: digits, found "
                            f"{wanted!r}: {used!r}")  # fmt: skip
    names = report.pop("notebooks", None)
    if names is not None and not isinstance(names, list):
        raise UserError(
            f"{path.name}, report.notebooks is {names!r}, expected a list of notebooks such as ['01', '99']"
        )
    names = project.notebook_names() if names is None else [project.find_notebook(str(text)) for text in names]
    sections = {
        project.find_notebook(str(key)): _mapping(value, f"{path.name}, {key}") for key, value in content.items()
    }
    return Profile(name, tuple(names), sections, **report)


def _refuse_bombs(text: str) -> None:
    """Raises: ValueError for aliases (a few lines of them fill the memory) and for deep nesting (minutes to read)."""
    depth = 0
    for token in yaml.scan(text):
        kind = type(token).__name__
        depth += kind.endswith("StartToken") - kind.endswith("EndToken")
        if isinstance(token, yaml.AliasToken) or depth > DEEPEST:
            raise ValueError(f"line {token.start_mark.line + 1} holds an alias (*name) or more than {DEEPEST} levels; "
                             "write the value out")  # fmt: skip


def _mapping(value: Any, where: str) -> dict:
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{where}: expected `name: value` lines, found {value!r}")
    return dict(value or {})


def select_notebooks(project: Project, profile: Profile, only: str | None) -> list[str]:
    """The profile's notebooks, or those among all that --only names ("03,05"), in reading order."""
    if only is None:
        return list(profile.notebooks)
    asked = {project.find_notebook(word.strip()) for word in only.split(",") if word.strip()}
    if not asked:
        raise UserError("--only names no notebook; give numbers or names such as 03,05")
    order = [
        *profile.notebooks,
        *(name for name in project.notebook_names() if name not in profile.notebooks),
    ]
    return [name for name in order if name in asked]


def choose_parameters(
    project: Project,
    sections: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    everywhere: Mapping[str, Any],
    settings: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """What papermill injects into each notebook: the profile's values, then --seeds and --device, then --set.

    Args:
        sections: notebook -> parameter -> value; checked for every notebook, asked for or not.
        names: the notebooks asked for.
        everywhere: parameter -> value for each notebook that has the parameter.
        settings: "02_cifar_study.epochs=5" and the like.
    Raises: UserError for an unknown parameter (with the nearest one) or a value of the wrong type.
    """
    defaults = {name: notebook_defaults(project.notebook(name)) for name in {*names, *sections}}
    checked = {name: _conform_section(name, sections.get(name, {}), known) for name, known in defaults.items()}
    for parameter, value in everywhere.items():
        if not any(parameter in defaults[name] for name in names):
            raise UserError(f"none of the notebooks asked for has the parameter {parameter!r}")
        for name in names:
            checked[name] |= _conform_section(
                name, {parameter: value} if parameter in defaults[name] else {}, defaults[name]
            )
    for setting in settings:
        left, equals, text = setting.partition("=")
        notebook, dot, parameter = left.strip().partition(".")
        if not equals or not dot:
            raise UserError(f"--set {setting!r}: expected NOTEBOOK.PARAMETER=VALUE such as 02_cifar_study.epochs=5")
        name = project.find_notebook(notebook)
        if name not in names:
            raise UserError(f"--set {setting!r}: {name} is not among the notebooks asked for ({', '.join(names)})")
        value = parse_value(text.strip(), defaults[name].get(parameter))
        checked[name] |= _conform_section(name, {parameter: value}, defaults[name])
    return {name: checked[name] for name in names}


def _conform_section(name: str, section: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    for parameter in section:
        if parameter not in defaults:
            raise unknown(f"parameter of {name}", str(parameter), defaults)
    return {key: conform(value, defaults[key], f"{name}.{key}") for key, value in section.items()}
