"""Bad inputs of every command: what each is refused with is one line, its exit code and no more.

A case is a command line, the files that are laid for it, and the exit codes that are right. Words
and files hold `{deep}`-like marks for what would be too long to write.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from harness import Said, call

from calm_bench.core import paths
from calm_bench.core.audio import write_flac
from calm_bench.listening.session import Wanted, plan_session, vote_file
from calm_bench.listening.votes import Answer, Vote, VoteBook
from calm_bench.seeds import file_hash
from calm_bench.store.run_store import RunStore

LONG = "n" * 300
DIGITS = "9" * 5000
TWICE = "\n".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(12))
LAUGHS = f"a0: &a0 [x, x]\n{TWICE}\n"
MERGED = "\n".join(f"m{n + 1}: &m{n + 1} {{<<: [{', '.join([f'*m{n}'] * 10)}]}}" for n in range(12))

BAD_YAML: dict[str, bytes] = {
    "empty": b"",
    "latin": "name: caf\xe9\n".encode("latin-1"),
    "utf-16": "name: a\n".encode("utf-16"),
    "zeros": b"\0" * 64,
    "list": b"- a\n- b\n",
    "text": b"hello",
    "open": b"name: [a, b\n",
    "tab": b"a:\n\t- b\n",
    "tag": b"name: !!python/object/apply:os.system [ls]\n",
    "deep lists": b"name: " + b"[" * 5000 + b"\n",
    "deep maps": b"name: " + b"{a: " * 400 + b"1" + b"}" * 400 + b"\n",
    "deep blocks": b"".join(b" " * n + b"a:\n" for n in range(400)),
    "laughs": LAUGHS.encode(),
    "merges": f"m0: &m0 {{a: 1}}\n{MERGED}\n".encode(),
    "circle": b"a: &a [*a]\n",
    "digits": f"name: {DIGITS}\n".encode(),
    "hex": f"name: 0x{DIGITS}\n".encode(),
    "date": b"name: 2026-99-99\n",
    "unknown alias": b"name: *nowhere\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "unhashable": b"? [a, b]\n: 1\n",
    "control": b"name: \x07\n",
}

BENCHMARK: dict[str, list[Any]] = {
    "name": ["../../../ESC", "a/b", "", "..", LONG, "a\0b", "c:d", 7],
    "version": ["one", 1.5],
    "prompts": ["../prompts.jsonl", "/etc/passwd", "", "a\0b", LONG, "nowhere.jsonl"],
    "prompt_seconds": [0, -1, float("nan"), float("inf"), 1e9, "x"],
    "seconds": [0.1, float("nan"), 1e12],
    "batch_size": [0, -1, 1e30],
    "default_prompts": [0, 10**9],
    "temperatures": [[float("nan")], [-1], [1e300], "hot"],
    "metrics": [["nothing"], [LONG], [7]],
    "references": [["mimi_round_trip"], [""], [LONG]],
    "systems": [[{"model": name, "label": "a"}] for name in ("../..", LONG, "a\0b")],
    "codecs": [{"vae": "nowhere"}, {"vae": LONG}],
    "latency": [{"frames": 0}, {"rounds": 1}],
    "asr": ["nobody", "faster-whisper:" + LONG],
    "embedding": ["nothing"],
    "surplus": [1],
}

MODEL: dict[str, list[Any]] = {
    "kind": ["codecs", 7],
    "type": ["nothing", LONG, ""],
    "version": ["x"],
    "codec": ["nowhere", "rvq-debug", LONG, "a\0b", "../.."],
    "seed": [2**64, -1, 10**30],
    "weights": [
        {"file": "../x.safetensors", "sha256": "0" * 64},
        {"file": "/etc/passwd", "sha256": "0" * 64},
        {"file": "a\0b", "sha256": "0" * 64},
        {"file": LONG, "sha256": "0" * 64},
        {"file": "config.yaml", "sha256": "0" * 64},
    ],
    "architecture.backbone.dim": [0, -16, 17, 10**12, "wide"],
    "architecture.backbone.heads": [0, 3, 16],
    "architecture.backbone.layers": [0, 10**9],
    "architecture.backbone.mlp_dim": [0, 2**62],
    "architecture.head.blocks": [10**9],
    "architecture.latent_channels": [0, 5],
    "architecture.text.vocab_size": [1, 2**40],
    "architecture.text.tokenizer": ["../x.json", "nowhere.json", "a\0b", LONG, "config.yaml"],
    "architecture.surplus": [1],
    "architecture": [LONG, []],
}

RECIPES = {
    "steps": ["0", "1e30", "many", "[", "{a: ", "&a [*a]", DIGITS],
    "batch_size": ["0", "99999999999"],
    "learning_rate": [".nan", ".inf", "-1"],
    "log_every": ["0"],
    "precision": ["fp3"],
    "corpus": ["nowhere", "..", LONG, '"a\\0b"'],
    "objective": ["{frames: 0}", "{frames: 1000000000}", "{surplus: 1}", "7"],
    "seed": ["9223372036854775808"],
    "start_from": ["nowhere", "vae-debug"],
}

PROMPT = {"id": "p", "audio": "p.flac", "sha256": "0" * 64}
LINES: dict[str, bytes] = {
    "empty": b"",
    "latin": '{"id": "caf\xe9"}\n'.encode("latin-1"),
    "zeros": b"\0\0\n",
    "list": b"[]\n",
    "torn": b'{"id": "p", \n',
    "deep": b'{"id": ' + b"[" * 9000 + b"\n",
    "digits": b'{"id": ' + DIGITS.encode() + b"}\n",
    "half a character": b'{"id": "\\ud800"}\n',
    "surplus": json.dumps({**PROMPT, "more": 1}).encode(),
    "twice": (json.dumps(PROMPT) + "\n" + json.dumps(PROMPT)).encode(),
    **{
        f"{name} {n}": json.dumps({**PROMPT, name: value}).encode()
        for name, values in {
            "id": ["../x", "a/b", "", LONG, "a\0b", "c:d", 7],
            "audio": ["../../x.flac", "/etc/passwd", "a\0b", LONG, "", "nowhere.flac"],
            "sha256": ["x", 7],
            "words": [[["a", 0]], [["a", "x", 1]], [["a", 1.0, float("nan")]]],
        }.items()
        for n, value in enumerate(values)
    },
}

OUTS = ("/proc/none", LONG, "\udcff\udcfe", "wav/a.flac", "wav/a.flac/deeper", "foreign")
WITH_OUT = (
    "run bench.yaml --no-latency --out {}",
    "run bench.yaml --fresh --no-latency --out {}",
    "score wav --metrics loudness --out {}",
    "report run --out {}",
    "data folder wav --out {}",
    "data prompts corpus --n 1 --seconds 1 --out {}",
    "speed speech --spec speed.yaml --out {}",
    "speed peers --out {}",
    "paper run --out {}",
    "export run --to audiofolder --out {}",
    "export run --to parquet --out {}",
)

OPTIONS = """
run
run nowhere
run nowhere.yaml
run {long}
run {long}.yaml
run bench.yaml --seeds 0
run bench.yaml --seeds 1000000000
run bench.yaml --seeds {digits}
run bench.yaml --prompts 0
run bench.yaml --prompts 1000000000
run bench.yaml --temps nan
run bench.yaml --temps -1
run bench.yaml --temps 1e300
run bench.yaml --temps
run bench.yaml --temps {digits}
run bench.yaml --text-temp warm
run bench.yaml --head-steps 0
run bench.yaml --head-steps {digits}
run bench.yaml --seconds inf
run bench.yaml --seconds 1e9
run bench.yaml --seconds {digits}
run bench.yaml --systems nobody
run bench.yaml --systems {long}
run bench.yaml --systems ..
run bench.yaml --precision fp3
run bench.yaml --trainings x
run bench.yaml --trainings 1,{digits}
run bench.yaml --asr nobody
run bench.yaml --language xx
run bench.yaml --device warp
run bench.yaml --device cuda:{digits}
run bench.yaml --prompt-audio nowhere.wav
run bench.yaml --prompt-audio ~nobody/x
run bench.yaml --prompt-audio bench.yaml
run bench.yaml --checkpoints
run bench.yaml --surplus
run '' --dry-run
score nowhere
score {long}
score wav/a.flac
score empty
score wav --reference nowhere
score wav --reference wav
score wav --reference {long}
score wav --metrics nothing
score wav --metrics wer
score wav --metrics fad
score wav --pair-by x
score wav --group-by '('
score wav --group-by '(a+)+$b'
score wav --embedding nothing
score wav --metrics fad --embedding nothing
score run --metrics nothing
score run --pair-by stem
score foreign
report
report nowhere
report {long}
report wav
report foreign
report run --clips 3
report run run --out site
report run --clips 0 --out site
report run --clips {digits} --out site
report run --json --out site
train
train nowhere
train {long}
train vae-debug
train mine --steps 0
train mine --devices 0
train mine --devices 99
train mine --num-nodes 0
train mine --strategy none
train mine --device warp
train mine --device cuda
train mine --device cuda:99
train mine --threads 0
train mine --seed -1
train mine --seed {digits}
train mine --seed 18446744073709551616
train mine --set
train mine --set steps
train mine --set =1
train mine --set surplus=1
train mine@seed1
train mine@500
data
data folder nowhere --out c
data folder empty --out c
data folder wav/a.flac
data folder wav --out c --layout nothing
data folder wav --out c --group-by '('
data folder wav --out c --min-seconds nan
data folder wav --out c --min-seconds 1e300
data folder wav --out c --transcribe nobody
data folder wav --out c --language de
data folder wav --out c --jobs 0
data folder text.txt --out c
data prompts nowhere --out p
data prompts wav --out p
data prompts corpus --out p --n 0
data prompts corpus --out p --n 1000000000
data prompts corpus --out p --n {digits}
data prompts corpus --out p --seconds nan
data prompts corpus --out p --seconds 1e300
data prompts corpus --out p --sample-rate 1
data prompts corpus --out p --sample-rate 1000000000000
data prompts corpus --out p --name ../x
data prompts corpus --out p --name {long}
data prompts corpus --out p --offset 1e300
data prompts corpus --out p --per-recording 0
data speech --train 0
data speech --train {digits}
data voices --jobs 0
data music --sample-rate 1
speed
speed nothing
speed speech --spec nowhere.yaml
speed speech --batch 0
speed speech --batch {digits}
speed speech --frames 0
speed speech --frames {digits}
speed speech --rounds 1
speed speech --threads 0
speed speech --clock sun
speed speech --clock cpu
speed speech --mode nothing
speed speech --mode plain --precision int8
speed speech --scale huge
speed speech --device warp
speed peers --pairs nothing
speed peers --rounds 0
listen nowhere
listen wav
listen foreign
listen run --question nothing
listen run --rows nobody
listen run --prompts 0
listen run --per-rater 0
listen run --per-rater {digits}
listen run --port 70000
listen run --port -1
listen run --votes wav/a.flac/x
listen run --votes /proc/none
elo
elo nowhere
elo nowhere.jsonl
elo run
elo text.txt
elo wav
elo run --run nowhere
elo run --run wav
export run
export run --to csv
export nowhere --to parquet
export wav --to parquet
export foreign --to audiofolder
export {long} --to audiofolder
verify
verify nowhere
verify {long}
verify wav
run bench.yaml --kernels nothing
speed speech --kernels nothing
listen run --votes foreign/manifest.json
listen run --votes text.txt
listen foreign --votes foreign/song.flac
paper nowhere
paper wav
paper foreign
paper run --verify --out nowhere
check --gates nothing
check --baseline nowhere.yaml
check --baseline bench.yaml
check --against nowhere
list --surplus
doctor --surplus
nothing
"""

ALSO_RIGHT = {
    "train mine --device cuda": (2, 3),
    "train mine --device cuda:99": (2, 3),
    "run bench.yaml --device cuda": (2, 3),
    "speed peers --pairs nothing": (2,),
    "score wav --group-by '(a+)+$b'": (2, 4),
    "score foreign": (0, 2),
    "data prompts corpus --n 1 --seconds 1 --out {}": (0, 2),
}

VERBS = (
    *("run bench.yaml --dry-run", "score wav --metrics loudness", "report run-that-is-not"),
    *("train mine", "data folder wav --out c", "speed nothing", "list", "doctor"),
    *("listen nowhere", "elo nowhere", "paper nowhere", "export nowhere --to parquet"),
)


@dataclass(frozen=True)
class Case:
    """One bad input."""

    name: str
    words: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    codes: tuple[int, ...] = (2,)
    environ: dict[str, str] = field(default_factory=dict)
    gone: bool = False
    """Whether the working folder is removed before the command runs."""


def cases() -> Iterator[Case]:
    """Every bad input."""
    for line in OPTIONS.strip().split("\n"):
        words = shlex.split(line)
        words = [word.replace("{long}", LONG).replace("{digits}", DIGITS) for word in words]
        yield Case(line, words, codes=ALSO_RIGHT.get(line, (2,)))
    for name, data in BAD_YAML.items():
        yield Case(f"benchmark {name}", ["run", "bench.yaml"], {"bench.yaml": data})
        yield Case(f"model {name}", ["train", "mine"], {"models/mine/config.yaml": data})
        yield Case(f"speed {name}", ["speed", "speech", "--spec", "s.yaml"], {"s.yaml": data})
        inside = b"architecture:\n" + b"".join(b"  " + li + b"\n" for li in data.split(b"\n"))
        system = ["run", "bench.yaml", "--systems", "mine", "--no-latency"]
        yield Case(f"shape {name}", system, {"models/mine/config.yaml": MINE + inside})
    for path, values in BENCHMARK.items():
        for n, value in enumerate(values):
            data = dump(changed(benchmark(), path, value))
            yield Case(f"benchmark {path} {n}", ["run", "bench.yaml"], {"bench.yaml": data})
    for path, values in MODEL.items():
        for n, value in enumerate(values):
            data = dump(changed(model(), path, value))
            files = {"models/mine/config.yaml": data}
            run = ["run", "bench.yaml", "--systems", "mine", "--no-latency", "--out", "o"]
            yield Case(f"run model {path} {n}", run, files)
            if n == 0:
                yield Case(f"train model {path} {n}", ["train", "mine"], files)
    for key, texts in RECIPES.items():
        for n, text in enumerate(texts):
            yield Case(f"recipe {key} {n}", ["train", "mine", "--set", f"{key}={text}"])
    for name, data in LINES.items():
        run = ["run", "bench.yaml", "--dry-run"]
        yield Case(f"prompts {name}", run, {"prompts.jsonl": data})
        if " " not in name:
            folder = ["data", "folder", "list.jsonl", "--out", "c"]
            yield Case(f"list {name}", folder, {"list.jsonl": data}, codes=(2, 4))
            train = ["train", "mine"]
            yield Case(f"corpus {name}", train, {"../home/data/tones/manifest.jsonl": data})
            yield Case(f"votes {name}", ["elo", "votes.jsonl"], {"votes.jsonl": data})
    for n, (line, out) in enumerate((line, out) for line in WITH_OUT for out in OUTS):
        words = [word.replace("{}", out) for word in shlex.split(line)]
        codes = ALSO_RIGHT.get(line, (2,)) if out == "foreign" else (2,)
        yield Case(f"out {n} {line} {ascii(out)[:20]}", words, codes=codes)
    for verb in VERBS:
        words, codes = shlex.split(verb), (0, 2, 3)
        for home in ("~nobody/x", "wav/a.flac"):
            environ = {"CALM_BENCH_HOME": home}
            yield Case(f"home {home} {verb}", words, codes=codes, environ=environ)
        yield Case(f"gone {verb}", words, codes=codes, gone=True)


def dump(data: dict[str, Any]) -> bytes:
    return yaml.safe_dump(data).encode()


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The data with another value at a path with dots."""
    part = data
    *way, last = path.split(".")
    for name in way:
        part = part[name]
    part[last] = value
    return data


