"""Notebook parameters: their defaults, and values checked against the type of the default."""

import ast
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from simclr_core.errors import UserError

INJECTED = "injected-parameters"  # papermill's tag for the cell of values that it puts below the defaults


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Raises: UserError if the file is not a notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError, KeyError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a notebook that can be read ({reason})") from error


def has_tag(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def notebook_defaults(path: Path) -> dict[str, Any]:
    """Name -> default of every parameter, read from the cells tagged `parameters` without running them.

    Raises: UserError if a default is an expression: papermill would evaluate it before the profile's values come.
    """
    defaults = {}
    for cell in read_notebook(path).cells:
        if cell.cell_type == "code" and has_tag(cell, "parameters"):
            try:
                defaults |= dict(map(_assignment, ast.parse(cell.source).body))
            except (SyntaxError, ValueError) as error:
                raise UserError(f"{path.name}: the parameters cell may hold `name = literal` only ({error})") from error
    return defaults


def _assignment(statement: ast.stmt) -> tuple[str, Any]:
    match statement:
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AnnAssign(target=ast.Name(id=name), value=value)
        ):
            return name, ast.literal_eval(value)
    raise ValueError(f"not so: {ast.unparse(statement)}")


def conform(value: Any, default: Any, what: str) -> Any:
    """The value, of the default's type: whole numbers become floats where the default is one, lists go element-wise.

    Whatever the default, the report's JSON can hold it.

    Args:
        what: names the parameter in the error, e.g. "01_mnist_study.epochs".
    Raises: UserError naming value and expected type.
    """
    if not _is_plain(value):
        kind = type(value).__name__
        raise UserError(f"{what} is a value of type {kind} that JSON cannot hold, or too large a one; expected "
                        f"{_type_in_words(default)} such as {default!r}")  # fmt: skip
    if default is None and not isinstance(value, float):
        return value
    if isinstance(default, list | tuple) and isinstance(value, list):
        return [_conform_element(element, default, what) for element in value]
    if isinstance(default, float) and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) is type(default) and not isinstance(value, float):
        return value
    advice = "; YAML takes 1e-3 for text, so write 0.001 or 1.0e-3" if _looks_like_number(value, default) else ""
    raise UserError(f"{what} is {value!r}, expected {_type_in_words(default)} such as {default!r}{advice}")


def _is_plain(value: Any, depth: int = 8) -> bool:
    if isinstance(value, list | dict):
        inner = value if isinstance(value, list) else [*value, *value.values()]
        named = isinstance(value, list) or all(isinstance(key, str) for key in value)
        return depth > 0 and named and all(_is_plain(each, depth - 1) for each in inner)
    if isinstance(value, str):
        return not re.search("[\ud800-\udfff]", value)  # bytes that are no UTF-8: no notebook can hold them
    if isinstance(value, int | float):
        return value.bit_length() <= 1024 if isinstance(value, int) else math.isfinite(value)
    return value is None


def _conform_element(element: Any, default: list | tuple, what: str) -> Any:
    for example in default:
        try:
            return conform(element, example, what)
        except UserError:
            continue
    if not default and isinstance(element, bool | int | float | str):
        return element
    raise UserError(f"{what} holds {element!r}, expected {_type_in_words(default)} such as {list(default)!r}")


def _type_in_words(default: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}
    if isinstance(default, list | tuple):
        return f"a list ({words.get(type(default[0]), 'values')} each)" if default else "a list"
    return words.get(type(default), "a whole number, text or a list")


def _looks_like_number(value: Any, default: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(default, int | float) and math.isfinite(float(value))
    except ValueError:
        return False


def parse_value(text: str, default: Any) -> Any:
    """A value from the command line: text stays text where the default is text, else JSON, else the word itself."""
    if isinstance(default, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False}.get(text, text)


def data_of(config: Any, data: Any) -> Any:
    """The data set of a run, of a notebook that has one, or several by their names."""
    return data[config.dataset] if isinstance(data, Mapping) else data
