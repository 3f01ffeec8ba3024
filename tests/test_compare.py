"""compare A B: opposite numbers get opposite verdicts, what explains them is said first, mistakes get one line."""

import json
import math
from pathlib import Path

import pytest
from toy_project import sealed

from labreport.cli import main, parse
from labreport.tools.compare import BEYOND, CANNOT_TELL, COLUMNS, SAME, WITHIN, compare_reports, judge
from simclr_core.errors import UserError

REFERENCE = Path(__file__).parents[1] / "reports/reference-quick"
LOW, HIGH = {0: 0.90, 1: 0.91, 2: 0.92}, {0: 0.95, 1: 0.96, 2: 0.97}
MADE = {"commit": "a" * 40, "dirty": False, "device": "a CPU", "threads": 1, "versions": {"torch": "2.0"}}


def measure(values, unit="fraction"):
    return {"values": {str(seed): value for seed, value in values.items()}, "unit": unit, "what": "", "figure": ""}


def result(measures=None, series=None, parameters=None, data=(), reduced="", **made):
    return {"measures": measures or {}, "series": series or {}, "parameters": parameters or {}, "data": list(data),
            "reduced": reduced, "provenance": MADE | made}  # fmt: skip


@pytest.fixture
def compare(tmp_path):
    """The text for two reports, given as notebook -> result; or as measures of one notebook."""

    def write(letter, notebooks, profile="quick", failed=None, finished=True):
        if not any("provenance" in content for content in notebooks.values()):
            notebooks = {"01_study": result(notebooks)} if notebooks else {}
        path = tmp_path / letter / "results.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(sealed({"notebooks": notebooks, "failed": failed or {}, "finished": finished,
                                "profile": profile}))  # fmt: skip
        return str(path.parent)

    def texts(a, b, a_is=(), b_is=()):
        return compare_reports(write("a", a, **dict(a_is)), write("b", b, **dict(b_is)))

    return texts


def row(text, key):
    """Cells of the one line about that key."""
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [key]]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


# ---- the verdict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (LOW, HIGH, BEYOND),
        (HIGH, LOW, BEYOND),
        (LOW, {0: 0.91, 1: 0.92, 2: 0.93}, WITHIN),
        ({0: 0.91, 1: 0.92, 2: 0.93}, LOW, WITHIN),
        ({0: 0.900, 1: 0.910, 2: 0.920}, {0: 0.901, 1: 0.911, 2: 0.921}, WITHIN),  # paired, it would be beyond
        (LOW, dict(LOW), SAME),
        (LOW, {**LOW, 2: math.nextafter(0.92, 1)}, WITHIN),  # one bit
        (LOW, {0: 0.91, 1: 0.90, 2: 0.92}, WITHIN),  # the same values, other seeds
        (LOW, {5: 0.95, 6: 0.96, 7: 0.97}, BEYOND),  # no seed in common
        (LOW, {5: 0.90, 6: 0.91, 7: 0.92}, WITHIN),
        (LOW, {0: 0.90}, SAME),
        (LOW, {0: 0.10}, CANNOT_TELL),
        ({0: 0.10}, LOW, CANNOT_TELL),
        ({0: 0.1, 1: 0.1}, {0: 0.9, 1: 0.9}, CANNOT_TELL),
        ({0: 0.1}, {1: 0.1}, CANNOT_TELL),  # equal, but of different seeds
    ],
)
def test_the_verdict_follows_from_the_numbers(a, b, verdict):
    assert judge(a, b) == verdict


def test_without_any_spread_a_move_is_beyond_noise_and_its_last_bits_are_not():
    flat = dict.fromkeys(range(3), 0.5)
    assert judge(flat, dict.fromkeys(range(3), 0.5001)) == BEYOND
    assert judge(flat, dict.fromkeys(range(3), 0.4999)) == BEYOND
    assert judge(flat, dict.fromkeys(range(3), math.nextafter(0.5, 1))) == WITHIN
    assert judge(flat, dict.fromkeys(range(3, 6), 0.5)) == WITHIN


# ---- the numbers ------------------------------------------------------------------------------------------


