"""Peak memory and time of the contrastive loss, forward and backward, as one rank of many computes it.

    python benchmarks/loss_memory.py [--batches 1024 4096 ...] [--ranks 1 8 32] [--width 768] [--json]

ours   clippy's: the rank's rows against everyone's columns, a chunk of logits at a time
local  open_clip's ClipLoss with local_loss and gather_with_grad: the same all at once
full   open_clip's ClipLoss as it is by default: the whole matrix on every rank

Each case runs alone in a fresh process, as rank 0 of torch's fake process group: both run their own code, the gathers
too, but what arrives are copies of the rank's own rows, and at no cost. ``local`` and ``full`` need open_clip_torch and
are left out where it is missing; none of it needs Ray.

peak      most memory held beyond the rank's own embeddings: allocated on a GPU, resident on a CPU
seconds   the best of five runs, or of fewer where they take long, two at least

A case that would take more than --memory-gib, or more than 80 % of what is free, is not run. Its peak is calculated and
marked with *: a * batch^2 + b * batch through the two largest batches that were run. How well that does is told by the
largest batch that was run, calculated from the two before it and compared with what was measured there.

That shares of ranks add up is checked at the start: loss and gradients of ours, summed over eight simulated ranks,
against cross-entropies over the whole matrix. (The paper adds both directions; open_clip's loss is half of that.)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from train_step import alone, device_name, has_open_clip, peak_bytes, reset_peak, synchronise

from clippy.gather import gather_rows
from clippy.loss import contrastive_loss

LOGIT_SCALE = 1 / 0.07
TARGET = {"batch": 32768, "ranks": 32, "times_smaller": 8}
"""The full matrix of that batch should take at least so many times the memory of ours."""
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Case = dict[str, Any]


def main() -> None:
    """Check, measure one case after the other, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    batches = [1024, 4096, 8192, 16384, 32768, 65536]
    parser.add_argument("--batches", type=int, nargs="+", default=batches, help="pairs over all ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--width", type=int, default=768, help="of the embeddings (default: 768)")
    parser.add_argument("--memory-gib", type=float, default=8.0, help="most that a case may take (default: 8)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if any(batch % ranks for batch in options.batches for ranks in options.ranks):
        parser.error("every batch must be divisible by every number of ranks")
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)  # what is freed goes back at once and does not blur the peak
    result = {
        "device": device_name(the_device()),
        "width": options.width,
        "relative_difference": relative_differences(options.width),
        "cases": [case for ranks in sorted(options.ranks) for case in cases_of(ranks, options)],
    }
    result["calculation_error"] = calculation_error(result["cases"])
    result["target"] = target(result["cases"])
    print(json.dumps(result, indent=2) if options.json else table(result))


def cases_of(ranks: int, options: argparse.Namespace) -> Iterator[Case]:
    """Each batch in rising order, all losses one after the other."""
    done: dict[str, list[Case]] = {name: [] for name in (("ours", "local", "full") if has_open_clip() else ("ours",))}
    for batch in sorted(options.batches):
        for name, before in done.items():
            runs = expected_bytes(name, batch, ranks, options.width) <= memory_limit(options.memory_gib)
            found = alone(partial(measure, name, batch, ranks, options.width)) if runs else calculated(before, batch)
            case = {"loss": name, "ranks": ranks, "batch": batch, **found}
            before.append(case)
            print(f"ranks {ranks}, batch {batch}, {name}: {figures(case)}", file=sys.stderr, flush=True)
            yield case


def expected_bytes(name: str, batch: int, ranks: int, width: int) -> int:
    """No less than a case will take: five matrices of logits, ours five chunks, and eight of embeddings."""
    entries = {"ours": 2**24, "local": batch * batch // ranks, "full": batch * batch}[name]
    return 4 * (5 * entries + 8 * batch * width)


def memory_limit(most_gib: float) -> float:
    """Bytes that a case may take now."""
    if the_device().type == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = 1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    return min(most_gib * 2**30, 0.8 * free)


def calculated(done: list[Case], batch: int) -> Case:
    """The peak as a * batch^2 + b * batch through the last two measured, or null; no time."""
    measured = [case for case in done if case["measured"]]
    peak = None
    if len(measured) >= 2:
        (small, of_small), (large, of_large) = ((c["batch"], c["peak_bytes"] / c["batch"]) for c in measured[-2:])
        peak = round(batch * (of_large + (of_large - of_small) / (large - small) * (batch - large)))
    return {"measured": False, "peak_bytes": peak, "seconds": None}


def calculation_error(cases: list[Case]) -> float | None:
    """The worst relative error of ``calculated`` where it was used, at the largest batch measured."""
    errors = []
    for skipped in (case for case in cases if not case["measured"]):
        series = [c for c in cases if c["measured"] and all(c[key] == skipped[key] for key in ("loss", "ranks"))]
        if len(series) >= 3:
            *before, last = series
            errors.append(abs(calculated(before, last["batch"])["peak_bytes"] / last["peak_bytes"] - 1))
    return max(errors, default=None)


def target(cases: list[Case]) -> dict[str, Any] | None:
    """How many times ours the full matrix takes where the target is set; null if that is not among the cases."""
    at = {c["loss"]: c for c in cases if (c["batch"], c["ranks"]) == (TARGET["batch"], TARGET["ranks"])}
    if not at.keys() >= {"ours", "full"} or not at["full"]["peak_bytes"]:
        return None
    times = at["full"]["peak_bytes"] / at["ours"]["peak_bytes"]
    return {**TARGET, "found": times, "full_is_calculated": not at["full"]["measured"]}


def measure(name: str, batch: int, ranks: int, width: int) -> Case:
    """Peak memory and time of rank 0's loss and gradients."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="open_clip")
    device = the_device()
    loss = build_loss(name, ranks)
    small = embeddings(8 * ranks, width, device)
    loss(small[0][:8], small[1][:8], small[2]).backward()  # libraries are loaded, threads started
    rows = batch // ranks
    image, text, scale = embeddings(rows, width, device)
    synchronise(device)
    reset_peak(device)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else peak_bytes(device)
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < 5 and sum(seconds) < 2):
        image.grad = text.grad = scale.grad = None
        started = time.perf_counter()
        loss(image, text, scale).backward()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return {"measured": True, "peak_bytes": peak_bytes(device) - before, "seconds": min(seconds)}


def build_loss(name: str, ranks: int) -> Loss:
    """The loss of rank 0 of so many."""
    if ranks > 1:
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    if name == "ours":
        return partial(contrastive_loss, gather=gather_rows)
    from clippy.torchvision_cpu import ensure_torchvision

    ensure_torchvision()
    from open_clip.loss import ClipLoss

    local = name == "local"
    return ClipLoss(local_loss=local, gather_with_grad=local, rank=0, world_size=ranks)


def embeddings(rows: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors (rows, width) of images and of captions somewhat like them, and CLIP's first logit scale."""
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(rows, width, generator=generator), dim=1)
    text = F.normalize(torch.randn(rows, width, generator=generator).mul_(width**-0.5).add_(image, alpha=0.3), dim=1)
    image, text, scale = (t.to(device).requires_grad_() for t in (image, text, torch.tensor(LOGIT_SCALE)))
    return image, text, scale


