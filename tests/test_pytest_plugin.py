"""Contracts as tests of another package's pytest, and nothing of us where nobody asks."""

import pytest

# As it is found by its entry point; where that is not there yet, by its name.
PLUG_IN = ("-p", "no:calm-bench", "-p", "calm_bench.pytest_plugin", "-p", "no:cacheprovider")
METRIC = """
from calm_bench.metrics.base import Metric
from calm_bench.types import Column, MetricResult

class Sour(Metric):
    name = "sour"
    scope = "clip"
    columns = (Column.of("sour", "Sour", ""),)
    recipe = {"version": 1}
    heard = 0

    def score(self, clips, reference):
        Sour.heard += 1
        return MetricResult(clips={c.clip_id: {"sour": float(Sour.heard)} for c in clips})
"""


@pytest.fixture
def theirs(pytester: pytest.Pytester) -> pytest.Pytester:
    """The folder of a package that is installed, and registers a metric that changes its mind."""
    pytester.makepyfile(theirs=METRIC)
    about = pytester.mkdir("theirs-1.0.dist-info")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[calm_bench.metrics]\nsour = theirs:Sour\n")
    return pytester


def test_a_contract_that_fails_is_a_test_that_fails_with_its_line(theirs: pytest.Pytester) -> None:
    asked = ("--calm-bench-verify", "sour", "--calm-bench-verify", "vae-debug")
    result = theirs.runpytest_subprocess(*PLUG_IN, *asked)
    result.assert_outcomes(passed=2 + 3, failed=1)
    line = "The same clips give the same numbers under the same recipe: its numbers change"
    result.stdout.fnmatch_lines(["*--calm-bench-verify sour: measures_the_same_twice*", line])
    result.stdout.no_fnmatch_line("*Traceback*")
    chosen = theirs.runpytest_subprocess(*PLUG_IN, *asked, "-k", "is_causal")
    chosen.assert_outcomes(passed=1, deselected=5)


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one", "xdist"])
def test_a_name_that_nothing_has_is_one_line(
    theirs: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    result = theirs.runpytest_subprocess(*PLUG_IN, "--calm-bench-verify", "suor", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unknown system, codec, metric or embedding 'suor'*mean sour*"])


def test_where_it_is_not_asked_for_nothing_of_ours_is_imported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_it():
            ours = {name for name in sys.modules if name.startswith("calm_bench")}
            assert ours == {"calm_bench", "calm_bench.pytest_plugin"}
            assert "torch" not in sys.modules
    """)
    pytester.runpytest_subprocess(*PLUG_IN).assert_outcomes(passed=1)
