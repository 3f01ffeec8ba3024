"""Crash harness: run_all.sh killed (SIGKILL) at random moments and started again, until it ends as if undisturbed.

By hand: python tests/crash.py --kills 20 [--seed 0] [--whole] [--record]. The whole campaign, 200 kills of a small
notebook and 20 of the whole smoke profile, written down in docs/reliability.md: python tests/crash.py --campaign. It
works in a copy of this checkout in a folder of its own, which is removed at the end; tests/test_crash.py uses it.

A kill hits the process group of run_all.sh; notebook kernels have groups of their own and must end by themselves. Every
other kill comes at a moment drawn from the time that an undisturbed call takes, every other one shortly after the call
has written a checkpoint. A call that ends before its kill ends a round: results and store are compared with the
undisturbed ones, leftovers are looked for, and the next round starts from nothing.
"""

import argparse
import compileall
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from same_results import difference, same_results, weights

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("run_all.sh", "pyproject.toml", "notebooks", "simclr_core", "reports/labreport")
HIDDEN = ("SIMCLR_DATA", "SIMCLR_RUNS", "SIMCLR_CACHE", "LABREPORT_OUTPUT", "LABREPORT_PROGRESS", "LABREPORT_FROM",
          "PYTHONPATH")  # fmt: skip
SMALL = ("--only", "05", *(f"--set=05_clustering_baseline.{setting}" for setting in (
    "parts=30", "epochs=6", "restarts=1", "components=8")))  # fmt: skip
# Appended to the copy's labreport/store/train.py: checkpoints all the time, so that kills fall into their writing
# and runs are resumed within seconds of training; and a line a training begun. Neither touches a number.
NOTED = """

CHECKPOINT_SECONDS = 0.05
_resume = Book.resume


def _noted_resume(book):
    import os

    _resume(book)
    how = "resumed" if book.training.steps_done else "anew"
    with open(os.environ["CRASH_TRAININGS"], "a") as file:
        file.write(f"{book.run.name} {how}\\n")


Book.resume = _noted_resume
"""
RECORD = ROOT / "docs/reliability.md"
CAMPAIGN = ((200, False), (20, True))  # kills, of the whole smoke profile
AFTER_CHECKPOINT_SECONDS = 0.3  # a kill comes at most so long after a checkpoint
HELD = "the undisturbed results and nothing left behind"
ORPHAN_SECONDS = 10.0  # patience with processes that notice that their parent is gone


class Broken(AssertionError):
    """A promise that did not hold."""


# ---- a checkout of its own ----------------------------------------------------------------------------------