def relative_differences(width: int, batch: int = 2048, ranks: int = 8) -> dict[str, float]:
    """Of loss and gradients of ours, summed over ranks in chunks, from those of the whole matrix; norm over norm."""
    image, text, scale = leaves = embeddings(batch, width, the_device())
    logits = scale * image @ text.T
    own = torch.arange(batch, device=image.device)
    whole = F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)
    expected = [whole.detach(), *torch.autograd.grad(whole, leaves)]
    summed = [torch.zeros_like(tensor) for tensor in expected]
    for first in range(0, batch, batch // ranks):
        mine = slice(first, first + batch // ranks)
        everyone = iter((image, text, torch.ones(batch, dtype=torch.bool, device=image.device)))
        share = contrastive_loss(
            image[mine], text[mine], scale, gather=lambda _, all_=everyone, at=first: (next(all_), at), chunk_rows=100
        )
        for total, part in zip(summed, [share.detach(), *torch.autograd.grad(share, leaves)], strict=True):
            total += part
    names = ("loss", "image_gradient", "text_gradient", "scale_gradient")
    pairs = zip(names, summed, expected, strict=True)
    return {name: ((found - wanted).norm() / wanted.norm()).item() for name, found, wanted in pairs}


def the_device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def figures(case: Case) -> str:
    """Peak and time of a case."""
    peak = "?" if case["peak_bytes"] is None else f"{case['peak_bytes'] / 2**20:,.0f} MiB"
    return f"{peak}, {case['seconds']:.3f} s" if case["measured"] else f"not run, {peak} calculated"


def table(result: dict[str, Any]) -> str:
    """A line for each batch and number of ranks."""
    cases = {(c["ranks"], c["batch"], c["loss"]): c for c in result["cases"]}
    names = [name for name in ("ours", "local", "full") if any(key[2] == name for key in cases)]
    lines = [
        f"{result['device']}, width {result['width']}: one rank's loss, forward and backward",
        "ranks    batch" + "".join(f"{f'{n}, MiB':>14}" for n in names) + "".join(f"{f'{n}, s':>11}" for n in names),
    ]
    for ranks, batch in dict.fromkeys(key[:2] for key in cases):
        row = [cases[ranks, batch, name] for name in names]
        peaks = (math.nan if c["peak_bytes"] is None else c["peak_bytes"] / 2**20 for c in row)
        marks = ("" if c["measured"] else "*" for c in row)
        lines.append(
            f"{ranks:>5}{batch:>9}"
            + "".join(f"{f'{peak:,.0f}{mark}':>14}" for peak, mark in zip(peaks, marks, strict=True))
            + "".join(f"{c['seconds']:>11.3f}" if c["measured"] else f"{'':>11}" for c in row)
        )
    if any(not case["measured"] for case in cases.values()):
        error = result["calculation_error"]
        known = "" if error is None else f"; so calculated, the largest that was run is off by at most {error:.1%}"
        lines.append(f"* not run, would take too much memory: calculated from the two largest that were{known}")
    if result["target"]:
        found = result["target"]
        how = " (calculated)" if found["full_is_calculated"] else ""
        lines.append(
            f"at {found['ranks']} ranks and {found['batch']:,} pairs the full matrix takes {found['found']:.1f} times "
            f"the memory of ours{how}; the target is at least {found['times_smaller']}"
        )
    differences = ", ".join(f"{name.replace('_', ' ')} {v:.1e}" for name, v in result["relative_difference"].items())
    lines.append(f"ours over 8 ranks differs from the whole matrix by: {differences}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
