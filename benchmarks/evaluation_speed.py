"""Evaluation of segmentation and grouping, against the forward pass alone on the same batches; and its memory.

    python benchmarks/evaluation_speed.py [--pictures 48] [--rounds 3] [--tower vit_base_patch16_224] [--json]

evaluate  decoding pictures and masks, the forward pass, naming and grouping pixels, counting; one process, one model
forward   the forward pass alone, on the batches that the evaluation made of the same pictures

Both are timed in turn, the median of all rounds is told, and the share is forward / evaluate: 1 would be an evaluation
that costs nothing beside the model. Without a GPU both have one core, threads that read included, as each worker of
``clippy evaluate`` has. Peak memory is of a fresh process each: with a quarter of the pictures, and with another number
of classes. Weights are random; what is measured does not hang on them. It needs neither Ray nor MLflow.

    voc         640 x 480 pixels,   21 classes, the model sees a short side of 224
    coco-stuff  640 x 480 pixels,  171 classes, 224
    cityscapes  2048 x 1024 pixels, 27 classes, 448
    large       2048 x 1024 pixels, 171 classes, 448
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from photographs import _crop
from PIL import Image
from train_step import alone, device_name, peak_bytes, reset_peak, synchronise

from clippy import images
from clippy.architecture import ImageConfig, ModelConfig, TextConfig
from clippy.model import CLIPpy
from clippy.tokens import build_tokenizer
from clippy.vocabulary import ClassList
from pipelines.evaluation.dataset import Example
from pipelines.evaluation.protocol import PROTOCOLS
from pipelines.evaluation.question import Part
from pipelines.evaluation.questions.grouping import Grouping
from pipelines.evaluation.questions.segmentation import Segmentation
from pipelines.evaluation.reading import Reader
from pipelines.evaluation.units import Measurer, Task, Unit

BATCH = 16 if torch.cuda.is_available() else 2
"""Small on a CPU, which it makes no slower, so that a quarter of few pictures fills one too."""
CASES = {
    "voc": (640, 480, 21, 224),
    "coco-stuff": (640, 480, 171, 224),
    "cityscapes": (2048, 1024, 27, 448),
    "large": (2048, 1024, 171, 448),
}
"""Width and height in pixels, classes, short side that the model sees."""


@dataclass(frozen=True)
class Scenes:
    """JPEG photographs with PNG masks of some classes in blocks, decoded anew at each reading."""

    files: tuple[tuple[bytes, bytes], ...]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Example:
        """A picture with its mask."""
        jpeg, png = self.files[index]
        mask = np.array(Image.open(io.BytesIO(png))).astype(np.int32)
        return Example(str(index), images.decode_rgb(jpeg), mask=mask)


@dataclass(frozen=True)
class RandomModel:
    """A model with the wanted tower, made anew in each process."""

    tower: str
    name: str = "random"

    def load(self) -> CLIPpy:
        """The model, on the CPU."""
        torch.manual_seed(0)
        text = {"d_model": 256, "d_kv": 64, "num_heads": 4, "d_ff": 512, "num_layers": 2}
        config = ModelConfig(
            image=ImageConfig(name=self.tower, pooling="max"),
            text=TextConfig(tokenizer="bytes", max_tokens=64, arguments=text),
        )
        return CLIPpy(config, build_tokenizer(config.text)).eval()


def main() -> None:
    """Measure each case, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tower", default="vit_base_patch16_224")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, Any] = {"device": _device_name(), "tower": options.tower, "cases": {}}
    for name in options.only:
        timed = alone(partial(time_case, name, options.tower, options.pictures, options.rounds))
        fewer = alone(partial(peak_of, name, options.tower, max(1, options.pictures // 4)))
        more = alone(partial(peak_of, name, options.tower, options.pictures))
        result["cases"][name] = timed | {"peak_bytes_of_a_quarter": fewer, "peak_bytes": more}
        print(f"{name}: {line(result['cases'][name])}", file=sys.stderr, flush=True)
    print(json.dumps(result, indent=2) if options.json else table(result))


def time_case(name: str, tower: str, pictures: int, rounds: int) -> dict[str, float]:
    """Pictures a second of both, medians, and their ratio."""
    limit_to_one_core()
    measurer, task = prepare(name, tower, pictures)
    reader: Reader = measurer._reader
    batches = [features.images_B3HW for features in _batches(measurer, pictures)]
    spent: dict[str, list[float]] = {"evaluate": [], "forward": []}
    for _ in range(rounds + 1):  # the first is a warm-up
        spent["evaluate"].append(_seconds(partial(measurer.measure, Unit(0, 0, pictures))))
        spent["forward"].append(_seconds(lambda: [reader.embed_patches(batch) for batch in batches]))
    rate = {what: pictures / statistics.median(seconds[1:]) for what, seconds in spent.items()}
    return {"evaluate": rate["evaluate"], "forward": rate["forward"], "share": rate["evaluate"] / rate["forward"]}


def peak_of(name: str, tower: str, pictures: int) -> int:
    """Most memory held while so many pictures are measured, beyond what model and files take."""
    limit_to_one_core()
    measurer, _ = prepare(name, tower, pictures)
    measurer.measure(Unit(0, 0, min(pictures, 2)))
    reset_peak(_device())
    measurer.measure(Unit(0, 0, pictures))
    return peak_bytes(_device())


def limit_to_one_core() -> None:
    """This process, from now on, unless it has a GPU."""
    if _device().type == "cpu":
        if hasattr(os, "sched_setaffinity"):  # Linux
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        torch.set_num_threads(1)


def prepare(name: str, tower: str, pictures: int) -> tuple[Measurer, Task]:
    """A copy of the model with both questions put to it."""
    width, height, num_classes, size = CASES[name]
    classes = ClassList(name, "numbers", tuple(f"thing {i}" for i in range(num_classes)), ("thing",) * num_classes)
    protocol = PROTOCOLS["paper"].model_copy(update={"size": size})
    part = Part(
        "val",
        make_scenes(width, height, num_classes, pictures),
        (Segmentation(classes, ("a {}.",)), Grouping(protocol)),
    )
    task: Any = Task(RandomModel(tower), protocol, (part,), BATCH, _device().type)  # type: ignore[arg-type]
    return Measurer(task), task


def make_scenes(width: int, height: int, num_classes: int, pictures: int) -> Scenes:
    """The same ones for the same arguments."""
    files = []
    for index in range(pictures):
        random = np.random.default_rng([width, num_classes, index])
        picture = Image.new("RGB", (width, height))
        for left in range(0, width, 512):
            for top in range(0, height, 256):
                picture.paste(_crop(random, 512, 256), (left, top))
        blocks = random.integers(num_classes, size=(height // 80 + 1, width // 80 + 1)).astype(np.uint8)
        mask = np.kron(blocks, np.ones((80, 80), dtype=np.uint8))[:height, :width]
        files.append((_encoded(picture, "JPEG", quality=90), _encoded(Image.fromarray(mask), "PNG")))
    return Scenes(tuple(files))


def _batches(measurer: Measurer, pictures: int) -> list[Any]:
    """The features of each batch that an evaluation makes, nothing of them computed."""
    found: dict[int, Any] = {}
    for _, features, _, _ in measurer._read(0, range(pictures)):
        found[id(features)] = features
    return list(found.values())


def _seconds(work: Any) -> float:
    synchronise(_device())
    started = time.perf_counter()
    work()
    synchronise(_device())
    return time.perf_counter() - started


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _device_name() -> str:
    return device_name(_device()) if _device().type == "cuda" else "one core of the CPU"


def line(case: dict[str, float]) -> str:
    """One case in words."""
    return (
        f"{case['evaluate']:.2f} pictures/s, forward alone {case['forward']:.2f}, share {case['share']:.2f}; peak "
        f"{case['peak_bytes'] / 2**20:,.0f} MiB, {case['peak_bytes_of_a_quarter'] / 2**20:,.0f} with a quarter"
    )


def table(result: dict[str, Any]) -> str:
    """A line a case."""
    return "\n".join(
        [
            f"{result['tower']} on {result['device']}",
            *(f"{name:<12}{line(case)}" for name, case in result["cases"].items()),
        ]
    )


if __name__ == "__main__":
    main()
