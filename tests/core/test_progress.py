import io
import sys

import pytest

from calm_bench.core import progress


def test_plain_lines_say_where_it_begins_and_where_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress.stage("making", 5, done=2) as advance:
        advance(1)
        advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["making: 2/5", "making: 5/5 in 0 s"]


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
    assert lines == ["making: 0/100", "making: 30/100, 28 s left", "making: 60/100, 16 s left"]


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
