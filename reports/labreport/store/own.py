"""What a user wrote for a training, in a notebook or a script: what identifies it."""

import ast
import inspect
import sys
from dataclasses import asdict, is_dataclass
from functools import partial
from textwrap import dedent
from types import CodeType, FunctionType, ModuleType
from typing import Any

from simclr_core.data.source import ROOTS, text_digest
from simclr_core.errors import UserError

PLAIN = bool | int | float | complex | str | bytes | tuple | list | dict | set | frozenset | None


def object_source(thing: Any) -> dict[str, Any]:
    """What identifies a function, class, dataclass, partial or object that a user wrote, as JSON.

    Its source, and that of everything which it names and which is neither this project's (that has
    digests of its own) nor an installed package's: functions, classes, modules, and plain values.
    Raises: UserError for source that cannot be read.
    """
    seen: dict[str, Any] = {}
    where: dict[int, str] = {}  # what was described already, and its place
    waiting = [(getattr(thing, "__qualname__", type(thing).__name__), thing)]
    while waiting:
        place, value = waiting.pop()
        if id(value) in where and not isinstance(value, PLAIN):
            seen[place] = f"as {where[id(value)]}"
            continue
        where[id(value)] = place
        seen[place], named = _describe(value)
        waiting += [(f"{place}.{name}", named[name]) for name in sorted(named)]
    return seen


def _describe(thing: Any) -> tuple[Any, dict[str, Any]]:
    """A value as JSON types, and what it names."""
    if isinstance(thing, partial):
        given = {str(k): v for k, v in [*enumerate(thing.args), *thing.keywords.items()]}
        return "partial", {"func": thing.func} | given
    if isinstance(thing, type):
        functions = [f for f in vars(thing).values() if isinstance(f, FunctionType)]
        written = [f for f in functions if _is_written(f, thing.__module__)]
        bases = {f"base {k}": base for k, base in enumerate(thing.__bases__) if _is_own(base)}
        named = {f"{f.__name__} {k}": v for f in written for k, v in _names(f).items()}
        return _text(thing, written), bases | named
    if is_dataclass(thing) and _is_known(type(thing).__module__):  # a recipe
        return {"of": type(thing).__name__, **asdict(thing)}, {}
    if isinstance(thing, FunctionType):
        return _text(thing, []), _names(thing)
    if isinstance(thing, ModuleType):
        return text_digest(inspect.getsource(thing)), {}
    if isinstance(thing, PLAIN) or _is_known(type(thing).__module__):
        return repr(thing), {}
    own = {name: value for name, value in vars(thing).items() if _is_own(value)}
    return f"one {type(thing).__qualname__}", own | {"type": type(thing)}


def _is_written(function: FunctionType, module: str) -> bool:
    """False for the methods that dataclasses generate."""
    generated = function.__code__.co_filename == "<string>"
    return function.__globals__["__name__"] == module and not generated


def _text(thing: type | FunctionType, functions: list[FunctionType]) -> str:
    """The digest of its source; a class is found by its functions: in a notebook it has no file."""
    try:
        if not functions:
            return text_digest(dedent(inspect.getsource(thing)))
        lines, _ = inspect.findsource(functions[0].__code__)
        nodes = ast.walk(ast.parse("".join(lines)))
        classes = [n for n in nodes if isinstance(n, ast.ClassDef) and n.name == thing.__name__]
        return text_digest(ast.unparse(classes[-1]))
    except (OSError, TypeError, SyntaxError, LookupError):
        raise UserError(f"the source of {thing.__qualname__} cannot be read, and it is part of the "
                        "run's identity; write it as a def or class on lines of its own"
                        ) from None  # fmt: skip


def _names(function: FunctionType) -> dict[str, Any]:
    """Of what a function refers to: the user's own functions and classes, and plain values."""
    names = _all_names(function.__code__)
    named = {k: v for k, v in function.__globals__.items() if k in names}
    named |= {k: v.cell_contents for k, v in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=True)
        if v.cell_contents is not function}  # fmt: skip
    named |= {f"default {k}": v for k, v in enumerate(function.__defaults__ or ())}
    named |= function.__kwdefaults__ or {}
    return {k: v for k, v in named.items() if _is_own(v)}


def _all_names(code: CodeType) -> set[str]:
    """Also of what is defined within: comprehensions, lambdas."""
    inner = [_all_names(c) for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*inner)


def _is_own(value: Any) -> bool:
    if isinstance(value, FunctionType | type):
        return not _is_known(value.__module__)
    if isinstance(value, ModuleType):
        return not _is_known(value.__name__)
    return isinstance(value, PLAIN | partial) or not _is_known(type(value).__module__)


def _is_known(name: str) -> bool:
    """True for this project's modules and installed ones; __main__ is a notebook or a script."""
    package, module = name.partition(".")[0], sys.modules.get(name)
    if package in ROOTS or package in sys.builtin_module_names:
        return True
    path = getattr(module, "__file__", None) or ""
    installed = "site-packages" in path or "dist-packages" in path
    return package != "__main__" and (installed or path.startswith(sys.base_prefix))
