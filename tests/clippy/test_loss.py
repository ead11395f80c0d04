"""The sharded, chunked loss equals the obvious one of a single process, in value and in gradient."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clippy.gather import gather_rows
from clippy.loss import contrastive_loss


def naive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The whole matrix at once, invalid rows cut out."""
    logits = scale * image[valid] @ text[valid].T
    target = torch.arange(len(logits))
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


def embeddings(rows: int, width: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, rows, width, dtype=torch.float32, generator=generator)
    scale = torch.tensor(9.0)
    return image.requires_grad_(), text.requires_grad_(), scale.requires_grad_()


def unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows, dim=-1)


def test_three_pairs_by_hand() -> None:
    image = torch.eye(3)
    text = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]])
    one, two = math.log(math.e + 2), math.log(2 * math.e + 1)
    rows = (one - 1) + (two - 1) + (math.log(3))  # picture 3 matches no caption better than another
    columns = (one - 1) + (one - 1) + one  # the third caption belongs to picture 3 but looks like picture 2
    assert contrastive_loss(image, text, torch.tensor(1.0)).item() == pytest.approx((rows + columns) / 3, rel=1e-6)


@settings(deadline=None)
@given(rows=st.integers(1, 20), chunk=st.none() | st.integers(1, 25), seed=st.integers(0, 9), data=st.data())
def test_equals_the_full_matrix(rows: int, chunk: int | None, seed: int, data: st.DataObject) -> None:
    valid = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    if not valid.any():
        valid[0] = True
    ours, reference = embeddings(rows, seed=seed), embeddings(rows, seed=seed)
    loss = contrastive_loss(unit(ours[0]), unit(ours[1]), ours[2], valid, chunk_rows=chunk)
    expected = naive_loss(unit(reference[0]), unit(reference[1]), reference[2], valid)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for gradient, wanted in zip(torch.autograd.grad(loss, ours), torch.autograd.grad(expected, reference), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_no_valid_row_is_no_loss_and_no_gradient() -> None:
    image, text, scale = embeddings(4)
    loss = contrastive_loss(unit(image), unit(text), scale, torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert image.grad is not None
    assert not image.grad.any()


def test_stays_in_float32_under_autocast() -> None:
    image, text, scale = embeddings(6)
    expected = contrastive_loss(unit(image), unit(text), scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert contrastive_loss(unit(image), unit(text), scale).item() == expected.item()


ROWS_PER_WORKER = 5


def _worker(rank: int, world_size: int, port: int, folder: str) -> None:
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    image, text, scale = embeddings(world_size * ROWS_PER_WORKER)
    mine = slice(rank * ROWS_PER_WORKER, (rank + 1) * ROWS_PER_WORKER)
    loss = contrastive_loss(
        unit(image[mine]), unit(text[mine]), scale, _valid(world_size)[mine], gather_rows, chunk_rows=2
    )
    gradients = torch.autograd.grad(loss, (image, text, scale))
    torch.save([loss.detach(), *gradients], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _valid(world_size: int) -> torch.Tensor:
    """Some rows masked, one worker with most of its rows gone."""
    valid = torch.ones(world_size * ROWS_PER_WORKER, dtype=torch.bool)
    valid[[1, 5, 6, 7, 8]] = False
    return valid


def test_shares_of_workers_add_up_to_one_process(tmp_path: Path) -> None:
    world_size = 3
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, (world_size, port, str(tmp_path)), nprocs=world_size)
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
    image, text, scale = embeddings(world_size * ROWS_PER_WORKER)
    loss = naive_loss(unit(image), unit(text), scale, _valid(world_size))
    expected = [loss.detach(), *torch.autograd.grad(loss, (image, text, scale))]
    for i, wanted in enumerate(expected):
        torch.testing.assert_close(sum(share[i] for share in shares), wanted, rtol=1e-5, atol=1e-6)