@dataclass
class Checkout:
    """A copy of the checkout's files in <home>/checkout, with a temporary folder <home>/t (kernels' sockets want short
    paths) and <home>/trainings, a line a training begun."""

    home: Path
    arguments: tuple[str, ...] = SMALL
    profile: str = "smoke"
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.home / "checkout"

    @property
    def report(self) -> Path:
        return self.root / "reports" / self.profile

    @property
    def store(self) -> Path:
        return self.root / "runs"

    def make(self) -> None:
        for name in COPIED:
            source, target = ROOT / name, self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
            else:
                shutil.copy(source, target)
        with open(self.root / "reports/labreport/store/train.py", "a") as file:
            file.write(NOTED)
        compileall.compile_dir(self.root, quiet=2)  # the first call is to take as long as the later ones

    def start(self, profile: str | None = None) -> subprocess.Popen:
        """run_all.sh in a session of its own; its output goes to <home>/output-<n>."""
        (self.home / "t").mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        environment = {**inherited, "VIRTUAL_ENV": sys.prefix, "TMPDIR": str(self.home / "t"),
                       "CRASH_TRAININGS": str(self.home / "trainings")}  # fmt: skip
        command = [str(self.root / "run_all.sh"), "--profile", profile or self.profile, *self.arguments]
        with open(self.output(len(self.started)), "wb") as output:
            process = subprocess.Popen(command, cwd=self.home, env=environment, stdout=output,
                                       stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        self.started.append(process)
        return process

    def output(self, call: int) -> Path:
        return self.home / f"output-{call}"

    def said(self, process: subprocess.Popen) -> str:
        return self.output(self.started.index(process)).read_text(errors="replace")

    def add_profile(self, name: str) -> None:
        """The same profile under another name: another report, the same runs."""
        profiles = self.root / "notebooks/profiles"
        shutil.copy(profiles / f"{self.profile}.yaml", profiles / f"{name}.yaml")

    def trainings(self) -> list[str]:
        """ "<run> anew" or "<run> resumed" for each training begun, in order."""
        path = self.home / "trainings"
        return path.read_text().splitlines() if path.is_file() else []

    def forget(self) -> None:
        """Back to nothing made."""
        for folder in (self.store, self.report, self.root / "data", self.home / "t"):
            if folder.exists():
                shutil.rmtree(folder)
        (self.home / "trainings").unlink(missing_ok=True)


@contextlib.contextmanager
def checkout(**settings) -> Iterator[Checkout]:
    """A checkout that is removed afterwards, with everything that was started in it."""
    with tempfile.TemporaryDirectory(prefix="crash-") as home:
        made = Checkout(Path(home).resolve(), **settings)
        made.make()
        try:
            yield made
        finally:
            for pid in processes_in(made.home):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in made.started:
                process.wait()


# ---- what must hold at the end --------------------------------------------------------------------------------


def results(checkout: Checkout, profile: str | None = None) -> dict[str, Any]:
    """results.json without what depends on the clock."""
    return same_results(checkout.report.with_name(profile or checkout.profile) / "results.json")


def processes_in(folder: Path) -> dict[int, str]:
    """Living processes other than this one whose working folder or environment lies in `folder` -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, a zombie, or somebody else's
            cwd = os.readlink(entry / "cwd")
            inside = cwd == str(folder) or cwd.startswith(f"{folder}/")
            if inside or os.fsencode(folder) in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def wait_for_orphans(folder: Path) -> float:
    """Seconds until no process works in `folder`. Raises: Broken after ORPHAN_SECONDS."""
    started = time.monotonic()
    while alive := processes_in(folder):
        if time.monotonic() - started > ORPHAN_SECONDS:
            raise Broken(f"still there after {ORPHAN_SECONDS:.0f} s: {alive}")
        time.sleep(0.05)
    return time.monotonic() - started


def temporary_files(checkout: Checkout) -> list[str]:
    """Half-written files in store, report and data."""
    found = (path for pattern in ("*.tmp", "*.unfinished.ipynb") for path in checkout.root.rglob(pattern))
    return sorted(str(path.relative_to(checkout.root)) for path in found)


def scratch_folders(checkout: Checkout) -> list[str]:
    """What lies in the folder for temporary files (torch's own cache is not ours)."""
    return sorted(path.name for path in (checkout.home / "t").glob("*") if not path.name.startswith("torchinductor_"))


def check_locks(checkout: Checkout) -> None:
    for path in (*checkout.root.rglob("*.lock"), checkout.report / ".lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            raise Broken(f"{path} is still locked") from None


def check_same(checkout: Checkout, expected: dict[str, Any], expected_weights: dict[str, bytes]) -> None:
    if (found := results(checkout)) != expected:
        raise Broken(f"other results: {difference(found, expected)}")
    if (found := weights(checkout.store)) != expected_weights:
        names = [name for name in found.keys() | expected_weights if found.get(name) != expected_weights.get(name)]
        raise Broken(f"other weights: {sorted(names)}")


# ---- killing ----------------------------------------------------------------------------------------------


def undisturbed(checkout: Checkout) -> tuple[dict[str, Any], dict[str, bytes], float]:
    """Results, weights and seconds of a call that nothing disturbs; everything made is forgotten again."""
    started = time.monotonic()
    finish(checkout, checkout.start())
    seconds = time.monotonic() - started
    wait_for_orphans(checkout.home)
    made = results(checkout), weights(checkout.store), seconds
    if left := temporary_files(checkout) + scratch_folders(checkout):
        raise Broken(f"undisturbed it leaves {left}")
    checkout.forget()
    return made


def finish(checkout: Checkout, process: subprocess.Popen) -> str:
    """Wait for the end; returns what was said. Raises: Broken if the status is not 0."""
    if status := process.wait():
        raise Broken(f"status {status}: {checkout.said(process)[-2_000:]}")
    return checkout.said(process)


@dataclass
class Tally:
    """What happened; `slowest_orphan` in seconds after a kill."""

    kills: int = 0
    at_checkpoints: int = 0  # of the kills
    rounds: int = 0
    resumed: int = 0
    trainings: int = 0
    slowest_orphan: float = 0.0

    def lines(self) -> list[str]:
        return [f"{self.kills} kills, {self.at_checkpoints} of them just after a checkpoint, in {self.rounds} rounds",
                f"trainings begun {self.trainings}, of them resumed from a checkpoint {self.resumed}",
                f"orphaned kernels were gone after at most {self.slowest_orphan:.1f} s"]  # fmt: skip


def wait_for_checkpoint(checkout: Checkout, process: subprocess.Popen, seconds: float) -> None:
    """Until the call has written a checkpoint, or ended, and then so many seconds more."""
    started = time.time()
    while process.poll() is None:
        for path in checkout.store.glob("*/checkpoint.pt"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime > started:
                    time.sleep(seconds)
                    return
        time.sleep(0.005)


def kill_and_restart(checkout: Checkout, kills: int, seed: int, say=print, tally: Tally | None = None) -> Tally:
    """The whole test; a tally that is given is filled, whatever happens. Raises: Broken."""
    expected, expected_weights, seconds = undisturbed(checkout)
    say(f"undisturbed: {seconds:.1f} s")
    draw, tally = random.Random(seed), tally or Tally()
    while True:
        last = tally.kills == kills
        at_checkpoint = tally.kills % 2 == 0 and not last
        moment, after = draw.uniform(0, seconds), draw.uniform(0, AFTER_CHECKPOINT_SECONDS)
        at_once = draw.random() < 0.5
        process = checkout.start()
        if at_checkpoint:
            wait_for_checkpoint(checkout, process, after)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(None if last else moment)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            tally.kills += 1
            tally.at_checkpoints += at_checkpoint
            say(f"kill {tally.kills} {'just after a checkpoint' if at_checkpoint else f'after {moment:.1f} s'}")
            if not at_once:  # every other time the next call starts beside the orphans
                tally.slowest_orphan = max(tally.slowest_orphan, wait_for_orphans(checkout.home))
            continue
        finish(checkout, process)
        end_round(checkout, tally, expected, expected_weights)
        say(f"round {tally.rounds} ended as it should")
        if last:
            return tally
        checkout.forget()


def end_round(checkout: Checkout, tally: Tally, expected: dict[str, Any], expected_weights: dict[str, bytes]) -> None:
    """Compare and count at the end of a round. Raises: Broken."""
    wait_for_orphans(checkout.home)
    check_same(checkout, expected, expected_weights)
    check_locks(checkout)
    if left := temporary_files(checkout) + scratch_folders(checkout):
        raise Broken(f"left behind: {left}")
    tally.rounds += 1
    tally.trainings += len(checkout.trainings())
    tally.resumed += sum(training.endswith(" resumed") for training in checkout.trainings())


# ---- by hand ------------------------------------------------------------------------------------------------


def campaign(kills: int, whole: bool, seed: int, record: bool) -> bool:
    """One setting with so many kills; prints what happened, writes it down if asked to. Returns True if all held."""
    started, tally, broken = time.monotonic(), Tally(), ""
    with checkout(**({"arguments": ()} if whole else {})) as made:
        try:
            kill_and_restart(made, kills, seed, lambda line: print(line, flush=True), tally)
        except Broken as error:
            broken = f"broken: {error}"
            print(broken, file=sys.stderr)
    seconds = time.monotonic() - started
    print("\n".join([*tally.lines(), broken or f"every round ended with {HELD}"]))
    if record:
        write_down(tally, "the whole smoke profile" if whole else "05 alone, cut down", seed, seconds, broken)
    return not broken


def write_down(tally: Tally, setting: str, seed: int, seconds: float, broken: str, record: Path = RECORD) -> None:
    """A row more at the end of the record, whose last lines are the table."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RECORD.relative_to(ROOT)}")
    commit = git("rev-parse", "--short=12", "HEAD") + (" (dirty)" if changed else "")
    result = broken.replace("|", "/").replace("\n", " ")[:200] or HELD
    row = (time.strftime("%Y-%m-%d"), commit or "unknown", setting, seed, tally.kills, tally.at_checkpoints,
           tally.rounds, tally.trainings, tally.resumed, round(seconds), result)  # fmt: skip
    with open(record, "a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(map(str, row))} |\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", action="store_true", help="the whole smoke profile, not one small notebook")
    parser.add_argument("--record", action="store_true", help=f"a row in {RECORD.relative_to(ROOT)}")
    parser.add_argument("--campaign", action="store_true", help="200 kills of one small notebook, 20 of the whole "
                        "smoke profile, recorded")  # fmt: skip
    options = parser.parse_args()
    if options.campaign:
        held = [campaign(kills, whole, options.seed, record=True) for kills, whole in CAMPAIGN]
    else:
        held = [campaign(options.kills, options.whole, options.seed, options.record)]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
