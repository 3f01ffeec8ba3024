"""Damage to what a report's folder keeps of an executed notebook: seen, named and set aside, never rendered."""

import json
from pathlib import Path

import pytest
from sample_report import code_cell, figure_output, table_output, wide_frame, write_notebook
from test_damage import RANDOM_DAMAGE, damage_file

from labreport.run.executed import Executed

FILES = {"notebook": "notebooks/01_study.ipynb", "figure": "figures/fig-loss.pdf", "table": "tables/tbl-wide.csv",
         "sidecar": "notebooks/01_study.json"}  # fmt: skip
SEEDS = 5
RESULTS = json.dumps({"measures": {"a": 0.123456789}, "notebook": "01_study"})


@pytest.fixture(scope="module")
def outputs() -> list[dict]:
    return [figure_output("fig-loss"), table_output(wide_frame(2), "tbl-wide")]


@pytest.fixture
def executed(tmp_path, outputs) -> Executed:
    """A report's folder with one executed notebook and all that it wrote, and a figure of another notebook."""
    made = Executed(tmp_path, "01_study")
    for name, content in (("figures/fig-loss.pdf", "%PDF a figure" * 90), ("figures/fig-other.pdf", "of another"),
                          ("tables/tbl-wide.csv", "a,b\n1,2\n" * 90), ("results/01_study.json", RESULTS)):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    made.path.parent.mkdir()
    write_notebook(made.path, "# Study", *(code_cell("show()", output) for output in outputs), code_cell("x"))
    made.conclude("key", "")
    return made


def test_undamaged_it_is_current_for_its_key_alone_whatever_others_write(executed):
    (executed.report / "figures/fig-other.pdf").write_text("changed")
    assert executed.is_current("key") and not executed.is_current("another key")
    executed.results.unlink()
    executed.restore_results()
    assert executed.results.read_text() == RESULTS


def _cases():
    for kind in FILES:
        for damage in ("empty", "directory", *RANDOM_DAMAGE):
            yield from ((kind, damage, seed) for seed in range(SEEDS if damage in RANDOM_DAMAGE else 1))


@pytest.mark.parametrize(("kind", "damage", "seed"), list(_cases()))
def test_what_is_damaged_is_not_current(kind, damage, seed, executed, capsys):
    path = executed.report / FILES[kind]
    whole = path.read_bytes()
    damage_file(path, kind, damage, seed)
    if path.is_file() and path.read_bytes() == whole:
        pytest.skip("zeros where there were zeros")
    if executed.is_current("key"):
        assert kind == "sidecar" and executed._read_sidecar()["results"] == RESULTS  # its last newline, say
        return
    if kind != "sidecar":
        assert f"{path} is damaged (its checksum does not fit); set aside as" in capsys.readouterr().err
        assert not path.exists()
    assert not executed.is_current("key")
    _execute_again(path, whole, executed)
    assert executed.is_current("key") and path.read_bytes() == whole


def _execute_again(path: Path, whole: bytes, executed: Executed) -> None:
    if path != executed.sidecar:
        path.write_bytes(whole)
    executed.conclude("key", "")


@pytest.mark.parametrize("kind", FILES)
def test_what_is_missing_is_executed_again(kind, executed):
    (executed.report / FILES[kind]).unlink()
    assert not executed.is_current("key")


def test_a_sidecar_with_another_number_in_its_results_is_seen(executed):
    executed.sidecar.write_text(executed.sidecar.read_text().replace("0.123456789", "0.923456789"))
    assert not executed.is_current("key")
