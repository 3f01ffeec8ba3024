"""What a person sees while a run trains in a notebook opened by hand."""

import re

from labreport.notebook import live, study


class Handle:
    def __init__(self, first):
        self.views = [first]

    def update(self, view):
        self.views.append(view)


def event(epoch: int, loss: float) -> dict:
    return {"run": "a<b>", "epoch": epoch, "epochs": 4, "loss": loss, "seconds_left": 4.0 - epoch}


def test_one_output_a_run_with_a_bar_and_a_curve_that_grow(monkeypatch):
    handles = []
    monkeypatch.setattr(live, "display", lambda view, display_id: handles.append(Handle(view)) or handles[-1])
    curve = live.LiveCurve()
    for epoch, loss in ((1, 5.0), (2, 4.5), (3, 4.2)):
        curve(event(epoch, loss))
    (handle,) = handles
    texts = [view.data for view in handle.views]
    assert [re.search(r"value='(\d)' max='4'", text)[1] for text in texts] == ["1", "2", "3"]
    assert "loss 4.200, 1 s to go" in texts[-1] and "data:image/png;base64," in texts[-1]
    assert "a&lt;b&gt;" in texts[0] and "<b>" not in texts[0]
    assert len({re.search(r"base64,([^']+)", text)[1] for text in texts}) == 3


def test_curve_of_a_resumed_run_starts_at_the_epoch_it_went_on_from(monkeypatch):
    drawn = []
    real = live.loss_curves
    note = lambda series, epochs: drawn.append(list(epochs)) or real(series, epochs=epochs)  # noqa: E731
    monkeypatch.setattr(live, "loss_curves", note)
    monkeypatch.setattr(live, "display", lambda view, display_id: Handle(view))
    curve = live.LiveCurve()
    curve(event(3, 4.2))
    curve(event(4, 4.1))
    assert drawn == [[3], [3, 4]]


def test_progress_goes_to_the_runners_file_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("LABREPORT_PROGRESS", str(tmp_path / "events"))
    study._progress()(event(1, 5.0))
    assert '"epoch": 1' in (tmp_path / "events").read_text()


def test_outside_of_a_kernel_there_is_no_live_output(monkeypatch):
    monkeypatch.delenv("LABREPORT_PROGRESS", raising=False)
    assert study._progress() is None
