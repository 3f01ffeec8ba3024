"""Notebook parameters: read without running, checked against the default's type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_project import write_notebook

from labreport.parameters import conform, notebook_defaults, parse_value
from simclr_core.errors import UserError


def test_defaults_are_read_with_annotations_and_negative_numbers(tmp_path):
    write_notebook(tmp_path / "n.ipynb", ("parameters", 'a = -1\nb: float = 1e-3  # float\nc = ["x"]\nd = None'))
    assert notebook_defaults(tmp_path / "n.ipynb") == {"a": -1, "b": 0.001, "c": ["x"], "d": None}


@pytest.mark.parametrize("source", ["steps = epochs * 10", "import os", "a, b = 1, 2", "a = ("])
def test_a_parameters_cell_that_is_not_literal_is_refused(tmp_path, source):
    write_notebook(tmp_path / "n.ipynb", ("parameters", source))
    with pytest.raises(UserError, match=r"n\.ipynb: the parameters cell may hold"):
        notebook_defaults(tmp_path / "n.ipynb")


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    (tmp_path / "n.ipynb").write_text("{")
    with pytest.raises(UserError, match=r"n\.ipynb is not a notebook"):
        notebook_defaults(tmp_path / "n.ipynb")


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [(3, 1, 3), (3, 0.5, 3.0), (0.1, 1.0, 0.1), (True, False, True), ("a", "b", "a"), ([1, 2], [0], [1, 2]),
     ([1, 2.5], [0.5], [1.0, 2.5]), ([], [0], []), (["a", 1], ["b", 2], ["a", 1]), ([1], (0, 1), [1]),
     (4, None, 4), ("a", None, "a"), ({"a": 1}, {}, {"a": 1}), (["a"], [], ["a"])],
)  # fmt: skip
def test_a_value_of_the_defaults_type_is_taken(value, default, expected):
    taken = conform(value, default, "n.p")
    assert taken == expected
    assert type(taken) is type(expected)


@pytest.mark.parametrize(
    ("value", "default"),
    [("5", 4), (0.5, 4), (True, 4), (1, True), ("a", 0.5), (True, 0.5), (float("nan"), 0.5), (float("inf"), 0.5),
     (1, "a"), (1, [1]), (["a"], [1]), ([True], [1]), ([1], ["a"]), (None, 1), ([[1]], [])],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_with_both_named(value, default):
    with pytest.raises(UserError, match=r"^n\.p (is|holds) .*expected .* such as ") as caught:
        conform(value, default, "n.p")
    assert "\n" not in str(caught.value)


def test_a_number_that_yaml_takes_for_text_gets_advice():
    with pytest.raises(UserError, match=r"n.lr is '1e-3', expected a number .*write 0\.001 or 1\.0e-3"):
        conform("1e-3", 0.5, "n.lr")


@given(
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.text()
    | st.lists(st.integers())
)
def test_every_value_conforms_to_itself(value):
    assert conform(value, value, "n.p") == value


def test_the_command_line_reads_numbers_lists_and_words():
    assert parse_value("5", 1) == 5
    assert parse_value("1e-3", 0.1) == 0.001
    assert parse_value("[0, 1]", [0]) == [0, 1]
    assert parse_value("True", False) is parse_value("true", False) is True
    assert parse_value("5", "text") == "5"
    assert parse_value("five", 1) == "five"