def test_a_row_gives_both_means_the_signed_move_in_points_its_noise_and_the_verdict(compare):
    up = compare({"x": measure(LOW)}, {"x": measure(HIGH)})
    # noise: t(0.975, 4) = 2.776445 times the standard error sqrt(2/3) points
    assert row(up, "x") == ["x", "91.00 ± 1.00", "96.00 ± 1.00", "+5.00", "2.27", "%", "3", "beyond noise"]
    down = compare({"x": measure(HIGH)}, {"x": measure(LOW)})
    assert row(down, "x") == ["x", "96.00 ± 1.00", "91.00 ± 1.00", "−5.00", "2.27", "%", "3", "beyond noise"]
    score = compare({"x": measure(LOW, "score")}, {"x": measure({**HIGH, 3: 0.96}, "score")})
    assert row(score, "x")[1:4] == ["0.910 ± 0.010", "0.960 ± 0.008", "+0.050"]
    assert row(score, "x")[5:7] == ["score", "3, 4"]


def test_one_seed_has_a_move_but_no_noise_and_is_told_how_to_get_more(compare):
    text = compare({"x": measure({0: 0.5})}, {"x": measure({0: 0.4})})
    assert row(text, "x") == ["x", "50.00", "40.00", "−10.00", "%", "1", "cannot tell"]
    assert "--seeds 0,1,2" in text
    assert "by chance" not in text


def test_a_move_too_small_for_the_digits_is_not_printed_as_zero(compare):
    text = compare({"x": measure(LOW)}, {"x": measure({**LOW, 0: 0.90 - 3e-6})})
    assert row(text, "x")[3] == "−1e−04"
    text = compare({"x": measure(LOW)}, {"x": measure({0: 0.91, 1: 0.90, 2: 0.92})})
    assert row(text, "x")[3] == "+0.00"


def test_beyond_noise_comes_first_then_the_larger_move_by_notebook(compare):
    near = {0: 0.901, 1: 0.911, 2: 0.921}
    first = {"small": measure(LOW), "large": measure(LOW), "within": measure({0: 0.0, 1: 0.5, 2: 0.9}),
             "tiny": measure(LOW), "equal": measure(LOW)}  # fmt: skip
    second = {"small": measure(HIGH), "large": measure({seed: value - 0.5 for seed, value in LOW.items()}),
              "within": measure({0: 0.9, 1: 0.9, 2: 0.5}), "tiny": measure(near), "equal": measure(LOW)}  # fmt: skip
    text = compare({"01_a": result(first), "02_b": result({"other": measure(LOW)})},
                   {"01_a": result(second), "02_b": result({"other": measure(HIGH)})})  # fmt: skip
    words = [line.split()[0] for line in text.splitlines() if line]
    listed = [word for word in words if word in {*first, "other", "01_a", "02_b"}]
    assert listed == ["01_a", "large", "small", "within", "tiny", "02_b", "other"]
    assert "of 6 measures: 3 beyond noise, 0 cannot tell, 2 within noise, 1 same" in text


def test_what_chance_alone_gives_stands_beside_what_was_seen(compare):
    moved = {f"m{k}": measure(HIGH if k < 3 else {0: 0.91, 1: 0.92, 2: 0.93}) for k in range(40)}
    moved |= {"equal": measure(LOW), "single": measure({0: 0.1})}
    text = compare({key: measure(LOW) for key in moved}, moved)
    expected = "beyond noise: 3 seen; about 2.0 expected by chance alone, had nothing changed (5 % of the 40 judged)"
    assert expected in text


def test_times_have_a_ratio_and_no_verdict(compare):
    fast, slow = measure({0: 1.0, 1: 1.0, 2: 1.0}, "seconds"), measure({0: 3.0, 1: 3.0, 2: 3.0}, "seconds")
    text = compare({"t": fast, "x": measure(LOW)}, {"t": slow, "x": measure(LOW)})
    assert row(text, "t") == ["t", "1.000 ± 0.000", "3.000 ± 0.000", "3.00"]
    assert "Nothing moved: 1 measures" in text
    assert row(compare({"t": slow}, {"t": fast}), "t")[-1] == "0.33"
    assert row(compare({"t": measure({0: 0.0}, "seconds")}, {"t": fast}), "t")[-1] == "1.000 ± 0.000"


def test_series_are_the_same_or_differ_by_their_largest_deviation(compare):
    def one(values, unit="nats"):
        return {"01_study": result(series={"s": measure(values, unit)})}

    base = {0: [4.0, 3.0, 2.0], 1: [4.0, 3.5, 2.5]}
    assert "Nothing moved: 0 measures and 1 series" in compare(one(base), one(base))
    text = compare(one(base), one({**base, 1: [4.1, 3.0, 2.5]}))
    assert "series s  differs by up to 0.500 nats (seed 1, epoch 2)" in text
    assert "of 1 series, a number an epoch: 1 differ, 0 same" in text
    assert "up to 50.00 points" in compare(one({0: [0.1, 0.9]}, "fraction"), one({0: [0.1, 0.4]}, "fraction"))
    assert "series s  the same as far as both go; 3 against 2 epochs" in compare(one({0: [1, 2, 3]}), one({0: [1, 2]}))
    assert "series s  no seed in common" in compare(one({0: [1]}), one({1: [1]}))


