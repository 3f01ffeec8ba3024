"""Profiles and the options that override them."""

import pytest
from toy_project import make_project, write_profile

from labreport.project import Project
from labreport.run.profiles import choose_parameters, load_profile, select_notebooks
from simclr_core.errors import UserError


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(make_project(tmp_path))


def choose(project, sections=None, names=("01_first", "02_second"), everywhere=None, settings=()):
    return choose_parameters(project, sections or {}, list(names), everywhere or {}, settings)


def test_a_profile_gives_order_title_and_values(project):
    write_profile(project.root, "mine", "report: {title: T, notebooks: [99, 01], stand_ins: {mnist: digits}}\n"
                  "01_first:\n  epochs: 7\n02_second:\n")  # fmt: skip
    profile = load_profile(project, "mine")
    assert (profile.title, profile.notebooks) == ("T", ("99_summary", "01_first"))
    assert profile.sections == {"01_first": {"epochs": 7}, "02_second": {}}
    assert profile.stand_ins == {"mnist": "digits"}


def test_an_empty_profile_means_every_notebook_with_its_defaults(project):
    write_profile(project.root, "mine", "# nothing\n")
    profile = load_profile(project, "mine")
    assert profile.notebooks == ("01_first", "02_second", "99_summary")
    assert choose(project, profile.sections) == {"01_first": {}, "02_second": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [("01_frist: {}", "unknown notebook '01_frist': did you mean '01_first'"),
     ("report: {tilte: x}", "unknown key in mine.yaml, report 'tilte': did you mean 'title'"),
     ("report: {notebooks: 01}", "expected a list of notebooks"),
     ("report: {notebooks: [07]}", "unknown notebook '7'"),
     ("report: {title: 3}", r"report\.title is 3, expected text"),
     ("01_first: 3", "01_first: expected `name: value` lines, found 3"),
     ("- a", "expected `name: value` lines"),
     ("a: [", "not plain YAML"),
     ("01_first: !!python/object/apply:os.system ['true']", "not plain YAML")],
)  # fmt: skip
def test_a_malformed_profile_is_refused_in_one_line(project, text, message):
    write_profile(project.root, "mine", text)
    with pytest.raises(UserError, match=message) as caught:
        load_profile(project, "mine")
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_names_the_nearest(project):
    with pytest.raises(UserError, match=r"unknown profile 'tinny': did you mean 'tiny'\? \(known: tiny\)"):
        load_profile(project, "tinny")


def test_only_takes_numbers_and_names_and_keeps_the_reading_order(project):
    profile = load_profile(project, "tiny")
    assert select_notebooks(project, profile, None) == ["01_first", "02_second", "99_summary"]
    assert select_notebooks(project, profile, "99, 1") == ["01_first", "99_summary"]
    assert select_notebooks(project, profile, "02_second") == ["02_second"]
    with pytest.raises(UserError, match="unknown notebook '7'"):
        select_notebooks(project, profile, "7")
    with pytest.raises(UserError, match="--only names no notebook"):
        select_notebooks(project, profile, ",")


def test_later_values_win(project):
    chosen = choose(
        project, {"01_first": {"epochs": 3, "lr": 1}}, everywhere={"seeds": [0, 1]}, settings=["1.epochs=9"]
    )
    assert chosen == {"01_first": {"epochs": 9, "lr": 1.0, "seeds": [0, 1]}, "02_second": {"seeds": [0, 1]}}


@pytest.mark.parametrize(
    ("sections", "settings", "message"),
    [({"01_first": {"epoch": 3}}, (), "unknown parameter of 01_first 'epoch': did you mean 'epochs'"),
     ({"01_first": {"epochs": "3"}}, (), "01_first.epochs is '3', expected a whole number such as 2"),
     ({"02_second": {"lr": "1e-3"}}, (), "write 0.001 or 1.0e-3"),
     ({"99_summary": {"x": 1}}, (), "unknown parameter of 99_summary 'x'"),
     ({}, ["01_first.epoch=3"], "unknown parameter of 01_first 'epoch': did you mean 'epochs'"),
     ({}, ["01_first.epochs=three"], "01_first.epochs is 'three', expected a whole number"),
     ({}, ["epochs=3"], "expected NOTEBOOK.PARAMETER=VALUE"),
     ({}, ["01_first.epochs"], "expected NOTEBOOK.PARAMETER=VALUE"),
     ({}, ["04_head.epochs=3"], "unknown notebook '04_head'"),
     ({}, ["99_summary.epochs=3"], "99_summary is not among the notebooks asked for")],
)  # fmt: skip
def test_unknown_and_wrongly_typed_parameters_are_refused(project, sections, settings, message):
    with pytest.raises(UserError, match=message):
        choose(project, sections, settings=settings)


def test_a_value_for_every_notebook_must_fit_one_at_least(project):
    with pytest.raises(UserError, match="none of the notebooks asked for has the parameter 'seeds'"):
        choose(project, names=["99_summary"], everywhere={"seeds": [0]})