def benchmark() -> dict[str, Any]:
    """The smoke benchmark with one prompt, timing nothing."""
    data: dict[str, Any] = yaml.safe_load((paths.benchmarks_dir() / "smoke.yaml").read_text())
    del data["latency"]
    return data | {"prompts": "prompts.jsonl", "default_prompts": 1}


def model() -> dict[str, Any]:
    """A small system with a recipe."""
    folder = paths.models_dirs()[-1] / "calm-debug"
    data: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    recipe = {"corpus": "tones", "steps": 2, "batch_size": 2, "learning_rate": 1e-3}
    return data | {"training": recipe | {"precision": "32-true", "objective": {"frames": 20}}}


MINE = b"kind: system\ntype: calm\ndescription: mine\ncodec: vae-debug\n"


def lay(folder: Path, home: Path) -> None:
    """Lay good files of every kind, of which each case spoils one."""
    shipped = paths.benchmarks_dir() / "prompts" / "smoke" / "smoke-0.flac"
    for name in ("wav", "empty", "foreign", "models/mine"):
        (folder / name).mkdir(parents=True)
    shutil.copyfile(shipped, folder / "p.flac")
    for name in ("wav/a.flac", "foreign/song.flac"):
        shutil.copyfile(shipped, folder / name)
    (folder / "foreign" / "manifest.json").write_text('{"run_id": "a", "plan_hash": "b"}')
    (folder / "foreign" / "index.html").write_text("<p>mine")
    (folder / "foreign" / "machine.json").write_text("{}")
    (folder / "text.txt").write_text("hello")
    prompt = PROMPT | {"sha256": file_hash(folder / "p.flac")}
    (folder / "prompts.jsonl").write_text(json.dumps(prompt))
    (folder / "bench.yaml").write_bytes(dump(benchmark()))
    (folder / "models" / "mine" / "config.yaml").write_bytes(dump(model()))
    shutil.copyfile(paths.benchmarks_dir() / "speed.yaml", folder / "speed.yaml")
    stored = Path(__file__).parents[2] / "results" / "speed-speech-tiny"
    for name in ("results.json", "manifest.json"):  # what a ledger is made of
        (folder / "stored").mkdir(exist_ok=True)
        shutil.copyfile(stored / name, folder / "stored" / name)
    lay_corpus(home / "data" / "tones")
    (folder / "corpus").symlink_to(home / "data" / "tones")


