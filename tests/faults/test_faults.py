"""Samples of the campaigns, and all of them; `campaign.py` beside this file runs one by itself.

The modules there are a command's own and lie in no package, so this folder is looked at first.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("children are forked and killed", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).parent))

import campaign
from harness import call

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads


@pytest.fixture(scope="module", autouse=True)
def loaded() -> Iterator[None]:
    """What commands import is imported once, for all children."""
    campaign.load()
    yield
    sys.path.remove(str(Path(__file__).parent))


@pytest.mark.parametrize(
    ("name", "share"),
    [
        pytest.param(*key, marks=[pytest.mark.campaign] if key[1] == "all" else [])
        for key in campaign.SAMPLE
    ],
)
def test_nothing_is_lost_and_nothing_ends_in_a_traceback(
    name: str, share: str, tmp_path: Path
) -> None:
    cases = campaign.CAMPAIGNS[name](tmp_path, campaign.SAMPLE[name, share], "")
    tried = {case: problem() for case, problem in cases}
    assert tried
    assert {case: problem for case, problem in tried.items() if problem} == {}


Commanded = Callable[[Callable[[], None]], Path]


@pytest.fixture
def commanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commanded:
    """Has a function in the place of all commands; the folder that these work in."""

    def stand_in(function: Callable[[], None]) -> Path:
        monkeypatch.setattr("typer.main.get_command", lambda _: lambda *_, **__: function())
        (tmp_path / "here").mkdir()
        return tmp_path / "here"

    return stand_in


@pytest.mark.parametrize("synced", [False, True])
def test_without_power_what_was_not_synced_is_lost(commanded: Commanded, synced: bool) -> None:
    def write() -> None:
        with Path("a").open("wb", buffering=0) as file:
            file.write(bytes(10))
            if synced:
                os.fsync(file.fileno())
        Path("a").rename("b")

    here = commanded(write)
    left = {}
    for kill_at in (0, 2 + synced, 5, 6):  # at the first point, and behind the last
        for power in (True, False):
            said = call([], here, here, kill_at=kill_at, power=power)
            assert said.code == (-9 if kill_at == 0 else 0)
            left[kill_at, power] = (here / "b").stat().st_size if kill_at else None
            assert kill_at or not any(here.iterdir())
    assert left[5, True] == left[6, True] == 10
    assert (left[5, False], left[6, False]) == ((10, 10) if synced else (5, 0))


def test_who_is_killed_in_a_rename_has_not_renamed(commanded: Commanded) -> None:
    def write() -> None:
        Path("a").write_bytes(bytes(10))
        Path("a").rename("b")

    here = commanded(write)
    assert call([], here, here, kill_at=1).code == -9
    assert [path.name for path in here.iterdir()] == ["a"]


def test_what_hangs_is_at_fault(commanded: Commanded) -> None:
    here = commanded(lambda: time.sleep(60))
    assert str(call([], here, here, limit=0.2).fault).startswith("took")


def test_what_raises_is_at_fault(commanded: Commanded) -> None:
    here = commanded(lambda: (_ for _ in ()).throw(KeyError("x")))
    assert "traceback" in str(call([], here, here).fault)
