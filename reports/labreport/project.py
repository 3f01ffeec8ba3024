"""Where everything lies, and what the notebooks are called."""

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from simclr_core.errors import UserError


@dataclass(frozen=True)
class Project:
    """A checkout: notebooks/, notebooks/profiles/, reports/, runs/, data/, tests/."""

    root: Path

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def profiles(self) -> Path:
        return self.notebooks / "profiles"

    @property
    def store(self) -> Path:
        """The run store: $SIMCLR_RUNS, else runs/."""
        return Path(os.environ.get("SIMCLR_RUNS") or self.root / "runs").absolute()

    def report(self, profile: str) -> Path:
        return self.root / "reports" / profile

    def notebook(self, name: str) -> Path:
        return self.notebooks / f"{name}.ipynb"

    def notebook_names(self) -> list[str]:
        """Numbered notebooks in reading order."""
        return sorted(path.stem for path in self.notebooks.glob("[0-9][0-9]_*.ipynb"))

    def profile_names(self) -> list[str]:
        return sorted(path.stem for path in self.profiles.glob("*.yaml"))

    def find_notebook(self, text: str) -> str:
        """The notebook meant by its name, or by its number with or without the zero.

        Raises: UserError naming the nearest one.
        """
        known = self.notebook_names()
        by_number = [name for name in known if text.isdecimal() and name[:2] == text.lstrip("0").zfill(2)]
        if text in known or len(by_number) == 1:
            return text if text in known else by_number[0]
        raise unknown("notebook", text, known)


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Another working folder for the time of a block."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def project_root() -> Path:
    """The folder above the current one that holds notebooks/profiles; the current one if there is none."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "notebooks/profiles").is_dir()), here)


def is_summary(name: str) -> bool:
    """The 99th notebook reads the results of all others, so it runs last and alone."""
    return name.startswith("99")


def unknown(kind: str, word: str, known: Iterable[str]) -> UserError:
    """One line: the word, the nearest known one, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    hint = f": did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {word!r}{hint} (known: {', '.join(known) or 'none'})")