def lay_corpus(folder: Path) -> None:
    """A corpus of tones with words."""
    rate, lines = 1600, []
    for index in range(4):
        wave = 0.3 * np.sin(2 * np.pi * (100 + 40 * index) * np.arange(rate * 3) / rate)
        path = folder / f"{index}.flac"
        write_flac(path, wave.astype(np.float32), rate)
        about = {"id": f"t{index}", "split": ("train", "train", "validation", "test")[index]}
        sound = {"audio": path.name, "sample_rate": rate, "channels": 1, "seconds": 3.0}
        words = [[f"tone{index}", 0.1, 0.4], ["here", 0.5, 0.9]]
        lines.append(about | sound | {"sha256": file_hash(path), "text": "t", "words": words})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def lay_votes(run: Path) -> None:
    """What five listeners said of a run, if there is one."""
    store = RunStore(run)
    if not store.holds_run:
        return
    session, _ = plan_session(store, Wanted(question="enjoyment", per_rater=4))
    path = vote_file(run, "enjoyment")
    path.parent.mkdir()
    book = VoteBook.open(path, session.model_copy(update={"session": "a" * 16, "created": "now"}))
    for number, rater in enumerate("abcde"):
        book.welcome(rater)
        while (asked := book.pending(rater)) is not None:
            done, (prompt, draw) = len(book.votes[rater]), session.items[asked.item]
            answer: Answer = ("first", "second", "tie")[(number + done) % 3]  # type: ignore[assignment]
            about = {"cells": asked.rows, "prompt_id": prompt, "seed_index": draw}
            book.add(
                Vote(
                    rater=rater, number=done, answer=answer, heard=(1, 1), seconds=2, at="", **about
                )
            )


