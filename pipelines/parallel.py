"""A model on several workers: torch's data parallelism, its waiting for gradients timed.

Torch compares the annotations of a hook with its own classes, so here they are no texts.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from clippy.model import CLIPpy
from pipelines.timing import StepTimer


def data_parallel(model: CLIPpy, device: torch.device, world_size: int, timer: StepTimer) -> nn.Module:
    """The model, wrapped so that each backward pass averages gradients over the workers; one worker needs nothing."""
    if world_size == 1:
        return model
    _train_no_idle_parameters(model, device)
    wrapped = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    group = dist.group.WORLD
    assert group is not None

    def add_up(timer: StepTimer, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        if bucket.is_last():  # the backward pass is done; what follows is waiting
            timer.turn("communication")
        return allreduce_hook(group, bucket)

    wrapped.register_comm_hook(timer, add_up)
    return wrapped


def _train_no_idle_parameters(model: CLIPpy, device: torch.device) -> None:
    """Call no parameter trained that no output depends on, such as timm's norm in a head that the tower does not run.

    Such a one never changes, but data parallelism waits for its gradient.
    """
    was_training = model.training
    model.eval()  # running statistics stay as they are
    pixels = torch.zeros(1, 3, model.image_size, model.image_size, dtype=torch.uint8, device=device)
    outputs = model(pixels, torch.from_numpy(model.tokenizer(["a"])).to(device))
    torch.stack([output.sum() for output in outputs]).sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
        parameter.grad = None
    model.train(was_training)
