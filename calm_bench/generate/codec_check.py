"""Every prompt that is not shipped through the codecs of a plan, before anything is generated."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from calm_bench import registry
from calm_bench.config import PromptSpec, is_shipped
from calm_bench.core import paths
from calm_bench.core.code import computed_by
from calm_bench.core.recordings import few
from calm_bench.core.waves import mean_power
from calm_bench.data.prompts import load_prompt
from calm_bench.errors import MissingExtraError
from calm_bench.metrics.fidelity import StoiMetric
from calm_bench.plan.plan import Plan, check_prompts
from calm_bench.seeds import content_hash
from calm_bench.store.records import CodecCheck, carried_text
from calm_bench.store.run_store import RunStore
from calm_bench.types import Wave

if TYPE_CHECKING:
    from calm_bench.codecs.base import Codec

WITHIN_DB = 50.0
SILENT = 1e-12
"""A mean square that stands for digital silence: -120 dB."""


def check_codecs(plan: Plan, store: RunStore) -> Plan:
    """The plan with what its codecs make of its prompts, and notes that say so.

    What the run's folder or the plan already knows is not computed again. The shipped prompts were
    made like those that the shipped codecs were trained on: these are not asked about them.

    Raises:
        InputError: If some prompts cannot be used.
    """
    codecs = _codecs(plan)
    if plan.root == paths.benchmarks_dir():
        codecs = [name for name in codecs if not is_shipped(*plan.models[name])]
    if not codecs:
        return plan
    known = {check.recipe_id: check for check in (*store.read(CodecCheck), *plan.checks)}
    wanted = {
        _recipe_id(plan, prompt, codec): (prompt, codec)
        for codec in codecs
        for prompt in plan.prompts
    }
    missing = [pair for recipe_id, pair in wanted.items() if recipe_id not in known]
    if missing:
        check_prompts(plan)
    known |= {check.recipe_id: check for check in _checks(plan, missing)}
    checks = tuple(known[recipe_id] for recipe_id in wanted)
    notes = (note for note in _notes(checks) if note not in plan.notes)
    return replace(plan, checks=checks, notes=(*plan.notes, *notes))


def _notes(checks: Sequence[CodecCheck]) -> Iterator[str]:
    for codec in dict.fromkeys(check.codec for check in checks):
        own = [check for check in checks if check.codec == codec]
        lost = [check for check in own if not check.is_carried]
        if not lost:
            all_of_them = "the prompt" if len(own) == 1 else f"the {len(own)} prompts"
            yield f"{codec} returns {all_of_them} at {carried_text(own)}"
            continue
        names = few([check.prompt_id for check in lost])
        those = "the prompt" if len(own) == 1 else f"{len(lost)} of {len(own)} prompts"
        yield (
            f"{codec} cannot carry {those} ({names}), which it returns at "
            f"{carried_text(lost)}: rows that hear through it do not continue these recordings"
        )


def _codecs(plan: Plan) -> list[str]:
    """The codecs of all rows; a released system may bring its own, which has no name here."""
    names = [
        row.model if row.kind == "round_trip" else plan.models[row.model][0].codec
        for row in plan.rows
        if row.model is not None
    ]
    return [name for name in dict.fromkeys(names) if name is not None]


def _recipe_id(plan: Plan, prompt: PromptSpec, codec: str) -> str:
    spec, stoi = plan.spec, StoiMetric.name in plan.spec.metrics
    parts = [prompt.sha256, spec.prompt_seconds, codec, plan.models.weights.get(codec), stoi]
    home, _, _ = registry.target("codec", plan.models[codec][0].type).partition(":")
    return content_hash("codec check", computed_by(__name__, home), *parts, length=12)


def _checks(plan: Plan, missing: Sequence[tuple[PromptSpec, str]]) -> Iterator[CodecCheck]:
    if not missing:
        return
    from calm_bench.codecs.checkpoints import load_codec

    names = dict.fromkeys(name for _, name in missing)
    codecs = {name: load_codec(name, "cpu", plan.models) for name in names}
    prompts = list({prompt.id: prompt for prompt, _ in missing}.values())
    rates = dict.fromkeys(codec.sample_rate for codec in codecs.values())
    for first in range(0, len(prompts), plan.spec.batch_size):
        batch = prompts[first : first + plan.spec.batch_size]
        for rate in rates:
            loaded = (load_prompt(prompt, plan.spec, plan.root, rate) for prompt in batch)
            heads = np.stack([p.wave[: round(plan.spec.prompt_seconds * rate)] for p in loaded])
            for name, codec in codecs.items():
                if codec.sample_rate == rate:
                    yield from _compared(plan, batch, name, heads, codec)


def _compared(
    plan: Plan, prompts: Sequence[PromptSpec], name: str, heads: Wave, codec: "Codec"
) -> Iterator[CodecCheck]:
    import torch

    with torch.inference_mode():
        returned = codec.decode(codec.encode(torch.from_numpy(heads)))
    B, S = heads.shape
    rate = codec.sample_rate
    pairs = zip(prompts, heads, returned[:B, :S].float().cpu().numpy(), strict=True)
    for prompt, before, after in pairs:
        yield CodecCheck(
            prompt_id=prompt.id,
            codec=name,
            recipe_id=_recipe_id(plan, prompt, name),
            level_db=_level(before),
            returned_level_db=_level(after),
            bandwidth_hz=_bandwidth(before, rate),
            returned_bandwidth_hz=_bandwidth(after, rate),
            # Of music, whose benchmarks do not ask for it, STOI says nothing.
            stoi=_stoi(before, after, rate) if StoiMetric.name in plan.spec.metrics else None,
        )


def _level(wave: Wave) -> float:
    power = float(np.mean(wave.astype(np.float64) ** 2))
    return 10.0 * float(np.log10(max(power, SILENT)))


def _bandwidth(wave: Wave, sample_rate: int) -> float:
    """The highest frequency in Hz whose power is within 50 dB of the strongest; 0 for silence."""
    power = mean_power(wave, 1024)  # [513]
    loud = np.flatnonzero(power > max(power.max() / 10.0 ** (WITHIN_DB / 10.0), SILENT))
    return float(loud[-1]) * sample_rate / 1024 if len(loud) else 0.0


def _stoi(before: Wave, after: Wave, sample_rate: int) -> float | None:
    try:
        found = StoiMetric().compare(after, before, sample_rate)["stoi"]
    except MissingExtraError:
        return None
    return None if isinstance(found, str) else float(found)