def tried(case: Case, good: Path, work: Path) -> str | None:
    """What is wrong with what a command makes of a bad input in a copy of good files."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(good, work, symlinks=True)
    folder, home = work / "here", work / "home"
    (folder / "corpus").unlink()
    (folder / "corpus").symlink_to(home / "data" / "tones")
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    before = _files(folder / "foreign")
    if case.gone:
        said = _call_in_gone(case, work, home)
    else:
        said = call(case.words, folder, home, **case.environ)
    fault = said.fault
    if fault is None and said.code not in case.codes:
        fault = f"exit code {said.code}, not one of {case.codes}"
    if fault is None and said.code == 2 and not re.search("[Ee]rror|Usage", said.text):
        fault = "no line says what is wrong"
    after = _files(folder / "foreign")
    lost = after != before if said.code == 2 else not before.items() <= after.items()
    if fault is None and lost:
        fault = "someone's folder was changed"
    if fault is None and any("ESC" in path.name for path in work.rglob("*")):
        fault = "something was written outside of its folder"
    last = ascii(said.text.strip().split("\n")[-1])[:300]
    return None if fault is None else f"{fault}: {last}"


def _call_in_gone(case: Case, work: Path, home: Path) -> Said:
    gone = work / "gone"
    gone.mkdir()
    before = Path.cwd()
    os.chdir(gone)
    gone.rmdir()
    try:
        return call(case.words, work / "here", home, stay="yes")
    finally:
        os.chdir(before)


def _files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
