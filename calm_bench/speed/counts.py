"""What one frame costs in things that can be counted: exact, equal on every run and every machine.

Counted while a frame is made at batch 1 after a short prompt, stage by stage as in `latency`: the
operators that reach torch's dispatcher (views included: each costs its dispatch), FLOPs by torch's
own formulas, the parameters that were touched, and the bytes of weights that were read. Not
counted: what an operator does inside, activations, the key-value cache. Counts find a loop that
runs twice or a constant no longer folded; they say nothing of an operator that became slower.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from calm_bench.speed.frames import InGroups, by_stage, marked_frame
from calm_bench.store.records import Stage
from calm_bench.types import SamplingParams

if TYPE_CHECKING:
    from calm_bench.systems.base import System

PROMPT_FRAMES = 12
FRAME = 2
"""Which new frame is counted: the first ones fill caches that later ones find."""

GATHERS = frozenset({"aten::embedding", "aten::index", "aten::index_select", "aten::gather"})
"""Operators that read only the rows they are asked for."""

CPU_ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
PACKED = frozenset(
    {
        "mkldnn::_linear_pointwise",
        "quantized::linear_dynamic",
        "quantized::linear_dynamic_fp16",
    }
)
"""torch's counter knows no fused attention but that of GPUs, and no product on packed weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCounts:
    """Counts of one stage of one frame.

    Attributes:
        calls: Evaluations of the stage's network; for the head its NFE.
        operators: Operators dispatched, views included.
        flops: A multiplication and an addition are two.
        parameters: Distinct parameters read; for `total` all that the system has, codec included.
            None where the system reads copies that it prepared from them.
        bytes_read: Of weights; a weight that is read twice counts twice, tables their rows read.
    """

    calls: int
    operators: int
    flops: int
    parameters: int | None
    bytes_read: int


Counts = Counter[str | int]
"""Operators, FLOPs and bytes read by name, and by storage how often each parameter was read."""


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Everything that is dispatched while it is on; a clock whose marks say what it has come to."""

    def __init__(self, system: "System") -> None:
        """Know the system's parameters by their storage, since operators mostly see views."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counts = Counter()
        self._sizes = {_storage(p): p.numel() for p in system.parameters()}

    def mark(self) -> Counts:
        """What has been counted so far."""
        return self.counts.copy()

    def between(self, start: Counts, end: Counts) -> Counts:
        """What was counted from one mark to another."""
        return end - start

    def parameters(self, counts: Counts) -> int:
        """How many distinct parameters were read."""
        return sum(size for storage, size in self._sizes.items() if counts[storage])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and note it; one made of others (`linear`) counts as those."""
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            with self:
                made_of_others = func.decompose(*args, **kwargs)
            if made_of_others is not NotImplemented:
                return made_of_others
        out = func(*args, **kwargs)
        name = func._schema.name
        self.counts["operators"] += 1
        self.counts["flops"] += _flops(func, name, args, kwargs, out)
        if not _is_view(func):
            for tensor in tree_leaves((args, kwargs)):
                storage = _storage(tensor) if isinstance(tensor, Tensor) else None
                if storage in self._sizes:
                    self.counts[storage] += 1
                    self.counts["bytes_read"] += (out if name in GATHERS else tensor).nbytes
        return out


def count_frame(
    system: "System", sampling: SamplingParams, codec_frames: int = 1
) -> dict[Stage, StageCounts]:
    """The counts of one frame by stage, `push` being part of the backbone, and their total.

    Where the codec decodes several frames at a time it is the mean of one call, rounded up.
    Bytes come from the system's own `weight_bytes` where it has prepared its weights: packed ones
    cannot be seen from outside.
    """
    from calm_bench.systems.base import Prompt

    generator, tally = torch.Generator().manual_seed(0), Tally(system)
    wave = 0.1 * torch.randn(PROMPT_FRAMES * system.codec.hop_length, generator=generator)
    with torch.inference_mode():
        prompt = Prompt(wave=wave.to(system.device))
        n_frames = FRAME * codec_frames + 1
        state = system.start([prompt], sampling, [generator], n_frames)
        decoder = system.start_decoding(1)
        stepped = InGroups(system, codec_frames, n_frames) if codec_frames > 1 else system
        with tally:
            marks = [marked_frame(stepped, state, decoder, tally.mark)[1] for _ in range(n_frames)]
    known, calls = system.weight_bytes(sampling), system.nfe(sampling)
    if "codec" in known:
        known["codec"] = -(-known["codec"] // codec_frames)
    stages_of = by_stage(marks[-codec_frames:], tally.between)
    counts = {name: _mean(found) for name, found in stages_of.items()}
    stages: dict[Stage, StageCounts] = {
        stage: StageCounts(
            calls=calls if stage == "head" else 1,
            operators=found["operators"],
            flops=found["flops"],
            parameters=tally.parameters(found) if system.mode == "plain" else None,
            bytes_read=known.get(stage, found["bytes_read"]),
        )
        for stage, found in counts.items()
        if stage != "total"
    }
    stages["total"] = StageCounts(
        calls=calls + 2,
        operators=counts["total"]["operators"],
        flops=counts["total"]["flops"],
        parameters=_all_parameters(system),
        bytes_read=sum(part.bytes_read for part in stages.values()),
    )
    return stages


def _mean(frames: Sequence[Counts]) -> Counts:
    total = sum(frames, Counter[str | int]())
    return Counter({key: -(-count // len(frames)) for key, count in total.items()})


def _all_parameters(system: "System") -> int:
    """Parameters of the system and its codec, as counted before modules let go of packed ones."""
    cards = [getattr(module, "card", None) for module in (system, system.codec)]
    if None in cards:
        return sum(parameter.numel() for parameter in system.parameters())
    return sum(card.n_parameters for card in cards if card is not None)


def _flops(func: Any, name: str, args: Any, kwargs: Any, out: Any) -> int:
    """An operator's FLOPs; 0 for those that torch has no formula for, none of which multiply."""
    if name == CPU_ATTENTION:
        query, key, value = (tensor.shape for tensor in args[:3])
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]
    if name in PACKED:
        return 2 * int(out.numel()) * int(args[0].shape[-1])
    formula = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def _is_view(func: Any) -> bool:
    """Whether an operator only looks at its input in another way, and reads nothing."""
    aliases = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _storage(tensor: Tensor) -> int:
    """Where a tensor's numbers lie; 0 for one that keeps them elsewhere, packed for a library."""
    if tensor.layout != torch.strided:
        return 0
    return tensor.untyped_storage().data_ptr()