def test_seeds_that_one_report_alone_has_are_said(compare):
    text = compare({"x": measure({0: 0.90})}, {"x": measure(LOW)})
    assert "Nothing moved: 1 measures" in text
    assert "1 of the same ones by the seeds that both reports have" in text


def test_measures_of_one_report_are_named_or_counted_where_many(compare):
    text = compare({"x": measure(LOW), "a": measure(LOW)}, {"x": measure(LOW), "b": measure(LOW)})
    assert "measures in A only: a\n" in text
    assert text.endswith("measures in B only: b")
    many = {f"m{k}": measure(LOW) for k in range(9)}
    text = compare({}, many)
    assert "No number is in both reports" in text
    assert text.endswith("measures in B only: 9 of 01_study")


def test_a_key_with_another_unit_is_not_compared(compare):
    text = compare({"x": measure(LOW)}, {"x": measure(LOW, "score")})
    assert "No number is in both reports" in text
    assert "measures in A only: x (in fraction)" in text
    assert "measures in B only: x (in score)" in text


# ---- what explains them -----------------------------------------------------------------------------------


def test_everything_recorded_that_differs_is_said_before_the_numbers(compare):
    digits = {"name": "digits", "fingerprint": "d" * 64, "stand_in_for": "mnist"}
    mnist = {"name": "mnist", "fingerprint": "e" * 64, "stand_in_for": ""}
    a = result({"x": measure(LOW)}, parameters={"epochs": 10, "gone": 1, "lr": 0.1}, data=[mnist])
    b = result({"x": measure(HIGH)}, parameters={"epochs": 2, "lr": 0.1}, data=[digits], reduced="2 epochs",
               commit="b" * 40, dirty=True, device="a GPU", threads=4, versions={"torch": "2.1"})  # fmt: skip
    text = compare({"01_study": a}, {"01_study": b}, {"profile": "full"}.items(), {"profile": "smoke"}.items())
    head, _ = text.split("What moved")
    lines = [" ".join(line.split()) for line in head.splitlines()]
    assert lines[lines.index("What differs") + 1 :] == [
        "profile full -> smoke",
        "commit aaaaaaaaaaaa -> bbbbbbbbbbbb with uncommitted changes",
        "device a CPU -> a GPU",
        "threads 1 -> 4",
        "torch 2.0 -> 2.1",
        "data mnist eeeeeeeeeeee -> digits dddddddddddd in place of mnist",
        "reduced setting none -> 2 epochs",
        "parameter epochs 10 -> 2",
        "parameter gone 1 -> none",
        "",
    ]


def test_a_difference_of_some_notebooks_names_them_and_one_of_all_does_not(compare):
    def three(**changed):
        return {name: result(**({"threads": 4} | changed.get(name[:3], {}))) for name in ("n01", "n02", "n03")}

    a = {name: result() for name in ("n01", "n02", "n03")}
    text = compare(a, three(n01={"device": "a GPU"}, n03={"device": "a GPU"}))
    assert "  device   a CPU -> a GPU  (n01, n03)\n  threads  1 -> 4\n" in text


def test_uncommitted_changes_are_said_even_where_both_have_them(compare):
    dirty = {"01_study": result({"x": measure(LOW)}, dirty=True)}
    assert "commit  aaaaaaaaaaaa with uncommitted changes -> aaaaaaaaaaaa with" in compare(dirty, dirty)
    clean = {"01_study": result({"x": measure(LOW)})}
    assert "nothing that is recorded" in compare(clean, clean)


def test_failed_and_missing_notebooks_are_said(compare):
    both = {"01_study": result({"x": measure(LOW)}), "02_other": result()}
    one = {"01_study": both["01_study"]}
    text = compare(both, one)
    assert "  02_other has no results in B: it was left out there\n" in text
    text = compare(one, both, {"failed": {"02_other": "ValueError: out\nof luck", "99_summary": "E: x"}}.items())
    assert "  02_other failed in A: ValueError: out of luck\n" in text
    assert "  99_summary failed in A: E: x\n" in text
    assert "left out" not in text
    assert "not finished" not in text
    assert "  B is not finished: the call that made it was stopped\n" in compare(one, one, {}, {"finished": False})


# ---- the command ------------------------------------------------------------------------------------------


