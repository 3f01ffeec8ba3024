"""The planted bugs fit the code and are noticed: three in each run, all with LABREPORT_LONG=1."""

import os
import subprocess
import sys

from planted_bugs import BUGS, ROOT, Bug, bug

SOME = [("loss", "temperature ignored"), ("optim", "LARS's eta"), ("cluster", "the worst naming")]


def test_every_planted_bug_has_its_place_exactly_once():
    places = {(b.file, b.old): (ROOT / b.file).read_text().count(b.old) for b in BUGS}
    assert not {place: count for place, count in places.items() if count != 1}
    assert len({(b.module, b.what) for b in BUGS}) == len(BUGS) >= 60


def test_planted_bugs_are_noticed_by_the_tests_of_their_module():
    numbers = [str(BUGS.index(bug(*which)) + 1) for which in SOME]
    words = [] if os.environ.get("LABREPORT_LONG") else numbers
    command = [sys.executable, ROOT / "tests/planted_bugs.py", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 survive: []" in done.stdout


def test_what_moves_no_number_survives(tmp_path):
    """Or all that the script says would be worth nothing."""
    harmless = Bug("optim", "eta = 0.001", "eta = 1e-3", "the same number")
    program = (
        "import sys; from pathlib import Path; from planted_bugs import Bug, copy_tree, noticed_by\n"
        f"print([noticed_by({harmless!r}, copy_tree(Path(sys.argv[1])))])"
    )
    words = [sys.executable, "-B", "-c", program, tmp_path]
    done = subprocess.run(words, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.stdout.strip() == "['']", done.stdout + done.stderr
