"""What every test stands on: one thread, no compiler, no network, a home that is thrown away."""

import os
import socket
from pathlib import Path
from typing import Any

# Read by the libraries when they are first imported, so set before any test module is.
os.environ.update(
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    TORCHDYNAMO_DISABLE="1",
)

import pytest

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(scope="session", autouse=True)
def calm_bench_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty CALM_BENCH_HOME for this session, so that no test reads or fills the user's."""
    home = tmp_path_factory.mktemp("home")
    os.environ["CALM_BENCH_HOME"] = str(home)
    return home


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Any:
    """Connections to other machines fail at once, with a message that names the address."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def packs_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices are packed at every precision however small, as those of larger models are."""
    for name in ("FROM_FBGEMM", "FROM_ONEDNN", "FROM_SPLIT"):
        monkeypatch.setattr(f"calm_bench.nn.product.{name}", 0)