def test_the_reference_report_against_itself_has_moved_nothing(capsys):
    assert main(["compare", str(REFERENCE), str(REFERENCE / "results.json")]) == 0
    out = capsys.readouterr().out
    assert "nothing that is recorded" in out
    assert "Nothing moved: " in out
    assert "beyond" not in out


def test_a_number_changed_in_the_reference_report_is_found_in_both_directions(tmp_path, capsys):
    content = json.loads((REFERENCE / "results.json").read_text())
    key = "mnist.r2.hidden.1part"
    values = content["notebooks"]["01_mnist_study"]["measures"][key]["values"]
    assert len(values) >= 3
    values.update({seed: value - 0.1 for seed, value in values.items()})
    del content["sha256"]
    (tmp_path / "results.json").write_text(sealed(content))
    for arguments, move in (([REFERENCE, tmp_path], "−10.00"), ([tmp_path, REFERENCE], "+10.00")):
        assert main(["compare", *map(str, arguments)]) == 0
        out = capsys.readouterr().out
        assert ": 1 beyond noise, 0 cannot tell, 0 within noise, " in out
        cells = row(out, key)
        assert (cells[3], cells[-1]) == (move, "beyond noise")
        assert max(map(len, out.splitlines())) <= COLUMNS


def test_a_long_or_coloured_text_stays_within_the_columns(compare):
    text = compare({"01_study": result(reduced="\x1b[31mfew " + "images " * 40)}, {"01_study": result()})
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert "\x1b" not in text


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """The current folder, with a report `good`, an empty folder and damaged ones."""
    good = {"notebooks": {"01_study": result({"x": measure(LOW)})}, "failed": {}, "finished": True, "profile": "quick"}
    text = json.dumps(good)
    other_content = {
        "nan": text.replace("0.92", "NaN"),
        "word": text.replace("0.92", '"0.92"'),
        "true": text.replace("0.92", "true"),
        "no_epoch": text.replace('"series": {', '"series": {"s": {"values": {"0": []}, "unit": "nats"}'),
        "huge": text.replace("0.92", "1" + "0" * 400),
        "seed": text.replace('"2": ', '"two": '),
        "no_value": text.replace('"values": {', '"values": {}, "were": {'),
        "no_measures": text.replace('"measures": {', '"measures": null, "were": {'),
    }
    damaged = {
        "cut": sealed(good)[:40],
        "list": "[]",
        "empty_object": sealed({}),
        "unsealed": text,
        "other_number": sealed(good).replace("0.92", "0.93"),
        **{name: sealed(json.loads(content)) for name, content in other_content.items()},
        "deep": "[" * 100_000,
        "bytes": "\udcff",
    }
    for name, text in {"good": sealed(good), **damaged}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text, errors="surrogateescape")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("labreport.session.prepare", lambda *_: pytest.fail("a report was started"))
    return [f"{name}/results.json is damaged " for name in damaged]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("good", "compare takes two reports, got 1 (good): give two folders"),
        ("", "compare takes two reports, got 0 (none): give two folders"),
        ("good good good", "compare takes two reports, got 3 (good, good, good): give two folders"),
        ("good nowhere", "report 'nowhere': no such file or folder; give a report's folder"),
        ("nowhere/results.json good", "report 'nowhere/results.json': no such file or folder"),
        ("empty good", "report 'empty': it holds no results.json; give a report's folder"),
        ("good good --seeds 0,1", "--seeds makes no sense with compare, which reads two finished reports"),
        ("good --fresh good", "--fresh makes no sense with compare"),
        ("good good --profil=quick", "unknown option '--profil=quick': did you mean '--profile'?"),
        ("good good -- more", "arguments after -- are for ./run_all.sh lab only"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(reports, capsys, arguments, message):
    assert main(["compare", *arguments.split()]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_a_damaged_report_is_named_on_either_side(reports, capsys):
    for message in reports:
        name = message.split("/")[0]
        for arguments in (["good", name], [name, "good"]):
            assert main(["compare", *arguments]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"error: {message}"), error
            assert error.endswith("copy the report anew or make it again\n")
            assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["report", "lab", "update-references"])
def test_other_commands_take_no_report(command):
    with pytest.raises(UserError, match=f"{command} takes no further argument, got 'reports/quick'"):
        parse([command, "reports/quick"])


def test_options_may_stand_before_the_command():
    assert parse(["--profile", "quick", "lab"]).command == "lab"
    assert parse(["--list"]).command == "report"
    with pytest.raises(UserError, match="test must be the first word"):
        parse(["--list", "test"])
