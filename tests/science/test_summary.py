"""99_summary's sentences and tables, and the lines run_all.sh ends with: opposite numbers, opposite words."""

import json
import shutil

import pytest

from labreport.notebook import appendix
from labreport.project import project_root
from labreport.render.tables import REFERENCE
from labreport.run.report import results_table
from labreport.science import judge, summary
from labreport.store.files import write_json
from labreport.text import literal, literal_markdown


def entry(*values: float, unit: str = "fraction") -> dict:
    return {"values": dict(enumerate(values)), "unit": unit, "what": "", "figure": ""}


def results(reduced: str = "", stand_in_for: str = "", seeds: int = 1, h: float = 0.8) -> dict[str, dict]:
    data = [{"name": "mnist", "source": "made up", "fingerprint": "f" * 64, "train": 9, "test": 9,
             "stand_in_for": stand_in_for}]  # fmt: skip
    origin = {"commit": "c" * 40, "dirty": False, "versions": {"torch": "2"}, "device": "cpu", "threads": 1}
    measures = {f"mnist.{key}": entry(*[value] * seeds) for key, value in
                {"r2.hidden.1part": 0.9533, "ours.good.1part": 0.9794, "supervised.1part": 0.9767}.items()}  # fmt: skip
    clusters = {f"clusters.{m}.{on}.accuracy": entry(value) for m in ("kmeans", "gmm")
                for on, value in (("pixels", 0.6), ("h_r2", 0.7), ("h", h))}  # fmt: skip

    def content(name: str, measured: dict) -> dict:
        return {"notebook": name, "parameters": {"epochs": 10}, "data": data, "reduced": reduced, "series": {},
                "measures": measured, "runs": ["gone"], "provenance": origin}  # fmt: skip

    return {"01_mnist_study": content("01_mnist_study", measures),
            "05_clustering_baseline": content("05_clustering_baseline", clusters)}  # fmt: skip


def test_abstract_states_the_measured_figures_and_the_count_of_verdicts():
    made = results()
    text = summary.abstract(made, judge(made))
    for words in ("95.33 %", "97.94 %", "97.67 %", "1 seed", "k-means 60.0 % on pixels, 70.0 % on", "26 claims"):
        assert words in text
    assert "reduced" not in text


@pytest.mark.parametrize(
    ("supervised", "words"),
    [
        ((0.95, 0.951, 0.952), "Of these two, pre-training is ahead: +2.8 points"),
        ((0.99, 0.991, 0.992), "Of these two, the labels alone are ahead: −1.2 points"),
        ((0.95, 0.98, 0.999), "Of these two, the comparison is inconclusive: +0.3 points"),
    ],
)
def test_abstract_says_who_is_ahead_or_that_it_is_inconclusive(supervised, words):
    made = results(seeds=3)
    made["01_mnist_study"]["measures"]["mnist.supervised.1part"] = entry(*supervised)
    assert words in summary.abstract(made, judge(made))


def test_a_result_s_name_tells_how_many_labels_there_were():
    made = results()
    made["03_augmentation_ablation"] = {
        **made["01_mnist_study"], "parameters": {"images": 5000}, "measures": {"cifar.aug.strong.linear": entry(0.4)},
    }  # fmt: skip
    assert summary.results_frame(made)["quantity"].iloc[-1].endswith("linear, 5,000 labels")


def test_abstract_tells_cifar_accuracies_beside_the_untrained_encoder():
    made = results()
    entry = {"unit": "fraction", "what": "", "figure": ""}
    measures = {f"cifar.aug.{name}.linear": {**entry, "values": {"0": value}} for name, value in
                (("strong", 0.436), ("random", 0.2765))}  # fmt: skip
    made["03_augmentation_ablation"] = {**made["01_mnist_study"], "measures": measures, "reduced": "a narrow encoder"}
    text = summary.abstract(made, judge(made))
    assert "(a narrow encoder), a linear classifier on the frozen encoder of R1's recipe reaches 43.6 %, " in text
    assert "on an untrained encoder 27.6 % (1 seed)." in text or "on an untrained encoder 27.7 % (1 seed)." in text
    measures["cifar.aug.supervised.whole_network"] = {**entry, "values": {"0": 0.5022}}
    made["03_augmentation_ablation"]["parameters"] = {"supervised_epochs": 16}
    text = summary.abstract(made, judge(made))
    assert "(1 seed); the same network trained on the labels alone for 16 epochs reaches 50.2 %." in text


def test_abstract_names_a_reduced_setting():
    made = results(reduced="two epochs", h=0.4)
    text = summary.abstract(made, judge(made))
    assert "a Gaussian mixture 60.0 % on pixels, 70.0 % on the representation of R2's recipe, 40.0 % on that" in text
    assert "a reduced setting (two epochs)" in text


def test_abstract_and_tables_of_a_report_without_results_say_so_without_failing():
    verdicts = judge({})
    assert "26 are not tested at the largest" in summary.abstract({}, verdicts)
    for frame in (summary.results_frame, appendix.environment_frame, appendix.parameters_frame, appendix.runs_frame):
        assert list(frame({}).columns) and frame({}).empty


