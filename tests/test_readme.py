"""The pages' commands work, their links lead somewhere, and their tables are the stored ones."""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from commands import call

from calm_bench.config import load_benchmark, load_model_config
from calm_bench.data.folder import make_folder
from calm_bench.report.paper.ledger import Ledger
from calm_bench.store.records import weights_text
from calm_bench.store.run_store import RunStore
from calm_bench.systems.base import System
from calm_bench.systems.calm import CalmSystem

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", *DOCS]
RATE = 16000
# What makes a command quick. Those that are not here wait for a listener, look at the clock for
# minutes or need packages that tests go without: they are parsed, and have tests of their own.
QUICK = {
    "run": ["--dry-run"],
    "speed speech": ["--dry-run"],
    "speed music": ["--dry-run"],
    "score": ["--metrics", "loudness"],
    "data folder": [],
    "data prompts": ["--n", "1"],
    "train": ["--steps", "1", "--set", "corpus=my-corpus", "batch_size=1", "precision=32-true"],
}


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def shell_commands(page: str) -> list[list[str]]:
    """The words of every command in the page's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", read(page), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    parts = [part for line in lines for part in line.split(" && ")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def our_commands(page: str) -> list[list[str]]:
    """The words after `calm-bench` of every command of ours on the page."""
    return [words[1:] for words in shell_commands(page) if Path(words[0]).name == "calm-bench"]


def quick(words: Sequence[str]) -> list[str] | None:
    """The command with what makes it quick, or None if nothing does."""
    for length in (2, 1):
        if (more := QUICK.get(" ".join(words[:length]))) is not None:
            return [*words, *more]
    return None


OURS = {" ".join(words): words for page in PAGES for words in our_commands(page)}
# That page needs recordings of speech, and is run by tests/test_own_data.py.
RUNNABLE = [p for p in PAGES if any(map(quick, our_commands(p))) and p != "docs/own-data.md"]


@pytest.fixture(scope="module")
def readers_own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files and folders that the pages call the reader's own."""
    folder = tmp_path_factory.mktemp("own")
    for number, name in enumerate(
        (
            *("clips/a.flac", "clips/b_gen.flac", "originals/a.flac", "originals/b.flac"),
            *(f"my-recordings/{split}/{split}.flac" for split in ("train", "dev", "test")),
            "my-voice.wav",
        )
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(number).normal(0, 0.1, 13 * RATE), RATE)
    line = {"audio": "clips/a.flac", "text": "it was a cold night", "split": "test"}
    for name in ("voices.jsonl", "tracks.jsonl", "selection.jsonl"):
        (folder / name).write_text(json.dumps(line) + "\n")
    music, survival = re.findall(r"```yaml\n(.*?)```", read("docs/real-data.md"), re.S)
    (folder / "bench").mkdir()
    (folder / "bench/game-music.yaml").write_text(music)
    (folder / "survival.yaml").write_text(survival)
    make_folder(folder / "my-recordings", folder / "my-corpus")
    return folder


