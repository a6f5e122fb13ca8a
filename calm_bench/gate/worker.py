"""Times blocks of frames in a process of its own, by the step methods of the tree it is given.

Run as a script, by its path, with that tree on PYTHONPATH: `--against` runs this same file over two
versions of the package, so it imports nothing of calm_bench but what the first version had, and
takes the frame that is timed from the file beside this tree's protocol. One JSON object per line:
requests on standard input, replies on standard output. Between requests it sleeps, so that of
several workers only one ever runs.

A block is one whole generation at batch 1 on one thread; `start` is not in it. Each stage's time is
summed over the block, on two clocks: processor time of the whole process, which other programs
cannot add to, and wall time, which is what a user waits.
"""

import importlib
import inspect
import json
import os
import runpy
import shutil
import sys
import time
from pathlib import Path
from typing import Any

PROMPT_FRAMES = 12
CLOCKS = {"cpu": time.process_time_ns, "wall": time.perf_counter_ns}
FRAMES = runpy.run_path(str(Path(__file__).parents[1] / "speed" / "frames.py"))


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    arms: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "load" in request:
                reply = _load(request, arms)
            else:
                reply = time_block(arms[request["block"]], request["frames"])
        except Exception as error:  # of any tree, however old: the other side turns it into a line
            reply = {"error": f"{type(error).__name__}: {str(error) or 'no message'}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _load(request: dict[str, Any], arms: dict[str, Any]) -> dict[str, Any]:
    """Load systems, {arm: {"model": name, **options of load_system}}; say what was loaded."""
    import torch

    torch.set_num_threads(1)
    notes = []
    for arm, wanted in request["load"].items():
        options = {key: value for key, value in wanted.items() if key != "model"}
        arms[arm], note = _system(wanted["model"], options)
        notes += [note] if note else []
    if request["core"] is not None:  # not before: a crew loads side by side, and runs on one core
        os.sched_setaffinity(0, {request["core"]})
    package = importlib.import_module("calm_bench").__file__
    return {"package": package, "torch": torch.__version__, "notes": notes}


def _system(name: str, options: dict[str, Any]) -> tuple[Any, str | None]:
    """A system of this tree, with random weights where the tree lacks the shipped ones."""
    loading = importlib.import_module("calm_bench.systems.loading")
    unknown = options.keys() - inspect.signature(loading.load_system).parameters.keys()
    if unknown:
        raise ValueError(f"this tree's load_system takes no {', '.join(sorted(unknown))}")
    try:
        return loading.load_system(name, **options), None
    except importlib.import_module("calm_bench.errors").WeightsError:
        codec = _without_weights(name)
        if codec:
            _without_weights(codec)
        return loading.load_system(name, **options), f"{name}: random weights, its own are missing"


def _without_weights(name: str) -> str | None:
    """Copy a model's folder into ./models, which is searched first, less its weights; its codec."""
    import yaml

    source = importlib.import_module("calm_bench.config").model_dir(name)
    target = Path("models") / name
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    config = yaml.safe_load((source / "config.yaml").read_text(encoding="utf-8"))
    config["weights"] = None
    text = config["architecture"].get("text") or {}
    if text.get("tokenizer") and not (source / text["tokenizer"]).is_file():
        text["tokenizer"] = None
    (target / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    codec: str | None = config.get("codec")
    return codec


def time_block(system: Any, n_frames: int) -> dict[str, dict[str, int]]:
    """Nanoseconds of one generation by clock and stage, summed over its frames."""
    import torch

    marked_frame, by_stage = FRAMES["marked_frame"], FRAMES["by_stage"]
    state, decoder = _started(system, n_frames)
    cpu, wall = CLOCKS.values()
    marks = []
    with FRAMES["quiet"](), torch.inference_mode():
        for _ in range(n_frames):
            marks.append(marked_frame(system, state, decoder, lambda: (cpu(), wall()))[1])
    spent = {}
    for i, clock in enumerate(CLOCKS):
        of_clock = [[mark[i] for mark in frame] for frame in marks]
        stages = by_stage(of_clock, lambda start, end: end - start)
        spent[clock] = {stage: sum(times) for stage, times in stages.items()}
        spent[clock]["step"] = spent[clock]["backbone"] + spent[clock]["head"]
    return spent


def _started(system: Any, n_frames: int) -> tuple[Any, Any]:
    """A generation about to begin, after the same synthetic prompt in every tree."""
    import torch

    Prompt = importlib.import_module("calm_bench.systems.base").Prompt
    SamplingParams = importlib.import_module("calm_bench.types").SamplingParams
    steps = getattr(system, "default_head_steps", 1)
    sampling = SamplingParams(temperature=1.0, text_temperature=1.0, head_steps=steps)
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(PROMPT_FRAMES * system.codec.hop_length, generator=generator)
    with torch.inference_mode():
        state = system.start([Prompt(wave=wave)], sampling, [generator], n_frames)
        return state, system.start_decoding(1)


if __name__ == "__main__":
    main()