def test_environment_table_ends_with_what_differs_from_the_lock(tmp_path, monkeypatch):
    from importlib.metadata import version

    lock = tmp_path / "requirements.lock"
    monkeypatch.setattr("labreport.environment.LOCK", lock)

    def last_row() -> str:
        row = appendix.environment_frame(results()).iloc[-1]
        assert row["section"] == "this summary"
        return row["versions"]

    assert last_row() == "not compared with requirements.lock, which is not here"
    lock.write_text(f"numpy=={version('numpy')}\n")
    assert last_row() == "all as in requirements.lock"
    lock.write_text(f"numpy=={version('numpy')}\nscipy==0.1\nno-such-package==2\n")
    assert last_row() == (
        f"not as in requirements.lock: scipy {version('scipy')} (locked 0.1), no-such-package missing (locked 2)"
    )


def test_limits_name_few_seeds_stand_ins_and_reduced_settings_and_only_then():
    made = results(reduced="two epochs", stand_in_for="mnist")
    text = summary.limits(made, judge(made))
    assert "rest on 1 seed" in text and "reduced setting: two epochs" in text and "in place of mnist" in text
    made = {"01_mnist_study": results(seeds=3)["01_mnist_study"]}
    text = summary.limits(made, judge(made))
    assert "rest on" not in text and "reduced" not in text and "in place of" not in text


def test_results_frame_gives_mean_spread_and_every_seed():
    made = results(seeds=3)
    made["01_mnist_study"]["measures"]["mnist.r2.hidden.1part"] = entry(0.95, 0.96, 0.97)
    row = summary.results_frame(made).iloc[0]
    assert row["accuracy (%)"] == "96.00 ± 1.00" and row["n"] == 3
    assert row["every seed (%)"] == "95.00, 96.00, 97.00" and row["setting"] == "in full"


def test_setting_tells_stand_ins_and_reduced_settings_apart():
    stand_in, reduced = results(stand_in_for="mnist"), results(reduced="two epochs")
    for made, setting in ((stand_in, "in place of mnist"), (reduced, "reduced"), (results(), "in full")):
        assert set(summary.results_frame(made)["setting"]) == {setting}


def test_run_that_has_gone_from_the_store_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMCLR_RUNS", str(tmp_path))
    assert appendix.runs_frame(results()).iloc[0]["final loss"] == "not in the store"


def test_a_parameter_has_a_row_for_each_value_with_the_sections_that_had_it():
    made = {name: {"parameters": {"device": "cpu", "epochs": n}} for n, name in enumerate(("01_a", "02_b", "03_c"))}
    made["03_c"]["parameters"]["epochs"] = 0
    rows = [("device", "cpu", "all"), ("epochs", "0", "01_a, 03_c"), ("epochs", "1", "02_b")]
    assert list(appendix.parameters_frame(made).itertuples(index=False, name=None)) == rows


def test_runs_are_listed_with_the_commit_that_trained_them(monkeypatch):
    store = project_root() / "reports/reference-quick/runs"
    monkeypatch.setenv("SIMCLR_RUNS", str(store))
    name = next(path.name for path in sorted(store.iterdir()) if "untrained" not in path.name)
    made = results()
    for content in made.values():
        content["runs"] = [name]
    row = appendix.runs_frame(made).iloc[0]
    assert json.loads((store / name / "provenance.json").read_text())["commit"].startswith(row["commit"])
    assert len(row["commit"]) == 12 and float(row["seconds"]) > 0


def test_a_run_whose_provenance_lacks_its_commit_is_named_like_one_that_has_gone(tmp_path, monkeypatch):
    source = sorted((project_root() / "reports/reference-quick/runs").iterdir())[0]
    shutil.copytree(source, tmp_path / "gone")
    monkeypatch.setenv("SIMCLR_RUNS", str(tmp_path))
    assert appendix.runs_frame(results()).iloc[0]["commit"] != "–"
    (tmp_path / "gone/provenance.json").write_text("{}")
    assert appendix.runs_frame(results()).iloc[0]["final loss"] == "not in the store"


@pytest.mark.parametrize("seeds", [1, 3])
def test_last_lines_are_the_main_results_in_columns(tmp_path, seeds):
    write_json(tmp_path / "results.json", {"notebooks": results(seeds=seeds)})
    lines = results_table(tmp_path).splitlines()
    assert lines[0].split() == ["quantity", "accuracy", "(%)", "n", "data", "setting"]
    assert "R2's recipe, one hidden layer" in lines[1] and f"95.33{' ± 0.00' if seeds > 1 else ''}" in lines[1]


def test_names_and_parameters_are_literal_in_sentences_and_no_references_in_tables():
    hostile = "folder:/my_*data*/<b>/@fig-none [x](javascript:x)"
    made = results(reduced=hostile, stand_in_for=hostile)
    for content in made.values():
        content["parameters"] = {"dataset": hostile}
        content["data"][0] |= {"name": hostile, "source": f"{hostile}, not the official pixels"}
    verdicts = judge(made)
    for text in (summary.abstract(made, verdicts), summary.limits(made, verdicts)):
        assert literal_markdown(hostile) in text and hostile not in text
    frames = (appendix.parameters_frame(made), appendix.environment_frame(made), summary.results_frame(made))
    for frame in frames:
        cells = "\n".join(frame.astype(str).to_numpy().ravel())
        assert literal(hostile) in cells and not REFERENCE.search(cells)
