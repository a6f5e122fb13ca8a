"""Attention of new positions over all so far, and who may look at whom.

B batch, H heads, T new positions, P positions in all, Dh width of a head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def attention_mask(
    queries: int, keys: int, context: int | None, key_mask: Tensor | None, device: torch.device
) -> Tensor | None:
    """Who may look at whom: [T, P] or [B, 1, T, P], True where allowed.

    None for a single query that may look everywhere, and for a whole clip that is plainly causal,
    where the faster kernels need no mask.

    The last query stands at the last key. A padded position may always look at itself, so that no
    row of the softmax is empty.
    """
    if key_mask is None and queries in (1, keys) and (context is None or keys <= context):
        return None
    at = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None]
    allowed = key <= at
    if context is not None:
        allowed = allowed & (key > at - context)
    if key_mask is None:
        return allowed
    return (allowed & key_mask[:, None, None, :keys]) | (key == at)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries [B, H, T, Dh] over keys and values [B, H, P, Dh]; causal without a mask.

    On a CPU bfloat16 is taken up to float32: the kernel for it is up to twice as slow.
    """
    wide = v.device.type == "cpu" and v.dtype == torch.bfloat16
    q, k, values = (x.to(torch.float32 if wide else v.dtype) for x in (q, k, v))
    causal = mask is None and q.shape[2] > 1
    with torch.autocast(v.device.type, enabled=False):
        y = F.scaled_dot_product_attention(q, k, values, attn_mask=mask, is_causal=causal)
    return y.to(v.dtype)
