"""Digests of the project's own code: of each module that a computation imports.

Comments, docstrings, formatting and the words of errors do not count; all else does.
"""

import ast
import hashlib
import sys
from pathlib import Path
from typing import Any

from simclr_core.errors import UserError

HERE = Path(__file__).parents[2]
ROOTS = {"simclr_core": HERE, "labreport": HERE / "reports"}
WITHOUT_NUMBERS = ("simclr_core.errors", "simclr_core.data.source")
AT_START = {path: path.read_text(encoding="utf-8") for path in HERE.glob("simclr_core/**/*.py")}
_known: dict[Path, tuple[Any, str, list[str]]] = {}  # loaded module's spec, digest, imports


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def text_digest(text: str) -> str:
    """Of Python source, as 12 hex digits. Raises: SyntaxError."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            node.exc = node.cause = None
        if isinstance(getattr(node, "body", None), list):
            node.body = [part for part in node.body if not _is_docstring(part)]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]


def code_digests(*entries: str) -> dict[str, str]:
    """Module -> digest: of these, and of all that those of simclr_core import, however far."""
    found, waiting = {}, list(entries)
    while waiting:
        module = waiting.pop()
        place = ROOTS.get(module.partition(".")[0], Path("/dev/null")) / module.replace(".", "/")
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if module not in (*found, *WITHOUT_NUMBERS) and path.is_file():
                found[module], imported = _read(module, path)
                waiting += imported if module.startswith("simclr_core.") else []
    return dict(sorted(found.items()))


def _read(module: str, path: Path) -> tuple[str, list[str]]:
    """A file's digest and all that it may import, as this process has loaded it.

    An edit meanwhile is for the next process, or a reload, to see.
    Raises: UserError for one before the first look: which code was loaded is not known.
    """
    spec = getattr(sys.modules.get(module), "__spec__", None)  # another after a reload
    if path not in _known or _known[path][0] is not spec:
        text = path.read_text(encoding="utf-8")
        before, found = AT_START.get(path, text), text_digest(text)
        if path not in _known and before != text and text_digest(before) != found:
            raise UserError(f"{path} was edited after this process began; start it again, "
                            "so that its numbers are of the code that is there")  # fmt: skip
        _known[path] = spec, found, _imports(text)
    return _known[path][1:]


def _imports(text: str) -> list[str]:
    imported = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module, names = getattr(node, "module", None), [alias.name for alias in node.names]
            imported += [module, *(f"{module}.{name}" for name in names)] if module else names
    return imported
