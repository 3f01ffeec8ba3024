"""Intervals against values worked out by hand, and the texts made of them."""

import math

import pytest
from scipy import stats

from labreport.science.statistics import (
    Difference,
    holm,
    image_interval,
    in_words,
    interval_of_mean,
    paired_difference,
    percent_table,
    summarise,
    unpaired_difference,
    value_table,
)


def test_mean_and_standard_deviation_of_three_values():
    summary = summarise([0.94, 0.95, 0.96])  # squares of the deviations: 1e-4 + 0 + 1e-4, over n - 1 = 2
    assert summary.mean == pytest.approx(0.95)
    assert summary.sd == pytest.approx(0.01)
    assert summary.n == 3


def test_values_are_listed_in_the_order_of_their_seeds():
    assert summarise({2: 0.3, 0: 0.1, 1: 0.2}).values == (0.1, 0.2, 0.3)


def test_interval_of_three_values_is_4_303_standard_errors():
    interval = interval_of_mean([1.0, 2.0, 3.0])  # t(0.975, 2) = 4.302653, standard error 1 / sqrt(3)
    assert interval.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


def test_interval_of_five_values_is_2_776_standard_errors():
    interval = interval_of_mean([0.0, 1.0, 2.0, 3.0, 4.0])  # t(0.975, 4) = 2.776445, sd = sqrt(2.5)
    assert interval.high - 2 == pytest.approx(2.776445 * math.sqrt(0.5), abs=1e-6)


def test_difference_is_paired_by_seed_not_by_position():
    difference = paired_difference({0: 0.91, 1: 0.82, 2: 0.73}, {2: 0.70, 1: 0.80, 0: 0.90})
    assert difference.mean == pytest.approx(0.02)  # 0.01, 0.02, 0.03 although the values spread over 0.2
    assert difference.high - difference.mean == pytest.approx(4.302653 * 0.01 / math.sqrt(3), abs=1e-8)


def test_difference_uses_only_the_seeds_that_both_have():
    assert paired_difference({0: 1.0, 1: 2.0, 7: 99.0}, {0: 0.5, 1: 1.5, 8: -99.0}).n == 2


def test_one_pair_has_an_infinite_interval():
    difference = paired_difference({0: 0.9}, {0: 0.8})
    assert (difference.low, difference.high, difference.n) == (-math.inf, math.inf, 1)


def test_no_seed_in_common_is_an_error_that_names_the_seeds():
    with pytest.raises(ValueError, match=r"\[0\] and \[1\]"):
        paired_difference({0: 0.9}, {1: 0.8})


@pytest.mark.parametrize(("a", "b"), [([1.0, 2.0, 4.0], [2.0, 2.1, 2.2, 2.5]), ([3.0, 3.5, 7.0], [1.0, 1.1, 1.3])])
def test_unpaired_difference_is_welchs(a, b):
    difference = unpaired_difference(dict(enumerate(a)), dict(enumerate(b)))
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert difference.mean == pytest.approx(sum(a) / len(a) - sum(b) / len(b))
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert difference.n == 3


def test_unpaired_difference_of_one_value_or_without_spread_has_an_interval_too():
    one = unpaired_difference({0: 0.9}, {0: 0.8, 1: 0.7})
    assert (one.low, one.high, one.n) == (-math.inf, math.inf, 1)
    half = unpaired_difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.5, 1: 0.5, 2: 0.5})  # as if 0.5 were known
    assert half.high == pytest.approx(1.5 + 4.302653 / math.sqrt(3), abs=1e-6)
    flat = unpaired_difference({0: 0.75, 1: 0.75}, {0: 0.5, 1: 0.5, 2: 0.5})
    assert (flat.mean, flat.low, flat.high, flat.n) == (0.25, 0.25, 0.25, 2)


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_texts_give_percent_points_interval_and_seeds():
    assert summarise([0.94, 0.95, 0.96]).percent() == "95.0 ± 1.0 %"
    assert summarise([0.9527]).percent(2) == "95.27 %"
    difference = paired_difference({0: 0.89, 1: 0.88, 2: 0.87}, {0: 0.9, 1: 0.9, 2: 0.9})
    assert difference.points() == "−2.0 points (95 % interval −4.5 to +0.5, 3 seeds)"
    assert paired_difference({0: 3.0}, {0: 1.0}).text(unit="s") == "+2.0 s (1 seed)"


def test_table_shows_mean_spread_n_and_every_seed():
    table = percent_table({"ours": {0: 0.97, 1: 0.98}, "random": {0: 0.84}}, "encoder")
    assert list(table.columns) == ["encoder", "test accuracy (%)", "n", "every seed (%)"]
    assert table.iloc[0].tolist() == ["ours", "97.5 ± 0.7", 2, "97.0, 98.0"]
    assert table.iloc[1].tolist() == ["random", "84.0", 1, "84.0"]


def test_value_table_gives_each_quantity_its_digits():
    scores = {"h": {"effective_rank": {0: 4.26, 1: 6.26}, "within": {0: -0.5}}}
    frame = value_table(scores, "on", {"effective_rank": 1, "within": 3})
    assert frame.to_dict("records") == [{"on": "h", "effective rank": "5.3 ± 1.4", "within": "−0.500"}]


def test_holm_multiplies_the_smallest_p_by_the_number_of_comparisons_and_never_falls():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": 0.03, "c": 0.06, "b": 0.06}
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0} and holm({}) == {}


def test_other_test_images_move_an_accuracy_by_the_binomials_spread():
    confusion = [[950, 50], [50, 950]]  # 2,000 images, 95 % right: sd sqrt(0.95 * 0.05 / 2000)
    interval = image_interval({0: confusion, 1: confusion})
    assert interval.mean == 0.95 and interval.n == 2
    half = 1.96 * math.sqrt(0.95 * 0.05 / 2000)
    assert interval.high - 0.95 == pytest.approx(half, rel=0.06)
    assert 0.95 - interval.low == pytest.approx(half, rel=0.06)


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.1, 0.2, "up"), (-0.2, -0.1, "down"), (-0.1, 0.1, "inconclusive")]
)
def test_an_interval_on_both_sides_of_zero_is_inconclusive(low, high, words):
    assert words in in_words(Difference(0.0, low, high, 3), "up", "down")
