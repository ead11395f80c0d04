"""What calibration times: training steps of small models, and pictures being decoded. Each in the units of a plan."""

from __future__ import annotations

import io
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from clippy.architecture import TextConfig
from clippy.model import CLIPpy
from clippy.tokens import build_tokenizer
from cluster.capacity.dry_run import caption_lengths
from cluster.capacity.pairs import Pairs
from cluster.capacity.step import model_step, optimizer_bytes
from cluster.capacity.stream_need import decoded_pixels
from pipelines.optim import build_optimizer
from pipelines.recipe import Recipe, load_recipe
from pipelines.samples import Decoding, decode_unit
from pipelines.state import TrainState
from pipelines.step import Stepper
from pipelines.timing import StepTimer

Cost = tuple[tuple[float, ...], float]
"""Amounts of what a rate is to be found for, and the seconds that they took together."""

_MODELS = ((64, 64, 8, 3, 48), (192, 128, 16, 4, 16), (192, 128, 16, 4, 4), (384, 224, 16, 3, 8), (768, 224, 16, 2, 4))
"""Width, pixels, patch size, layers and pairs, from mostly overhead to mostly matrix products."""
_PICTURES = ((64, 64), (320, 240), (640, 480), (1024, 768))
_SIZES = (64, 224, 448)
_REPEATS = 5
PAIRS = Pairs(name="synthetic", pairs=10**6, bytes=1, width=1, height=1)


@dataclass(frozen=True)
class SyntheticBatch:
    """Rows that look like a micro-batch of the stream."""

    pixels: np.ndarray
    ids: np.ndarray
    valid: np.ndarray


def synthetic_batch(recipe: Recipe, pairs: Pairs, vocabulary: int = 256) -> SyntheticBatch:
    """A micro-batch of noise, its captions as long as a plan takes them to be."""
    rows, size, width = recipe.micro_batch_size, recipe.model.image.image_size, recipe.model.text.max_tokens
    generator = np.random.default_rng(0)
    lengths = np.array(caption_lengths(rows, pairs.tokens, pairs.token_spread, width))
    ids = generator.integers(3, vocabulary, (rows, width)).astype(np.int32)
    ids[np.arange(width)[None] >= lengths[:, None]] = 0
    pixels = generator.integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    return SyntheticBatch(pixels, ids, np.ones(rows, bool))


def step_costs(precision: str, threads: int) -> list[Cost]:
    """FLOPs, bytes moved and operations of a step of each of five models on the CPU, and its seconds."""
    torch.set_num_threads(threads)
    return [_step_cost(_small_recipe(*shape, precision), threads) for shape in _MODELS]


def _step_cost(recipe: Recipe, threads: int) -> Cost:
    step, seconds = model_step(recipe, PAIRS, 1), step_seconds_here(recipe, PAIRS, threads)
    work = step.passes.forward + step.passes.backward + step.loss.work
    moved = work.moved_bytes + optimizer_bytes(recipe, step.passes)
    return (float(work.flops), float(moved), float(work.kernels + 2 * step.passes.tensors)), seconds


def step_seconds_here(recipe: Recipe, pairs: Pairs, threads: int) -> float:
    """The median of a few real steps of one micro-batch on the CPU: a training takes all of them, not the best.

    One thread is timed by its own clock, which others on the machine do not stop.
    """
    torch.manual_seed(0)
    model = CLIPpy(recipe.model, build_tokenizer(recipe.model.text)).train()
    state, device = TrainState(model, build_optimizer(model, recipe.optim)), torch.device("cpu")
    stepper = Stepper(state, model, recipe, device, StepTimer(device))
    batch, clock = synthetic_batch(recipe, pairs), time.process_time if threads == 1 else time.perf_counter
    stepper([batch])
    seconds = []
    for _ in range(_REPEATS):
        started = clock()
        stepper([batch])
        seconds.append(clock() - started)
    return statistics.median(seconds)


def _small_recipe(width: int, size: int, patch: int, layers: int, rows: int, precision: str) -> Recipe:
    heads = max(1, width // 64)
    image = f"{{patch_size: {patch}, embed_dim: {width}, depth: {layers}, num_heads: {heads}}}"
    text = f"{{d_model: {width}, d_kv: 64, num_heads: {heads}, d_ff: {4 * width}, num_layers: {layers}}}"
    return load_recipe(
        "shapes",
        [
            f"model.image.image_size={size}",
            f"model.image.arguments={image}",
            f"model.text.arguments={text}",
            "model.text.tokenizer=bytes",
            "model.text.max_tokens=77",
            f"optim.global_batch_size={rows}",
            "scaling.num_workers=1",
            f"train.precision={precision}",
        ],
    )


def decode_costs() -> list[Cost]:
    """Encoded bytes, pixels as decoded, pixels that come out, rows and resized rows of units; and core seconds."""
    tokenizer = build_tokenizer(TextConfig(tokenizer="bytes", max_tokens=77)).to_json()
    torch.set_num_threads(1)
    costs = []
    for width, height in _PICTURES:
        pictures = [picture(width, height, seed) for seed in range(12)]
        table = _unit(pictures)
        for size in _SIZES:
            decoding = Decoding(size, tokenizer, 77)
            spent = [float(decode_unit(table, decoding)["decode_seconds"].sum()) for _ in range(_REPEATS + 1)]
            seconds = statistics.median(spent[1:])
            pixels, resizes = decoded_pixels(width, height, size)
            of_each = (pixels, size**2, 1, resizes)
            amounts = (sum(map(len, pictures)), *(len(pictures) * amount for amount in of_each))
            costs.append((tuple(map(float, amounts)), seconds))
    return costs


def picture(width: int, height: int, seed: int) -> bytes:
    """A JPEG whose spectrum falls off as that of photographs does."""
    generator = np.random.default_rng(seed)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = np.fft.rfft2(generator.normal(size=(3, height, width)))
    plane = np.fft.irfft2(spectrum / np.maximum(frequencies, 1 / max(width, height)), s=(height, width))
    plane = 128 + 48 * plane / plane.std()
    content = io.BytesIO()
    Image.fromarray(plane.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(content, "JPEG", quality=90)
    return content.getvalue()


def _unit(pictures: list[bytes]) -> pa.Table:
    rows = len(pictures)
    return pa.table(
        {
            "unit": pa.array([0] * rows, pa.int64()),
            "passes": pa.array([0] * rows, pa.int64()),
            "key": [str(row) for row in range(rows)],
            "image": pa.array(pictures, pa.large_binary()),
            "caption": ["a photograph of what nobody has seen, with some grain"] * rows,
            "read_seconds": pa.array([0.0] * rows, pa.float32()),
        }
    )


def peak_here() -> int:
    """Most resident memory of this process so far."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
