"""One training step of CLIPpy against the same step built from open_clip's own classes, captions padded to 77 tokens.

    python benchmarks/train_step.py [--batch 64] [--patch-dropout 0.8] [--precision bfloat16] [--compile] [--json]

ours    CLIPpy: captions of like length run together
padded  open_clip's TimmModel and HFTextEncoder with the configuration of the released weights, and its ClipLoss
ours_compiled, padded_compiled
        with --compile, the same compiled: ours block by block as ``train.compile`` has it, theirs as a whole

Both are ViT-B/16 and T5-base of the same random weights, on the same random pixels and captions of CC-12M-like length
(median 20 words); forward, backward and AdamW, each with the one that its own trainer makes: ours is fused. Each runs
alone in a fresh process, in turn for so many rounds; figures are medians of the rounds. ``padded`` needs
open_clip_torch and is left out where it is missing; none of it needs Ray.

mfu          model FLOPs a second as a share of the device's matrix rate, measured by one large product in the same
             precision. The model's FLOPs are those of ``ours``, for padding is no work that anybody wanted
peak_bytes   most memory held during the steps: allocated on a GPU, resident on a CPU
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MAX_TOKENS = 77
T5_BASE = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12, "num_layers": 12, "dropout_rate": 0.0}
SMALL = {"d_model": 96, "d_kv": 32, "d_ff": 192, "num_heads": 3, "num_layers": 2, "dropout_rate": 0.0}
VOCABULARY = 32128
WARM_UP_STEPS = 1
COMPILED = "_compiled"
Step = Callable[[], Tensor]


def main() -> None:
    """Measure in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="pairs (default: 64)")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--patch-dropout", type=float, default=0.8)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="measure both compiled, too")
    parser.add_argument("--steps", type=int, default=2, help="timed in each round (default: 2)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="ours,padded")
    parser.add_argument("--small", action="store_true", help="tiny towers, to try the program")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name == "ours" or has_open_clip()]
    if options.compile:
        names = [arm for name in names for arm in (name, f"{name}{COMPILED}")]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for round_ in range(options.rounds):
        for name in names:
            found[name].append(alone(partial(measure, name, options)))
            speed = found[name][-1]["images_per_second"]
            print(f"round {round_ + 1} of {options.rounds}, {name}: {speed:.2f} images/s", file=sys.stderr, flush=True)
    result = summarise(found, options)
    print(json.dumps(result, indent=2) if options.json else table(result, options))


def has_open_clip() -> bool:
    """Whether its classes can be had."""
    from importlib.util import find_spec

    return find_spec("open_clip") is not None


def alone(function: Callable[[], Any]) -> Any:
    """The result of ``function`` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        return pool.submit(function).result()


def _end_with_parent() -> None:
    """Where the parent is killed, nobody wants what this process computes."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Speed, first loss, peak memory and, of ours, the FLOPs of a step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = argparse.Namespace(**{**vars(options), "compile": name.endswith(COMPILED)})
    build = ours if name.startswith("ours") else padded
    step = build(options, device, *make_inputs(options, device))
    result: dict[str, Any] = {"device": device_name(device)}
    if name == "ours":
        with flop_counter() as counter:
            result["loss"] = step().item()
        result["flops"] = counter.get_total_flops()
    else:
        result["loss"] = step().item()
    for _ in range(WARM_UP_STEPS):
        step()
    reset_peak(device)
    started = time.perf_counter()
    for _ in range(options.steps):
        step()
    synchronise(device)
    seconds = (time.perf_counter() - started) / options.steps
    result |= {"images_per_second": options.batch / seconds, "seconds": seconds, "peak_bytes": peak_bytes(device)}
    result["matrix_flops_per_second"] = matrix_rate(device, options.precision)
    return result


