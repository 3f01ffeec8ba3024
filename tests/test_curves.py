"""Curves from history.csv alone."""

import shutil

import pytest

from labreport.notebook import figures
from labreport.store import pretrain
from labreport.tools import curves


def test_curves_are_redrawn_from_history_alone(tiny_config, tiny_data, tmp_path, monkeypatch, capsys):
    run = pretrain(tiny_config, tiny_data, tmp_path / "runs")
    losses = run.losses
    for path in run.path.iterdir():
        if path.name != "history.csv":
            path.unlink()
    del tiny_data
    drawn = []
    monkeypatch.setattr(curves, "loss_curves", lambda series: drawn.append(series) or figures.loss_curves(series))
    assert curves.main([str(run.path), "--output", str(tmp_path / "curves.pdf")]) == 0
    assert drawn == [{run.name: losses}] and len(losses) == 3
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert "curves.pdf" in capsys.readouterr().out


def _alone(folder, history: str) -> None:
    (folder / "provenance.json").unlink()
    (folder / "history.csv").write_text(history)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "history.csv"),
        (lambda folder: _alone(folder, "epoch,loss\n1,much\n"), "could not convert"),
        (lambda folder: _alone(folder, "epoch,loss\n"), "none of these runs has a loss"),
        (lambda folder: (folder / "history.csv").write_text("epoch,loss\n1,2.5\n"), "its checksum does not fit"),
    ],
)
def test_a_run_without_a_readable_history_is_one_line(damage, message, tiny_config, tiny_data, tmp_path, capsys):
    run = pretrain(tiny_config, tiny_data, tmp_path / "runs")
    damage(run.path)
    assert curves.main([str(run.path), "--output", str(tmp_path / "curves.pdf")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
