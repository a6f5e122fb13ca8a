"""Training systems of codes: cross-entropy over all codebooks, equally weighted (section 3.1).

B batch, T frames, S steps, R real frames, D width, K codebooks, V codebook size.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from calm_bench.systems.musicgen import MusicGenSystem
from calm_bench.systems.rq import RqSystem
from calm_bench.training.language import LanguageObjective
from calm_bench.training.objective import StepLoss


def code_loss(logits: Tensor, codes: Tensor) -> StepLoss:
    """Mean cross-entropy of codes [R, K] under logits [R, K, V]; codes of -100 do not count."""
    losses = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten(), reduction="none")
    counted = (codes >= 0).sum(0)
    per_level = losses.view_as(codes).sum(0) / counted.clamp_min(1)  # [K]
    logs = {"codes": float(per_level.detach().mean()), "code_1": float(per_level[0].detach())}
    return StepLoss(per_level.mean(), logs)


class RqObjective(LanguageObjective):
    """All codebooks of a frame at once, each given the codes before it."""

    system: RqSystem

    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Mean cross-entropy per code."""
        mask = batch["mask"]
        codes = batch["frames"][mask]  # [R, K]
        text = batch["text"][:, self.system.lead :][mask] if "text" in batch else None
        return code_loss(self.system.depth(z, codes, text), codes)


class MusicGenObjective(LanguageObjective):
    """All codebooks of a step at once, each of a frame of its own."""

    system: MusicGenSystem

    def loss(self, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Mean cross-entropy per code, over every step of the delayed stream."""
        pattern, frames = self.system.pattern, batch["frames"]
        targets = pattern.apply(frames.masked_fill(~batch["mask"][..., None], -100), -100)
        z = self.system.contexts(frames, None, batch.get("seen"))  # [B, S, D]
        return self.head_loss(z.flatten(0, 1), {"targets": targets.flatten(0, 1)}, step)

    def head_loss(self, z: Tensor, batch: Mapping[str, Tensor], step: int) -> StepLoss:
        """Mean cross-entropy of `targets` [R, K] from contexts of steps z [R, D]."""
        return code_loss(self.system.logits(z), batch["targets"])
