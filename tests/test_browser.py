"""The pages in a real browser: headless Chromium, driven by Playwright."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import keep_clip, manifest, results

from calm_bench.listening.server import Desk, ListeningServer
from calm_bench.listening.session import Wanted, plan_session
from calm_bench.listening.votes import VoteBook
from calm_bench.report.page import Section, write_page, write_site
from calm_bench.report.players import ClipLookup
from calm_bench.store.records import Row, ScoreRecord, TranscriptRecord
from calm_bench.store.results import Value
from calm_bench.store.run_store import RunStore
from calm_bench.types import Column

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

RATE, SECONDS, PROMPT = 16000, 4.0, 1.0
PATIENCE = 120  # seconds until what a page owes will never come; nothing is slower for it
PROMPTS = ("dog", "cat", "owl")
# By row: the WER of its three clips.
SYSTEMS = {"CALM": (30.0, 10.0, 20.0), "RQ-Transformer": (5.0, 50.0, 25.0)}


def make_run(root: Path, benchmark: str = "speech") -> RunStore:
    run_id, store = f"{benchmark}-0123abcd", RunStore(root)
    cells = tuple(
        Row(cell_id=label.lower(), label=label, kind="system", temperature=0.8) for label in SYSTEMS
    )
    cells += (Row(cell_id="reference", label="Reference", kind="reference"),)
    column = Column(
        name="wer", label="WER", unit="%", metric="wer", aggregate="mean", fields=("w",)
    )
    means = {cell.cell_id: float(np.mean(SYSTEMS.get(cell.label, (2.0,)))) for cell in cells}
    rows = [
        Value(
            cell_id=c.cell_id, system=c.label, metric="wer", value=means[c.cell_id], recipe_id="r"
        )
        for c in cells
    ]
    command = ("calm-bench", "run", benchmark)
    about = {"run_id": run_id, "benchmark": benchmark, "command": command}
    store.begin(manifest(**about, status="finished"))
    found = {
        "cells": cells,
        "columns": (column,),
        "rows": rows,
        "recipes": {"r": {"metric": "wer"}},
    }
    store.write_results(results(run_id=run_id, benchmark=benchmark, **found))
    t = np.arange(round(SECONDS * RATE)) / RATE
    for c, cell in enumerate(cells):
        for p, prompt in enumerate(PROMPTS):
            wave = (0.2 * np.sin(2 * np.pi * (200 + 90 * p + 20 * c) * t)).astype(np.float32)
            words = (("Once", 0.1, 0.5), ("upon", 1.2, 1.5))
            about = {"prompt_seconds": PROMPT, "words": words}
            trial = keep_clip(store, cell.cell_id, prompt, wave, RATE, **about)
            store.append(
                TranscriptRecord(
                    clip_id=trial.clip_id,
                    recipe_id="a",
                    text="",
                    words=(("Once", 0.1, 0.5), ("a", 1.2, 1.5)),
                ),
                ScoreRecord(
                    metric="wer",
                    recipe_id="r",
                    cell_id=cell.cell_id,
                    trial_id=trial.trial_id,
                    clip_id=trial.clip_id,
                    values={"w": SYSTEMS.get(cell.label, (2.0,) * 3)[p]},
                ),
            )
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    from calm_bench.report.tables import main_table

    store = make_run(tmp_path_factory.mktemp("runs") / "speech-0123abcd")
    results = store.read_results()
    write_page(Section(clips=ClipLookup(store), results=results, tables=[main_table(results)]))
    return store


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            # CI runs as root, where Chromium's own sandbox does not start.
            args=["--no-sandbox", "--disable-background-networking", "--mute-audio"],
        )
        yield browser
        browser.close()


class Watched:
    """A page, what it complained of, and what it asked for."""

    def __init__(self, page: Any) -> None:
        self.page, self.problems, self.requests = page, [], []
        page.set_default_timeout(1000 * PATIENCE)
        page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("requestfailed", self.failed)
        page.on("request", lambda request: self.requests.append(request.url))

    def failed(self, request: Any) -> None:
        # A seek gives up what was being read of a clip, which is no failure.
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"{request.failure}: {request.url}")

    def wait(self, condition: str) -> None:
        # Playwright's own waiting needs eval(), which the listening test's page forbids.
        given_up = time.monotonic() + PATIENCE
        while time.monotonic() < given_up:
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"never came true: {condition}")

    def playing(self) -> list[int]:
        found: list[int] = self.page.evaluate(
            "[...document.querySelectorAll('audio')].flatMap((a, i) => a.paused ? [] : [i])"
        )
        return found

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found


@pytest.fixture(params=["desktop", "phone"])
def watched(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Watched]:
    phone = request.param == "phone"
    size = {"width": 390, "height": 844} if phone else {"width": 1400, "height": 900}
    page = chromium.new_page(viewport=size, has_touch=phone)
    yield Watched(page)
    page.close()


@pytest.fixture
def desktop(chromium: Any) -> Iterator[Watched]:
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    yield Watched(page)
    page.close()


# -- the listening page --------------------------------------------------------------------------


def opened(watched: Watched, folder: Path) -> Any:
    watched.page.goto((folder / "index.html").as_uri())
    return watched.page


def test_playing_one_pauses_the_others_and_nothing_leaves_the_folder(
    watched: Watched, store: RunStore
) -> None:
    page = opened(watched, store.root / "page")
    buttons = page.locator("td .play")
    buttons.nth(0).click()
    watched.wait("document.querySelectorAll('td audio')[0].currentTime > 0.1")
    assert watched.playing() == [1]  # the row's first is the prompt
    assert page.locator("#now").inner_text() == "Playing CALM, temp 0.8, prompt dog"
    assert buttons.nth(0).get_attribute("aria-label") == "Pause CALM, temp 0.8, prompt dog"
    page.locator("td .skip").nth(1).click()
    watched.wait("document.querySelectorAll('td audio')[1].currentTime > 1.05")
    assert watched.playing() == [2]
    page.locator("th .play").nth(1).click()
    # A player is no longer paused before the others hear of it.
    watched.wait(
        "!document.querySelectorAll('th audio')[1].paused"
        " && document.querySelectorAll('td audio')[1].paused"
    )
    assert watched.playing() == [4]
    page.locator("td .draw").nth(2).click()
    image = page.locator("img.spectrogram")
    watched.wait("document.querySelector('img.spectrogram').naturalWidth === 400")
    assert image.get_attribute("alt") == "Spectrogram of Reference, prompt dog"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert watched.problems == []
    root = store.root.as_uri()
    assert all(url.startswith(f"{root}/") for url in watched.requests)
    assert len(set(watched.requests)) == 1 + 3 + 1  # the page, what was played, what was drawn


def test_blind_mode_hides_what_could_name_a_system(watched: Watched, store: RunStore) -> None:
    page = opened(watched, store.root / "page")
    page.locator("#blind").click()
    assert watched.texts(".players tbody tr:first-child .who") == ["clip A", "clip B", "clip C"]
    seen = " ".join(
        [
            *watched.texts(".players"),
            *page.locator(".players [aria-label]").evaluate_all(
                "all => all.map((element) => element.getAttribute('aria-label'))"
            ),
        ]
    )
    assert [n for n in ("CALM", "RQ", "Reference", "WER", "baseline", "meant") if n in seen] == []
    page.locator("td .play:visible").first.click()
    watched.wait("document.getElementById('now').textContent === 'Playing clip A, prompt dog'")
    page.locator(".reveal").first.click()
    names = {
        text.partition(": ")[2] for text in watched.texts(".players tbody tr:first-child .who")
    }
    assert names == {"CALM, temp 0.8", "RQ-Transformer, temp 0.8", "Reference"}
    page.locator("#blind").click()
    cells = page.locator(".players tbody tr:first-child td")
    order = cells.evaluate_all("all => all.map((cell) => cell.dataset.name)")
    assert order == ["CALM, temp 0.8", "RQ-Transformer, temp 0.8", "Reference"]
    assert watched.problems == []


def test_blind_mode_shuffles_every_row(desktop: Watched, store: RunStore) -> None:
    page = opened(desktop, store.root / "page")
    orders = set()
    for _ in range(12):
        page.keyboard.press("b")
        rows = page.locator(".players tbody tr")
        orders |= set(
            rows.evaluate_all(
                "all => all.map((row) => [...row.cells].map((c) => c.dataset.column).join())"
            )
        )
        page.keyboard.press("b")
    assert len(orders) > 3


def test_rows_are_sorted_by_a_systems_score(desktop: Watched, store: RunStore) -> None:
    page = opened(desktop, store.root / "page")

    def order() -> list[str]:
        return page.locator("tbody tr[data-prompt]").evaluate_all(
            "all => all.map(r => r.dataset.prompt)"
        )

    page.get_by_label("Sort rows by").select_option("WER (%)")
    assert order() == ["dog", "owl", "cat"]
    page.locator(".of").select_option("RQ-Transformer, temp 0.8")
    assert order() == ["cat", "owl", "dog"]
    page.locator(".way").select_option("smallest")
    assert order() == ["dog", "owl", "cat"]
    page.get_by_label("Sort rows by").select_option("the run's order")
    assert order() == ["dog", "cat", "owl"]


def test_tables_are_sorted_by_their_headings(desktop: Watched, store: RunStore) -> None:
    page = opened(desktop, store.root / "page")
    heading = page.get_by_role("button", name="WER (%)")
    heading.click()
    assert desktop.texts(".numbers tbody td:first-child") == ["RQ-Transformer", "CALM", "Reference"]
    heading.click()
    assert desktop.texts(".numbers tbody td:first-child") == ["Reference", "CALM", "RQ-Transformer"]
    assert page.locator(".numbers th[aria-sort]").get_attribute("aria-sort") == "ascending"


def test_the_page_is_operated_by_keys(desktop: Watched, store: RunStore) -> None:
    page = opened(desktop, store.root / "page")
    page.keyboard.press("2")
    desktop.wait("!document.querySelectorAll('td audio')[1].paused")
    page.keyboard.press("Space")
    assert desktop.playing() == []
    page.keyboard.press("e")
    desktop.wait("document.querySelectorAll('td audio')[1].currentTime >= 1")
    page.keyboard.press("Space")
    page.keyboard.press("l")
    assert page.evaluate("document.querySelectorAll('td audio')[1].currentTime") >= 3
    page.keyboard.press("s")
    assert page.locator("img.spectrogram").count() == 1
    page.keyboard.press("n")
    desktop.wait("!document.querySelectorAll('td audio')[4].paused")
    assert desktop.playing() == [6]
    page.keyboard.press("Space")
    wave = page.locator(".wave").nth(6)
    wave.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert float(wave.get_attribute("aria-valuenow")) == pytest.approx(1.0, abs=0.1)
    assert wave.get_attribute("aria-valuetext").startswith("1.0 of 4.0 seconds")
    assert desktop.problems == []


def test_the_outline_is_sought_in(desktop: Watched, store: RunStore) -> None:
    page = opened(desktop, store.root / "page")
    box = page.locator("td .wave").first.bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 5)
    desktop.wait("document.querySelector('td audio').currentTime >= 2.9")
    mark = page.locator("td .end").first.evaluate("e => e.style.left")
    assert mark == "25%"


def test_a_page_of_several_runs_stands_alone(
    desktop: Watched, store: RunStore, tmp_path: Path
) -> None:
    music = make_run(tmp_path / "music", "music")
    sections = [Section(clips=ClipLookup(s), results=s.read_results()) for s in (store, music)]
    write_site(sections, tmp_path / "site", max_rows=2)
    moved = (tmp_path / "site").rename(tmp_path / "moved here")
    page = opened(desktop, moved)
    assert desktop.texts("nav a") == ["speech", "music"]
    assert page.locator(".players tbody tr").count() == 4
    for i in (0, 6):
        page.locator("td .play").nth(i).click()
        desktop.wait(f"document.querySelectorAll('td audio')[{i}].currentTime > 0.1")
        assert len(desktop.playing()) == 1
    seconds = page.locator("td audio").first.evaluate("audio => audio.duration")
    assert seconds == pytest.approx(SECONDS, abs=0.01)  # what Opus adds at either end is cut off
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert desktop.problems == []
    assert all(url.startswith(f"{moved.as_uri()}/") for url in desktop.requests)
    assert sum(url.endswith(".opus") for url in desktop.requests) >= 2


# -- the listening test --------------------------------------------------------------------------


@pytest.fixture
def served(store: RunStore, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    wanted = Wanted(question=getattr(request, "param", "meaningfulness"), per_rater=2)
    session, files = plan_session(store, wanted)
    path = tmp_path / "votes.jsonl"
    with ListeningServer(Desk(VoteBook.open(path, session), files)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server, path
        server.shutdown()
        thread.join()


def heard(watched: Watched, n_clips: int, *, keys: bool) -> None:
    """Listen past the prompt of each clip, as the page asks."""
    for i in range(n_clips):
        if keys:
            watched.page.keyboard.press("ab"[i])
        else:
            watched.page.locator(".clip button").nth(i).click()
        watched.wait(f"document.querySelectorAll('.clip h3 span')[{i}].textContent === '✓ heard'")


def test_a_listener_compares_clips(watched: Watched, served: Any) -> None:
    server, path = served
    page = watched.page
    page.goto(server.address)
    page.get_by_label("Your name").fill("ada")
    page.get_by_role("button", name="Start").click()
    assert page.locator("h2:visible").inner_text() == "Which is more meaningful and natural speech?"
    assert page.get_by_role("radio").first.is_disabled()
    assert page.get_by_role("button", name="Next").is_disabled()
    heard(watched, 2, keys=False)
    page.get_by_role("radio", name="Clip A").check()
    page.get_by_role("button", name="Next").click()
    watched.wait("document.getElementById('progress').textContent === 'Question 2 of 2'")
    page.reload()
    page.get_by_label("Your name").fill("ada")
    page.keyboard.press("Enter")
    watched.wait("document.getElementById('progress').textContent === 'Question 2 of 2'")
    heard(watched, 2, keys=True)
    assert "CALM" not in page.content()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Thank you").wait_for()
    votes = VoteBook.read(path).votes["ada"]
    assert [vote.answer for vote in votes] == ["first", "tie"]
    assert all(min(vote.heard) > 2 for vote in votes)
    assert watched.problems == []
    assert all(url.startswith((server.address, "data:")) for url in watched.requests)


@pytest.mark.parametrize("served", ["quality"], indirect=True)
def test_a_listener_scores_sound(desktop: Watched, served: Any) -> None:
    server, path = served
    page = desktop.page
    page.goto(server.address)
    page.get_by_label("Your name").fill("ada")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="How good is the sound?").wait_for()
    heard(desktop, 1, keys=True)
    page.keyboard.press("4")
    assert page.get_by_role("radio", name="4 – Good").is_checked()
    page.keyboard.press("Enter")
    desktop.wait("document.getElementById('progress').textContent === 'Question 2 of 2'")
    assert [vote.answer for vote in VoteBook.read(path).votes["ada"]] == [4]
    assert desktop.problems == []


def test_a_dead_server_is_said(desktop: Watched, served: Any) -> None:
    server, _ = served
    page = desktop.page
    page.goto(server.address)
    page.route("**/question", lambda route: route.abort())
    page.get_by_label("Your name").fill("ada")
    page.keyboard.press("Enter")
    problem = page.get_by_role("alert")
    problem.wait_for()
    assert problem.inner_text().startswith("The server does not answer.")
