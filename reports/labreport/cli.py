"""The command line behind run_all.sh: options in, a job for the runner out. Status 0, 1 (a notebook or run failed), 2.

Only the standard library is imported before the options are known to be good, so that --help needs no environment.
"""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from labreport.project import Project, unknown
from simclr_core.errors import UserError, in_one_line

COMMANDS = ("report", "test", "lab", "run", "compare", "adopt", "update-references")
ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = """Run the notebooks and render reports/<profile>/report.html and report.pdf.

  ./run_all.sh                     the whole report; profile full with a CUDA GPU, else quick
  ./run_all.sh test [...]          the test suite, pytest and nbval; arguments go to pytest
  ./run_all.sh lab [-- ...]        JupyterLab on the notebooks, the profile's values filled in; what is saved stays
                                   free of them; arguments after -- go to jupyter
  ./run_all.sh run K               compute one pre-training run, by its number in --list or its folder's name, and no
                                   more; for job arrays (docs/scaling.md), with the same options as --list
  ./run_all.sh compare A B         two finished reports (their folders): what differs, which numbers moved, and
                                   whether beyond noise; takes no option
  ./run_all.sh adopt               after a refactoring: make a sample of the stored runs again and, if all of it
                                   agrees, keep the store; takes --data only
  ./run_all.sh update-references   make nbval's references anew and list the numbers that moved
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (./run_all.sh --help lists everything)")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises: UserError in one line for an unknown option or a malformed value."""
    parser = _Parser(
        "run_all.sh",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", default="report", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--profile", metavar="NAME", help="a file of notebooks/profiles, without .yaml")
    parser.add_argument("--only", metavar="03,05", help="these notebooks alone, by number or name")
    parser.add_argument("--set", metavar="NOTEBOOK.PARAM=VALUE", action="append", default=[], dest="settings",
                        help="one parameter, e.g. 02_cifar_study.epochs=5; may be repeated")  # fmt: skip
    parser.add_argument("--seeds", metavar="0,1,2", type=_seeds, help="seeds of every notebook; stored ones are kept")
    parser.add_argument("--data", metavar="DIR", help="where data sets lie; looked in before $SIMCLR_DATA and data/")
    parser.add_argument("--require-real-data", action="store_true", help="stop when a data set is missing, instead of "
                        "going on with a stand-in")  # fmt: skip
    parser.add_argument("--jobs", metavar="N", type=_at_least_one,
                        help="notebooks at a time (default: 1, or one a core if each asks for one thread)")  # fmt: skip
    parser.add_argument("--workers", metavar="N", type=_at_least_one, help="compute the pre-training runs first, by "
                        "N processes: one CPU thread or one GPU each (default: notebooks compute them)")  # fmt: skip
    parser.add_argument("--ray", metavar="ADDRESS", help="the same by a Ray cluster (auto: the one of this machine), "
                        "whose machines share checkout, data and run store")  # fmt: skip
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="for every notebook; default: the profile's")
    parser.add_argument("--fresh", action="store_true", help="set the stored runs of these notebooks aside first")
    parser.add_argument("--from", metavar="DIR", dest="source", help="render from the stored runs of a report or run "
                        "store; nothing is trained, no data are read")  # fmt: skip
    parser.add_argument("--locked", action="store_true", help="only in an environment with exactly the versions of "
                        "requirements.lock: .venv is made so, another active one is refused")  # fmt: skip
    parser.add_argument(
        "--list", action="store_true", help="print every run and its number, stored or not, PFLOP and minutes; no more"
    )
    known = [word for action in parser._actions for word in action.option_strings]
    for word in arguments:
        if word.startswith("--") and word.partition("=")[0] not in known:
            raise unknown("option", word, known)
    options = parser.parse_intermixed_args(arguments)
    if options.command not in COMMANDS:
        raise unknown("command", options.command, COMMANDS)
    _check_words(options.command, options.words, [word for word in arguments if word.startswith("-")])
    _check_pool(options)
    return options


