"""What every test stands on: one thread, no compiler, no network, a home that is thrown away."""

import gc
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

# Read by the libraries when they are first imported, so set before any test module is.
os.environ.update(
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    TORCHDYNAMO_DISABLE="1",
)

import pytest

pytest_plugins = ["pytester"]
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
BLANK = {
    "png": b"\x89PNG\r\n\x1a\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked with an extra that is not installed, and say which."""
    from calm_bench.cli.doctor import EXTRAS

    for extra in (name for mark in item.iter_markers("extra") for name in mark.args):
        if absent := [module for module in EXTRAS[extra] if find_spec(module) is None]:
            pytest.skip(f"needs the extra {extra}: {', '.join(absent)} not installed")


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> Iterator[None]:
    """What was made before stays: what collects garbage, as each timing does, looks at the rest."""
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def calm_bench_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty CALM_BENCH_HOME for this session, so that no test reads or fills the user's."""
    home = tmp_path_factory.mktemp("home")
    os.environ["CALM_BENCH_HOME"] = str(home)
    return home


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Connections to other machines fail at once, with a message that names the address."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_drawing() -> Iterator[Callable[..., None]]:
    """Figures are composed and saved as blanks: laying them out takes most of a report's time.

    Gives what draws them.
    """
    from matplotlib.figure import Figure

    def blank(self: Figure, out: IO[bytes], *, format: str, **_: object) -> None:
        out.write(BLANK[format])

    draws = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", blank)
        yield draws


@pytest.fixture
def drawn(no_drawing: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn after all."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", no_drawing)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """What is written is not synced: a kill takes nothing with it, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def packs_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices are packed at every precision however small, as those of larger models are."""
    for name in ("FROM_FBGEMM", "FROM_ONEDNN", "FROM_SPLIT"):
        monkeypatch.setattr(f"calm_bench.nn.kernels.{name}", 0)


@pytest.fixture
def parse_command() -> Callable[[Sequence[str]], Any]:
    """Parses the words after `calm-bench` as the command line does, and runs nothing.

    Returns the command's context, whose `params` are what the command would be called with.
    """
    import typer.main

    from calm_bench.cli.app import app

    def parsed(words: Sequence[str]) -> Any:
        command, context, rest = typer.main.get_command(app), None, list(words)
        while hasattr(command, "get_command"):  # a group: the next word is a command's name
            context = command.make_context("calm-bench", [rest[0]], parent=context)
            command = command.get_command(context, rest.pop(0))
            assert command is not None, f"there is no such command: {words}"
        return command.make_context(words[len(words) - len(rest) - 1], rest, parent=context)

    return parsed
