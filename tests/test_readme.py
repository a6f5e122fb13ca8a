"""The README's commands are ones the command line understands, and its claims about files hold."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from calm_bench.report.paper.ledger import Ledger

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "CONTRIBUTING.md"]


def shell_commands(page: str) -> list[list[str]]:
    """The words of every command in the page's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    parts = [part for line in lines for part in line.split(" && ")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


OURS = [words[1:] for page in PAGES for words in shell_commands(page) if words[0] == "calm-bench"]


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_parses(
    words: list[str],
    parse_command: Callable[[Sequence[str]], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    # Files and folders that the examples call the reader's own.
    for folder in ("clips", "originals", "my-recordings"):
        (tmp_path / folder).mkdir()
    (tmp_path / "my-voice.wav").touch()
    parse_command(words)


def test_there_are_commands_to_check() -> None:
    assert ["run", "speech", "--temps", "0.8", "1.0"] in OURS
    assert len(OURS) >= 8


def test_pip_installs_with_constraints_and_known_extras() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for page in PAGES:
        for words in shell_commands(page):
            if words[:2] == ["pip", "install"]:
                assert words[2:5] == ["-c", "constraints.txt", "-e"]
                for extra in words[5].strip(".[]").split(","):
                    assert re.search(rf"^{extra} = \[", project, re.M), extra


def test_links_lead_to_files() -> None:
    for page in [*PAGES, "docs/footguns.md", "CHANGELOG.md"]:
        text = (ROOT / page).read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", text):
            assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"


def test_generated_parts_keep_their_marks() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for mark in ("results:speech", "output:speech"):
        assert text.count(f"<!-- {mark} -->") == text.count(f"<!-- /{mark} -->") == 1


def test_the_papers_verdicts_are_counted_as_in_the_committed_ledger() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- results:paper -->(.*?)<!-- /results:paper -->", text, re.S)
    if block is None:
        pytest.skip("the README has no part on the paper's claims")
    ledger = Ledger.model_validate_json((ROOT / "results/paper/ledger.json").read_bytes())
    words = " ".join(block[1].replace("*", "").split())
    assert ledger.summary in words
