"""run_all.sh killed and started again, and two of them at once; crash.py has the parts and the long form."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import crash
import pytest
from crash import Broken, checkout, finish, kill_and_restart, processes_in, results

from labreport.store import pretrain

takes_minutes = pytest.mark.skipif(not os.environ.get("LABREPORT_LONG"), reason="minutes: set LABREPORT_LONG=1 for it")


@takes_minutes
def test_killed_five_times_the_results_are_those_of_an_undisturbed_call():
    with checkout() as made:
        tally = kill_and_restart(made, kills=5, seed=41)
    print("\n".join(tally.lines()))
    assert tally.kills == 5
    assert tally.at_checkpoints >= 2
    assert tally.resumed >= 2


@takes_minutes
def test_two_calls_on_one_checkout_end_well_and_train_nothing_twice():
    with checkout() as made:
        first = made.start()
        while not (made.report / ".lock").exists():
            time.sleep(0.05)
            assert first.poll() is None, made.said(first)
        second = made.start()
        said = finish(made, first), finish(made, second)
        assert sorted(text.count("another run_all.sh is at work") for text in said) == [0, 1]
        assert sorted(text.count("unchanged, executed before") for text in said) == [0, 1]
        assert len(made.trainings()) == len(set(made.trainings())) == 2
        table, again = (text.partition("rendering the report")[2] for text in said)
        assert table == again


@takes_minutes
def test_two_reports_made_at_once_from_one_store_train_nothing_twice():
    with checkout() as made:
        made.add_profile("second")
        calls = [made.start(), made.start("second")]
        for call in calls:
            finish(made, call)
        assert Counter(made.trainings()) == {f"{path.parent.name} anew": 1
                                             for path in made.store.glob("*/projection_head.safetensors")}  # fmt: skip
        first, second = results(made), results(made, "second")
        assert second.pop("profile") == "second"
        assert first.pop("profile") == "smoke"
        assert first == second


KILLED_WHILE_WRITING = """
import os, pickle, signal, sys
from labreport.store import pretrain
config, data = pickle.loads(sys.stdin.buffer.read())
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
pretrain(config, data, sys.argv[1])
"""


def test_a_file_half_written_by_a_killed_process_does_not_stay(tiny_config, tiny_data, tmp_path):
    import pickle

    child = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)],
                           input=pickle.dumps((tiny_config, tiny_data)), check=False)  # fmt: skip
    assert child.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob(".*.tmp"))) == 1
    pretrain(tiny_config, tiny_data, tmp_path)
    assert not list(tmp_path.rglob(".*.tmp"))


def test_the_harness_sees_other_results_live_processes_and_held_locks(tmp_path, monkeypatch):
    made = crash.Checkout(tmp_path)
    made.report.mkdir(parents=True)
    content = (
        '{"failed": {}, "notebooks": {"05": {"provenance": {}, "series": {}, '
        '"measures": {"a": {"unit": "%s", "values": %s}}}}, "provenance": {}, "sha256": "%s"}'
    )
    (made.report / "results.json").write_text(content % ("fraction", "[0.5]", "x"))
    expected = results(made)
    (made.report / "results.json").write_text(content % ("fraction", "[0.5000000000000001]", "y"))
    with pytest.raises(Broken, match="other results: /notebooks/05/measures/a/values: .*0.5000000000000001"):
        crash.check_same(made, expected, {})

    hold = "import filelock, sys, time\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(made.report / ".lock")], stdout=subprocess.PIPE,
                              env={**os.environ, "SOME_FOLDER": str(tmp_path)})  # fmt: skip
    with holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Broken, match="still locked"):
            crash.check_locks(made)
        assert list(processes_in(tmp_path)) == [holder.pid]
        monkeypatch.setattr(crash, "ORPHAN_SECONDS", 0.1)
        with pytest.raises(Broken, match="still there after"):
            crash.wait_for_orphans(tmp_path)
        holder.kill()
        holder.wait()
    crash.check_locks(made)
    assert crash.wait_for_orphans(tmp_path) < 5


def test_a_row_for_the_record_has_the_columns_of_its_table(tmp_path):
    record = tmp_path / "record.md"
    text = crash.RECORD.read_text()
    assert text.splitlines()[-1].startswith("| "), "the table of campaigns must be the last thing in the record"
    record.write_text(text)
    crash.write_down(crash.Tally(kills=200, resumed=7), "05 alone", 0, 12.3, "", record)
    crash.write_down(crash.Tally(kills=3), "05 alone", 0, 12.3, "broken: other results:\nseeds | values", record)
    *_, before, held, broken = record.read_text().splitlines()
    assert before.count("|") == held.count("|") == broken.count("|") == 12
    assert "| 200 |" in held and "| 7 | 12 | the undisturbed results and nothing left behind |" in held
    assert "broken: other results: seeds / values" in broken
