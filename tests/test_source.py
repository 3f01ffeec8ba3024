"""Digests of code: what moves a number changes them, comments and formatting do not."""

import importlib.util
import sys

import pytest

from labreport.store.own import object_source
from simclr_core.data.source import code_digests, text_digest

MINE = '''
from dataclasses import dataclass
from functools import partial
import helpers
from simclr_core.loss import nt_xent_loss

TAU, SHIFTS = 0.5, [1, 2]

def first(x, p=TAU):
    """Words."""
    return x * p

def second(x, p=TAU + 1):
    return helpers.twice(x) + sum([s for s in SHIFTS])

@dataclass
class Base:
    power: int = 2
    def raised(self, x):
        return x**self.power

class Loss(Base):
    def __call__(self, z_i, z_j):
        return nt_xent_loss(first(z_i), second(z_j), 0.5) + self.raised(2)

def again(x):
    return x if x else again(x - 1)

LOSS, PARTIAL, RECURSIVE = Loss(3), partial(first, p=7), again
'''
HELPERS = "def twice(x):\n    return 2 * x\n"
MOVES = [("0.5, [1", "0.6, [1"), ("[1, 2]", "[1, 3]"), ("TAU + 1", "TAU + 2"), ("x * p", "x + p"),
         ("x**self.power", "x**-self.power"), ("z_j), 0.5)", "z_j), 0.4)"), ("Loss(3)", "Loss(4)"),
         ("p=7", "p=8"), ("x - 1", "x - 2")]  # fmt: skip
KEEPS = [('"""Words."""', '"""Others."""'), ("x * p", "x*p  # so"), ("SHIFTS])", "\n  SHIFTS])")]


def load(tmp_path, name: str, text: str):
    (tmp_path / f"{name}.py").write_text(text)
    spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """The sources of three things in a module of the user's, after an edit."""
    for name in ("mine", "helpers"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def after(old: str = "", new: str = "", helpers: str = HELPERS) -> list:
        load(tmp_path, "helpers", helpers)
        mine = load(tmp_path, "mine", MINE.replace(old, new) if old else MINE)
        return [object_source(thing) for thing in (mine.LOSS, mine.PARTIAL, mine.RECURSIVE)]

    yield after
    for name in ("mine", "helpers"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("edit", MOVES, ids=str)
def test_what_moves_a_users_numbers_is_seen_at_any_distance(edit, sources):
    assert sources() != sources(*edit)


def test_a_users_imported_module_counts_and_words_do_not(sources):
    assert sources() != sources(helpers=HELPERS.replace("2", "3"))
    for edit in KEEPS:
        assert sources() == sources(*edit)


def test_a_module_of_the_method_counts_with_all_that_it_imports_but_errors():
    found = code_digests("simclr_core.config")
    assert {"simclr_core.loss", "simclr_core.train", "simclr_core.augment"} < found.keys()
    assert not {"simclr_core.errors", "simclr_core.data.source"} & found.keys()
    assert {"simclr_core.evaluate", "simclr_core.geometry"}.isdisjoint(found)


def test_the_words_of_an_error_do_not_count():
    assert text_digest("raise ValueError('a')") == text_digest("raise ValueError('b')  # why")
    assert text_digest("x = 1") != text_digest("x = 2")