def flop_counter() -> Any:
    """torch's, with two formulas that it has and does not use: sums in place, and fused attention on a CPU."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    aten = torch.ops.aten
    lacking: dict[Any, Callable[..., int]] = {
        aten.addmm_: lambda _, a, b, *__, **___: 2 * a[0] * a[1] * b[1],
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
            sdpa_backward_flop_count(g, q, k, v)
        ),
    }
    return FlopCounterMode(display=False, custom_mapping=lacking)


def make_inputs(options: argparse.Namespace, device: torch.device) -> tuple[Tensor, Tensor, list[int]]:
    """Pixels uint8 (B, 3, H, W), ids (B, 77) and tokens a caption: 20 words at the median, 1.35 tokens each, an end."""
    generator = np.random.default_rng(0)
    words = np.exp(generator.normal(np.log(20), 0.55, options.batch))
    lengths = np.clip(np.round(1.35 * words) + 1, 3, MAX_TOKENS).astype(int)
    ids = np.zeros((options.batch, MAX_TOKENS), np.int64)
    for row, length in enumerate(lengths):
        ids[row, : length - 1], ids[row, length - 1] = generator.integers(3, VOCABULARY, length - 1), 1
    pixels = generator.integers(0, 256, (options.batch, 3, options.image_size, options.image_size), np.uint8)
    return torch.from_numpy(pixels).to(device), torch.from_numpy(ids).to(device), lengths.tolist()


def build_ours(options: argparse.Namespace) -> nn.Module:
    """CLIPpy as the released weights were trained, from seed 0, patches dropped."""
    from clippy import CLIPpy
    from clippy.architecture import ImageConfig, ModelConfig, TextConfig
    from clippy.released import OPENAI_MEAN, OPENAI_STD
    from clippy.tokens import build_tokenizer

    torch.manual_seed(0)
    image = ImageConfig(
        name=tower_name(options),
        image_size=options.image_size,
        pooling="max_with_cls",
        patch_dropout=options.patch_dropout,
        mean=OPENAI_MEAN,
        std=OPENAI_STD,
    )
    arguments = {**(SMALL if options.small else T5_BASE), "vocab_size": VOCABULARY}
    text = TextConfig(tokenizer="bytes", max_tokens=MAX_TOKENS, dense=True, arguments=arguments)
    return CLIPpy(ModelConfig(image=image, text=text), build_tokenizer(text))


def tower_name(options: argparse.Namespace) -> str:
    """timm's."""
    return "vit_tiny_patch16_224" if options.small else "vit_base_patch16_224"


def ours(options: argparse.Namespace, device: torch.device, pixels: Tensor, ids: Tensor, lengths: list[int]) -> Step:
    """Our step."""
    from clippy.compilation import compile_towers
    from clippy.loss import contrastive_loss

    model = build_ours(options).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    if options.compile:
        compile_towers(model)

    def loss() -> Tensor:
        image, text, scale = model(pixels, ids, lengths)
        return contrastive_loss(image, text, scale)

    return partial(train, loss, optimizer, device, options.precision)


def padded(options: argparse.Namespace, device: torch.device, pixels: Tensor, ids: Tensor, lengths: list[int]) -> Step:
    """open_clip's classes, with our weights; its configuration of the released model, and the patches dropped."""
    model = build_padded(options).to(device).train()
    from open_clip.loss import ClipLoss

    mean, std = (t.to(device) for t in openai_statistics())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    forward = torch.compile(model) if options.compile else model
    clip_loss = ClipLoss()

    def loss() -> Tensor:
        image, text, scale = forward((pixels.float() / 255 - mean) / std, ids)
        return 2 * clip_loss(image, text, scale)  # ours, the paper's, adds both directions without a half

    return partial(train, loss, optimizer, device, options.precision)


def openai_statistics() -> tuple[Tensor, Tensor]:
    """Mean and deviation of channels in [0, 1], (1, 3, 1, 1)."""
    from clippy.released import OPENAI_MEAN, OPENAI_STD

    return torch.tensor(OPENAI_MEAN).view(1, 3, 1, 1), torch.tensor(OPENAI_STD).view(1, 3, 1, 1)


