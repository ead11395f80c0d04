"""A model on several workers: torch's data parallelism, its waiting for gradients timed.

Torch compares the annotations of a hook with its own classes, so here they are no texts.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from pipelines.timing import StepTimer


def data_parallel(model: nn.Module, device: torch.device, world_size: int, timer: StepTimer) -> nn.Module:
    """The model, wrapped so that each backward pass averages gradients over the workers; one worker needs nothing."""
    if world_size == 1:
        return model
    wrapped = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    group = dist.group.WORLD
    assert group is not None

    def add_up(timer: StepTimer, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        if bucket.is_last():  # the backward pass is done; what follows is waiting
            timer.turn("communication")
        return allreduce_hook(group, bucket)

    wrapped.register_comm_hook(timer, add_up)
    return wrapped
