"""How variants are timed in turn and what is told of them, on numbers whose answer is known."""

import pytest

from benchmarks.speed.bench import compared, interleaved


@pytest.mark.parametrize(("warm_up", "expected"), [(1, "abccbaabc"), (0, "abccba")])
def test_measurements_follow_each_other_in_turn_and_the_warm_up_is_dropped(warm_up, expected) -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = interleaved({"group": {name: lambda name=name: measure(name) for name in "abc"}}, 2, warm_up)
    assert "".join(order) == expected
    assert found == {"group": {"a": [6, 7], "b": [5, 8], "c": [4, 9]} if warm_up else {"a": [1, 6], "b": [2, 5], "c": [3, 4]}}


def test_a_load_that_grows_during_the_rounds_changes_no_ratio() -> None:
    found = compared({"stock": [10.0, 20.0, 50.0], "ours": [10.5, 21.0, 52.5]}, {"ratio": lambda t: t.ours / t.stock})
    assert found == {"rounds": 3, "quartiles": {"ratio": [1.05] * 3}, "seconds": {"stock": [15, 20, 35], "ours": [15.75, 21, 36.75]}}


def test_a_ratio_is_taken_within_its_round() -> None:
    found = compared({"stock": [1.0, 2.0, 4.0], "ours": [2.0, 2.0, 400.0]}, {"ratio": lambda t: t.ours / t.stock})
    assert found["quartiles"]["ratio"][1] == 2.0  # of 2, 1 and 100
