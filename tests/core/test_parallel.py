import threading
import time

import pytest

from calm_bench.core.progress import counted, ordered_map


def test_results_come_in_the_order_of_the_items_and_not_of_their_end() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(ordered_map(slow_first, range(9), jobs=4)) == [n * n for n in range(9)]


def test_few_results_are_computed_ahead_of_a_slow_consumer() -> None:
    begun: list[int] = []
    results = ordered_map(lambda n: begun.append(n) or n, range(100), jobs=2)
    assert next(results) == 0
    time.sleep(0.02)
    assert len(begun) <= 6
    results.close()


def test_an_error_reaches_the_consumer_and_stops_the_rest() -> None:
    lock, begun = threading.Lock(), []

    def fail(number: int) -> int:
        with lock:
            begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(ordered_map(fail, range(1000), jobs=2))
    assert len(begun) < 20


def test_counting_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(counted(iter("abc"), 5, "letters", done=2)) == ["a", "b", "c"]
    assert "letters" in capsys.readouterr().err