def _check_words(command: str, words: Sequence[str], given: Sequence[str]) -> None:
    """`compare` takes two reports and no option, `run` one run, the others no word; `test` never comes here first."""
    if command == "test":
        raise UserError("test must be the first word: ./run_all.sh test [arguments for pytest]")
    if command not in ("compare", "run") and words:
        raise UserError(f"{command} takes no further argument, got {' '.join(words)!r}: leave it out")
    if command == "run" and len(words) != 1:
        raise UserError(f"run takes one run, got {len(words)} ({', '.join(words) or 'none'}): give its number in "
                        "--list or its folder's name, such as ./run_all.sh run 3 --profile full")  # fmt: skip
    if command == "adopt" and (others := [word for word in given if not word.startswith("--data")]):
        raise UserError(f"{others[0]} makes no sense with adopt, which takes --data only: leave it out")
    if command == "compare" and given:
        raise UserError(f"{given[0]} makes no sense with compare, which reads two finished reports: leave it out")
    if command == "compare" and len(words) != 2:
        raise UserError(f"compare takes two reports, got {len(words)} ({', '.join(words) or 'none'}): "
                        "give two folders: ./run_all.sh compare reports/reference-quick reports/quick")  # fmt: skip


def _check_pool(options: argparse.Namespace) -> None:
    """--workers and --ray are for a report that trains; `run` trains one run and makes no report."""
    if options.workers and options.ray:
        raise UserError("--workers and --ray both say who computes the runs: give one of them")
    here = {"--workers": options.workers, "--ray": options.ray}
    report_only = {"--fresh": options.fresh, "--from": options.source, "--list": options.list}
    for option in (name for name, value in here.items() if value):
        if options.command != "report" or options.source or options.list:
            raise UserError(f"{option} computes the runs of a report: it goes with no other command, --from or --list")
    for option in (name for name, value in report_only.items() if value):
        if options.command == "run":
            raise UserError(f"{option} makes no sense with run, which computes one run and no report: leave it out")


def _seeds(text: str) -> list[int]:
    if not all(word.strip().isdecimal() and len(word) < 20 for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers such as 0,1,2")
    return list(dict.fromkeys(int(word) for word in text.split(",")))


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Returns the exit status; what the user can mend is told in one line."""
    try:
        if arguments[:1] == ["test"]:
            if "--locked" in arguments:
                _require_locked_versions()
            return _run_tests(root, [word for word in arguments[1:] if word != "--locked"])
        end = arguments.index("--") if "--" in arguments else len(arguments)
        return _dispatch(parse(arguments[:end]), arguments[end + 1 :], root)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        print("error: nobody reads the output any more: stopped; what is finished is kept", file=sys.stderr)
        return 2
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        advice = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        print(in_one_line(f"error: {error.strerror or error}{where}{advice}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nstopped; finished epochs and notebooks are kept, the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except Exception as error:
        if os.environ.get("LABREPORT_DEBUG"):
            traceback.print_exc()
        print(in_one_line(f"error: a fault of this program, {type(error).__name__}: {' '.join(str(error).split())} "
                          "(LABREPORT_DEBUG=1 shows where)"), file=sys.stderr)  # fmt: skip
        return 2


def _require_locked_versions() -> None:
    from labreport.environment import check_locked, read_lock

    if wrong := check_locked(read_lock()):
        raise UserError(wrong)


def _run_tests(root: Path, arguments: Sequence[str]) -> int:
    from labreport.run.stand_ins import data_environment
    from labreport.tools.references import run_tests

    data_environment(None, root)  # a folder that does not exist is told before the suite starts
    given = os.environ.get("SIMCLR_DATA")
    with environment({"SIMCLR_DATA": str(Path(given).absolute())} if given else {}):
        return run_tests(Project(root), arguments)


def _dispatch(options: argparse.Namespace, passed_on: Sequence[str], root: Path) -> int:
    if passed_on and options.command != "lab":
        raise UserError("arguments after -- are for ./run_all.sh lab only")
    if options.command == "compare":
        from labreport.tools.compare import compare_reports

        print(compare_reports(*options.words))
        return 0
    if options.locked:
        _require_locked_versions()
    from labreport.run.progress import Reporter
    from labreport.run.stand_ins import data_environment
    from labreport.tools.references import update_references

    project = Project(root)
    with environment(data_environment(options.data, root)):
        if options.command == "update-references":
            return update_references(project, Reporter())
        if options.command == "adopt":
            from labreport.tools.adopt import adopt

            adopt(Path(os.environ.get("SIMCLR_RUNS") or root / "runs"))
            return 0
        from labreport import session

        prepared = session.prepare(project, options)
        with environment(prepared.job.environment):
            if options.command == "lab":
                from labreport.tools.lab import open_lab

                return open_lab(prepared.job, prepared.profile.name, passed_on)
            if options.command == "run":
                return session.run_one(prepared, options.words[0])
            if options.list:
                return session.print_list(prepared)
            return session.make(prepared, fresh=options.fresh)


@contextmanager
def environment(values: Mapping[str, Any]) -> Iterator[None]:
    """Environment variables for the time of a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
