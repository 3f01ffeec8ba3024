"""What a person sees while notebooks run."""

import io
import json
from types import SimpleNamespace

import pytest

from labreport.run import progress
from labreport.run.progress import Reporter, Watched
from labreport.text import in_words


@pytest.fixture
def watched(tmp_path) -> Watched:
    return Watched("01_first", SimpleNamespace(cell=3, cells=9), tmp_path / "events", 2)


def add(watched, run="mnist-a", epoch=1, end="\n"):
    event = {"run": run, "epoch": epoch, "epochs": 5, "loss": 4.5678, "seconds_left": 130}
    with open(watched.events, "a") as file:
        file.write(json.dumps(event) + end)


def test_notebook_run_epoch_loss_and_time_to_go_are_told(watched):
    watched.read_events()
    assert watched.describe() == "01_first: cell 3 of 9"
    add(watched)
    watched.read_events()
    assert watched.describe() == ("01_first: cell 3 of 9, run 1 of 2, mnist-a, epoch 1 of 5, loss 4.568, 2 min to go")
    add(watched, "mnist-b", 2)
    watched.read_events()
    assert "run 2 of 2, mnist-b, epoch 2 of 5" in watched.describe()


def test_a_finished_run_and_half_written_or_foreign_lines_are_passed_over(watched):
    add(watched, end="")
    watched.read_events()
    assert watched.describe() == "01_first: cell 3 of 9"
    watched.events.write_text('{"other": 1}\nnot json\n[]\n')
    watched.offset = 0
    watched.read_events()
    add(watched, epoch=5)
    watched.read_events()
    assert watched.describe() == "01_first: cell 3 of 9"


def test_without_a_terminal_a_line_comes_every_fifteen_seconds(watched, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    reporter = Reporter(stream)
    for second in range(40):
        now[0] = float(second)
        reporter.update([watched])
    assert stream.getvalue().splitlines() == ["  01_first: cell 3 of 9"] * 2


def test_on_a_terminal_one_line_is_rewritten_and_never_wider_than_it(watched, monkeypatch):
    monkeypatch.setenv("COLUMNS", "12")
    stream = io.StringIO()
    stream.isatty = lambda: True
    reporter = Reporter(stream)
    reporter.update([watched])
    reporter.say("done")
    assert stream.getvalue() == "\r\x1b[K01_first: c\r\x1b[Kdone\n"


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (119, "2 min"), (11_100, "3 h 05 min")])
def test_durations_are_told_in_few_words(seconds, words):
    assert in_words(seconds) == words
