"""The all-gather with gradient: the only file of the model that knows there are other workers."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def gather_rows(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Rows of all workers in rank order, and the index of this worker's first row among them.

    Every worker must hold equally many rows. The gradient of each worker's use of a row comes back to the worker
    that made it, summed, so that the sharded loss has the gradient of the whole. One process gathers nothing.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows, 0
    first = dist.get_rank() * len(rows)
    if rows.requires_grad:
        return _GatherRows.apply(rows), first
    return _all_gather(rows), first


def sum_over_workers(values: torch.Tensor) -> torch.Tensor:
    """The element-wise sum of a CPU tensor over all workers; the tensor itself where there is but one."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        return _all_gather(rows)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        (grad,) = grad_outputs
        own = grad.new_empty((len(grad) // dist.get_world_size(), *grad.shape[1:]))
        dist.reduce_scatter_single(own, grad.contiguous())
        return own


def _all_gather(rows: torch.Tensor) -> torch.Tensor:
    carried = rows.to(torch.uint8) if rows.dtype == torch.bool else rows  # gloo and NCCL carry no booleans
    gathered = carried.new_empty((dist.get_world_size() * len(rows), *rows.shape[1:]))
    dist.all_gather_single(gathered, carried.contiguous())
    return gathered.to(rows.dtype)
