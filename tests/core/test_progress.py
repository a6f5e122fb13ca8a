import io
import sys
import threading
import time

import pytest

from calm_bench.core import progress


def test_plain_lines_say_where_it_begins_and_where_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress.stage("making", 5, done=2) as advance:
        advance(1)
        advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["making: 3 to do, 2 done before", "making: 5/5 in 0 s"]


def test_plain_lines_come_now_and_then_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("calm_bench.core.progress.time.monotonic", lambda: now[0])
    with progress.stage("making", 100) as advance:
        for _ in range(6):
            now[0] += 4.0
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "making: 100 to do",
        "making: 30/100, 150 a minute, 28 s left",
        "making: 60/100, 150 a minute, 16 s left",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.stage("[making]", 3) as advance:
        advance(3)
    assert "[making]" in screen.getvalue()
    assert "3/3" in screen.getvalue()


def test_results_come_in_the_order_of_the_items_and_not_of_their_end() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(progress.ordered_map(slow_first, range(9), jobs=4)) == [n * n for n in range(9)]


def test_few_results_are_computed_ahead_of_a_slow_consumer() -> None:
    begun: list[int] = []
    results = progress.ordered_map(lambda n: begun.append(n) or n, range(100), jobs=2)
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
        list(progress.ordered_map(fail, range(1000), jobs=2))
    assert len(begun) < 20


def test_counting_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.counted(iter("abc"), 5, "letters", done=2)) == ["a", "b", "c"]
    assert "letters" in capsys.readouterr().err


def test_silence_is_broken_once_it_is_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("calm_bench.core.progress.SECONDS_IN_SILENCE", 0.2)
    with progress.waiting("quick"):
        pass
    with progress.waiting("slow"):
        time.sleep(0.6)
    assert capsys.readouterr().err == "slow …\n"
