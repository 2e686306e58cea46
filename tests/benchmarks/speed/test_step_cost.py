"""The arithmetic of the figures of temporal attention's time, on numbers whose answer is known."""

import pytest

from benchmarks.speed.step_cost import interleaved, step_figures


def test_a_step_is_predicted_from_the_attention_with_more_keys_alone() -> None:
    four = {"stock": [10.0, 10.0, 10.0], "temporal": [11.0, 13.0, 12.0], "plain": [1.0, 1.0, 1.0], "wide": [2.0, 3.0, 2.0]}
    found = step_figures({"all": four})
    assert found["step_ratio"] == {"all": pytest.approx(1.2)}
    assert found["step_ratio_predicted"] == {"all": pytest.approx(1.1)}
    assert found["step"]["rounds"] == 3


def test_a_machine_that_slows_down_during_the_rounds_changes_no_ratio() -> None:
    steady = {"stock": 4.0, "temporal": 5.0, "plain": 1.0, "wide": 2.0}
    slower = {what: [value * load for load in (1, 1, 2, 3, 5)] for what, value in steady.items()}
    found = step_figures({"all": slower})
    assert found["step"]["quartiles"]["all"] == {"ratio": [1.25] * 3, "predicted": [1.25] * 3, "over_predicted": [1.0] * 3}


def test_measurements_follow_each_other_in_turn_and_the_warm_up_is_dropped() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = interleaved({"group": {name: lambda name=name: measure(name) for name in "abc"}}, 2)
    assert "".join(order) == "abccbaabc"
    assert found == {"group": {"a": [6, 7], "b": [5, 8], "c": [4, 9]}}
