"""Seeded values as notebooks take them apart."""

from labreport.study import after, mean_of, pick


def test_after_takes_the_value_of_an_epoch_counted_from_one():
    assert after({0: [0.1, 0.2, 0.3], 1: [0.4, 0.5, 0.6]}, 2) == {0: 0.2, 1: 0.5}


def test_pick_and_mean_go_seed_by_seed():
    results = {0: {"a": [1.0, 3.0]}, 1: {"a": [5.0]}}
    assert pick(results, "a") == {0: [1.0, 3.0], 1: [5.0]}
    assert mean_of(results, "a") == {0: 2.0, 1: 5.0}