@pytest.mark.parametrize("command", OURS)
def test_every_command_parses(
    command: str,
    parse_command: Callable[[Sequence[str]], Any],
    readers_own: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(readers_own)
    parse_command(OURS[command])


@pytest.mark.parametrize("page", RUNNABLE)
def test_the_commands_of_a_page_work_one_after_the_other(
    page: str, readers_own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(readers_own, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for words in filter(None, map(quick, our_commands(page))):
        call(*words)


def test_the_scripts_that_list_recordings_are_python() -> None:
    scripts = re.findall(r"```python\n(.*?)```", read("docs/real-data.md"), re.S)
    assert len(scripts) == 3
    for script in scripts:
        ast.parse(script)


def test_there_are_commands_to_check() -> None:
    assert "run speech --temps 0.8 1.0" in OURS
    wanted = {"README.md", "docs/how-to.md", "docs/speed.md", "docs/music.md", "docs/training.md"}
    assert wanted | {"docs/real-data.md"} <= set(RUNNABLE)


def test_pip_installs_with_constraints_and_known_extras() -> None:
    project = read("pyproject.toml")
    for page in PAGES:
        for words in shell_commands(page):
            if words[:2] == ["pip", "install"]:
                assert words[2:5] == ["-c", "constraints.txt", "-e"]
                for extra in words[5].strip(".[]").split(","):
                    assert re.search(rf"^{extra} = \[", project, re.M), extra


def anchors(text: str) -> set[str]:
    """What a `#…` may name on a page: its headings in lower case, with hyphens, without marks."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_lead_to_files_and_headings(page: str) -> None:
    for link, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", read(page)):
        target = ((ROOT / page).parent / link) if link else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        assert target.resolve().is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: #{anchor}"


def test_the_readme_links_to_every_page() -> None:
    assert [page for page in PAGES[1:] if f"]({page})" not in read("README.md")] == []


def marked(page: str, mark: str) -> str:
    """What stands between a page's marks of this name."""
    (block,) = re.findall(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", read(page), re.S)
    return str(block)


@pytest.mark.parametrize(
    ("page", "mark", "stored"),
    [
        ("README.md", "results:speech", "results/speech-tiny/tables/speech.md"),
        ("docs/music.md", "results:music", "results/music-tiny/tables/music.md"),
    ],
)
def test_a_pages_table_is_the_stored_one(page: str, mark: str, stored: str) -> None:
    table = read(stored).replace("\\", "").split("\n\n### ")[0].partition("\n\n")[2].strip()
    if page == "docs/music.md":  # which shows the temperature that was chosen
        table = re.sub(r"^\|[^|]*\| 0\.[68] \|.*\n", "", table, flags=re.M)
    assert table.count("\n| ") >= 8
    assert table in marked(page, mark)


@pytest.mark.parametrize(
    ("page", "mark", "run"),
    [
        ("README.md", "results:speech", "results/speech-tiny"),
        ("docs/music.md", "results:music", "results/music-tiny"),
    ],
)
def test_numbers_of_earlier_weights_or_prompts_say_so(page: str, mark: str, run: str) -> None:
    manifest, text = RunStore(ROOT / run).read_manifest(), marked(page, mark)
    told = text.partition("\n|")[0]
    weights = {name: load_model_config(name)[0].weights for name in manifest.weights}
    shipped = {name: own and own.sha256 for name, own in weights.items()}
    assert ("earlier weights than those shipped" in told) == (shipped != manifest.weights)
    version = load_benchmark(manifest.benchmark).version
    assert (f"version {manifest.version} of the prompts" in told) == (version != manifest.version)
    assert f"weights: {weights_text(manifest.named_weights)}" in text


@pytest.mark.parametrize("path", sorted(ROOT.glob("models/*/card.md")), ids=lambda p: p.parent.name)
def test_a_card_names_its_weights_and_those_that_its_numbers_are_of(path: Path) -> None:
    card = path.read_text(encoding="utf-8")
    weights = load_model_config(path.parent.name)[0].weights
    assert weights is not None
    assert f"sha256 {weights.sha256[:12]} |" in card
    for part in card.split("\n## ")[1:]:
        if part.startswith("Measured"):
            found = re.match(r"Measured\n\nOf (earlier )?weights (\w{8})\b", part)
            assert found, "the section says first of which weights its numbers are"
            assert (found[1] is None) == weights.sha256.startswith(found[2])


@pytest.mark.parametrize("page", ["README.md", "docs/music.md", "docs/speed.md"])
def test_every_number_with_an_interval_is_a_stored_one(page: str) -> None:
    tables = [*(ROOT / "results").glob("**/tables/*.md"), ROOT / "results/paper/ledger.md"]
    stored = "\n".join(path.read_text(encoding="utf-8") for path in tables).replace("\\", "")
    words = " ".join(read(page).replace(" points", "").split())
    printed = re.findall(r"[×−+]?[\d.]+ (?:± [\d.]*\d|\[[−+]?[\d.]+, [−+]?[\d.]+\])", words)
    assert len(printed) >= 10
    assert [number for number in printed if number not in stored] == []


def test_the_plan_of_the_printed_run_is_todays() -> None:
    printed = marked("docs/how-to.md", "output:speech").split("metrics:")[0].strip("`\n")
    said = call("run", "speech", "--temps", "0.8", "1.0", "--dry-run")
    assert printed.removeprefix("text\n").strip() in said.out


def test_the_papers_verdicts_are_counted_as_in_the_committed_ledger() -> None:
    ledger = Ledger.model_validate_json((ROOT / "results/paper/ledger.json").read_bytes())
    words = " ".join(marked("README.md", "results:paper").replace("*", "").split())
    assert ledger.summary in words


def test_the_interface_of_a_system_is_shown_as_it_is() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", read("docs/extending.md"), re.S)
    (system,) = ast.parse(shown).body
    assert isinstance(system, ast.ClassDef)
    methods = [node for node in system.body if isinstance(node, ast.FunctionDef)]
    assert {method.name for method in methods} == System.__abstractmethods__ | {"__init__"}
    for method in methods:
        owner = CalmSystem if method.name == "__init__" else System
        code = getattr(owner, method.name).__code__
        names = [argument.arg for argument in method.args.args]
        assert names == list(code.co_varnames[: code.co_argcount])
