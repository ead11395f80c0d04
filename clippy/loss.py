"""The contrastive loss: image-to-text plus text-to-image cross-entropy over the global batch (paper, section 3).

Each worker computes its own rows against everyone's columns, in chunks; the workers' results add up to the loss of
one process that holds the whole batch. Shapes: b rows here, G rows everywhere, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Gather = Callable[[torch.Tensor], tuple[torch.Tensor, int]]
"""Rows of every worker in rank order, and the index of this worker's first row among them."""

_CHUNK_ENTRIES = 2**24
"""Logits held at a time, 64 MiB of them: enough rows for fast products, little beside the gathered embeddings."""


def gather_nothing(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The gather of a single process: its rows are all rows."""
    return rows, 0


def contrastive_loss(
    image_bD: torch.Tensor,
    text_bD: torch.Tensor,
    logit_scale: torch.Tensor,
    valid_b: torch.Tensor | None = None,
    gather: Gather = gather_nothing,
    chunk_rows: int | None = None,
) -> torch.Tensor:
    """This worker's share of the global loss, a float32 scalar; the shares of all workers sum to the loss.

    ``image_bD`` and ``text_bD`` are unit vectors, row i of one belonging to row i of the other. Rows where
    ``valid_b`` is false count neither as rows nor as columns. The paper adds both directions without a factor
    1/2 and divides by the number of (valid) pairs of the global batch. Logits of ``chunk_rows`` rows are held at a
    time, None being as many as fit in 64 MiB: memory is four G * D, embeddings and gradients, and the chunk.
    """
    if valid_b is None:
        valid_b = torch.ones(len(image_bD), dtype=torch.bool, device=image_bD.device)
    with torch.autocast(image_bD.device.type, enabled=False):
        image_bD, text_bD, logit_scale = image_bD.float(), text_bD.float(), logit_scale.float()
        image_GD, first = gather(image_bD)
        text_GD, _ = gather(text_bD)
        valid_G, _ = gather(valid_b)
        chunk_rows = chunk_rows or max(1, _CHUNK_ENTRIES // len(text_GD))
        arguments = (logit_scale, valid_b, valid_G, first, chunk_rows)
        total = _CrossEntropySum.apply(image_bD, text_GD, *arguments)
        total = total + _CrossEntropySum.apply(text_bD, image_GD, *arguments)
        return total / valid_G.sum().clamp(min=1)


class _CrossEntropySum(torch.autograd.Function):
    """Sum over valid rows of cross-entropy(scale * rows @ columns.T, row i belongs to column first + i).

    The gradient of a cross-entropy is known as soon as its logits are, so it is computed in the forward pass,
    chunk by chunk: no chunk's logits are kept, and none is computed twice. All of a chunk happens in one buffer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows_bD: torch.Tensor,
        columns_GD: torch.Tensor,
        scale: torch.Tensor,
        valid_b: torch.Tensor,
        valid_G: torch.Tensor,
        first: int,
        chunk_rows: int,
    ) -> torch.Tensor:
        total = rows_bD.new_zeros(())
        grad_rows, grad_columns = torch.empty_like(rows_bD), torch.zeros_like(columns_GD)
        buffer_cG = rows_bD.new_empty((min(chunk_rows, len(rows_bD)), len(columns_GD)))
        for start in range(0, len(rows_bD), chunk_rows):
            rows_cD = scale * rows_bD[start : start + chunk_rows]
            invalid_c1 = ~valid_b[start : start + chunk_rows].unsqueeze(1)
            own_c1 = torch.arange(first + start, first + start + len(rows_cD), device=rows_bD.device).unsqueeze(1)
            logits_cG = torch.mm(rows_cD, columns_GD.T, out=buffer_cG[: len(rows_cD)])
            logits_cG.masked_fill_(~valid_G, -torch.inf)
            own_logit_c1, top_c1 = logits_cG.gather(1, own_c1), logits_cG.amax(dim=1, keepdim=True)
            exp_cG = logits_cG.sub_(top_c1).exp_()
            sum_c1 = exp_cG.sum(dim=1, keepdim=True)
            total += (sum_c1.log() + top_c1 - own_logit_c1).masked_fill(invalid_c1, 0).sum()
            error_cG = exp_cG.div_(sum_c1)  # softmax minus one-hot
            error_cG.scatter_add_(1, own_c1, error_cG.new_full(own_c1.shape, -1.0)).masked_fill_(invalid_c1, 0)
            torch.mm(error_cG, columns_GD, out=grad_rows[start : start + chunk_rows])
            grad_columns.addmm_(error_cG.T, rows_cD)
        grad_scale = (grad_rows * rows_bD).sum()
        grad_rows *= scale
        ctx.save_for_backward(grad_rows, grad_columns, grad_scale)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_total,) = grad_outputs
        grad_rows, grad_columns, grad_scale = ctx.saved_tensors
        return (
            grad_total * grad_rows,
            grad_total * grad_columns,
            grad_total * grad_scale,
            None,
            None,
            None,
            None,
        )
