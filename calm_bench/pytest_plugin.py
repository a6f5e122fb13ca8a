"""`pytest --calm-bench-verify NAME`: each check of `calm-bench verify` as a test of its own.

pytest loads this wherever calm-bench is installed: nothing of ours is imported unless asked for.
"""

from collections.abc import Callable
from typing import Any

import pytest

OPTION = "--calm-bench-verify"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    about = "check a system, codec, metric or embedding of calm-bench by name; may be repeated"
    group = parser.getgroup("calm-bench")
    group.addoption(OPTION, action="append", default=[], metavar="NAME", help=about)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what nothing is called by, once for all workers."""
    for name in config.getoption(OPTION):
        from calm_bench import contracts
        from calm_bench.errors import BenchError

        try:
            contracts.found(name)
        except BenchError as error:
            raise pytest.UsageError(f"{OPTION} {name}: {error}") from error


@pytest.hookimpl(tryfirst=True)  # before `-k` chooses among tests
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add a test for each check of each part."""
    for name in dict.fromkeys(config.getoption(OPTION)):
        from calm_bench import contracts

        kind, load = contracts.found(name)
        for check in contracts.CHECKS[kind]:
            title = f"{OPTION} {name}: {check.__name__}"
            items.append(Contract.from_parent(session, name=title, check=check, load=load))


class Contract(pytest.Item):
    """One check of a part, which `load` gives, and loads once for all of its checks."""

    def __init__(self, *, check: Callable[[Any], None], load: Callable[[], Any], **about: Any):
        super().__init__(**about)
        self.check, self.load = check, load

    def runtest(self) -> None:
        """Load the part if that is not done, and check it."""
        self.check(self.load())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: Any) -> str:
        """The line that `calm-bench verify` says."""
        from calm_bench.contracts import fault_of, sentence

        return f"{sentence(self.check)}: {fault_of(excinfo.value)}"

    def reportinfo(self) -> tuple[Any, None, str]:
        """Where it is from."""
        return __file__, None, self.name
