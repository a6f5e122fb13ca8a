"""Samples of the campaigns, and all of them; `campaign.py` beside this file runs one by itself.

The modules there are a command's own and lie in no package, so this folder is looked at first.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("children are forked and killed", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).parent))

import campaign

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads


@pytest.fixture(scope="module", autouse=True)
def loaded() -> Iterator[None]:
    """What commands import is imported once, for all children."""
    campaign.load()
    yield
    sys.path.remove(str(Path(__file__).parent))


@pytest.mark.parametrize("name", ["inputs", "kills", "damage"])
@pytest.mark.parametrize(
    "share", [pytest.param("sample", id="sample"), pytest.param("all", marks=pytest.mark.campaign)]
)
def test_nothing_is_lost_and_nothing_ends_in_a_traceback(
    name: str, share: str, tmp_path: Path
) -> None:
    tried = list(campaign.CAMPAIGNS[name](tmp_path, campaign.SAMPLE[name, share]))
    assert tried
    assert [problem for problem in tried if problem] == []