class MaxOverTokens(nn.Module):
    """What the released fork made of open_clip's ``global_max``: the maximum over all tokens, the class token too."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.amax(dim=1)


def build_padded(options: argparse.Namespace) -> nn.Module:
    """``CustomTextCLIP`` over a timm ViT and a T5 encoder, holding the weights of ``build_ours``."""
    from clippy.torchvision_cpu import ensure_torchvision

    source = build_ours(options).state_dict()
    ensure_torchvision()
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
    from transformers import MT5Config

    arguments = SMALL if options.small else T5_BASE
    with tempfile.TemporaryDirectory() as folder:
        # open_clip knows mT5 alone; with T5's ReLU and sizes the two are one architecture.
        MT5Config(
            **arguments, vocab_size=VOCABULARY, feed_forward_proj="relu", decoder_start_token_id=0
        ).save_pretrained(folder)
        model = CustomTextCLIP(
            source["text.projection.weight"].shape[0],
            CLIPVisionCfg(
                timm_model_name=tower_name(options),
                timm_pool="",
                timm_proj="none",
                image_size=options.image_size,
                patch_dropout=options.patch_dropout,
            ),
            CLIPTextCfg(hf_model_name=folder, hf_model_pretrained=False, hf_proj_type="linear"),
        )
    trunk = model.visual.trunk
    model.visual = nn.Sequential(model.visual, MaxOverTokens())
    model.logit_scale = nn.Parameter(source["log_logit_scale"].clone())
    trunk.load_state_dict(_under(source, "image.trunk."))
    model.text.transformer.load_state_dict(
        {"embed_tokens.weight": source["text.encoder.shared.weight"], **_under(source, "text.encoder.encoder.")}
    )
    model.text.proj.load_state_dict(_under(source, "text.projection."))
    return model


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def train(
    loss_function: Callable[[], Tensor], optimizer: torch.optim.Optimizer, device: torch.device, precision: str
) -> Tensor:
    """One step; both arms drop the same patches."""
    torch.manual_seed(0)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        loss = loss_function()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOPs a second of a large matrix product, the best of five."""
    size = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        synchronise(device)
        started = time.perf_counter()
        _ = a @ b
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def reset_peak(device: torch.device) -> None:
    """Forget the highest memory so far."""
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """The highest memory since."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def device_name(device: torch.device) -> str:
    """As the reader knows it."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def summarise(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    """Medians; nulls for what was not measured."""
    flops = next((run["flops"] for runs in found.values() for run in runs if "flops" in run), None)
    rate = max(run["matrix_flops_per_second"] for runs in found.values() for run in runs)
    result: dict[str, Any] = {
        "device": next(run["device"] for runs in found.values() for run in runs),
        "matrix_flops_per_second": rate,
        "model_flops": flops,
    }
    for name, runs in found.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        result[name] = {
            "images_per_second": options.batch / seconds,
            "mfu": flops / seconds / rate if flops else None,
            "peak_bytes": max(run["peak_bytes"] for run in runs),
        }
    both = "ours" in found and "padded" in found
    result["loss_difference"] = abs(found["ours"][0]["loss"] - found["padded"][0]["loss"]) if both else None
    return result


def table(result: dict[str, Any], options: argparse.Namespace) -> str:
    """A line an arm."""
    dropped = f"{options.patch_dropout:.0%} of patches dropped"
    lines = [
        f"{result['device']}, {options.precision}: batch {options.batch}, {options.image_size} pixels, {dropped}",
        f"{'':16}{'images/s':>10}{'MFU':>8}{'peak':>12}",
    ]
    for name, row in result.items():
        if isinstance(row, dict):
            mfu = f"{row['mfu']:.1%}" if row["mfu"] is not None else ""
            lines.append(f"{name:16}{row['images_per_second']:>10.2f}{mfu:>8}{row['peak_bytes'] / 2**30:>8.2f} GiB")
    if result["loss_difference"] is not None:
        ratio = result["ours"]["images_per_second"] / result["padded"]["images_per_second"]
        lines.append(f"ours is {ratio:.2f} times padded; their first losses differ by {result['loss_difference']:.1e}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
