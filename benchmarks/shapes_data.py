"""The data of ``shapes_claims.py``: training sets that differ in one thing each, one evaluation set for an image size.

Shapes: B pictures, H W pixels, N patches.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from clippy.metrics import count_in_patches
from pipelines.scenes import CLASSES, scene
from pipelines.shapes import generate

SEED = 0
"""Of the scenes, the same for every run: seeds of runs decide weights and order."""
GROUNDS = tuple(c["name"] for c in CLASSES if c["kind"] == "stuff")


@dataclass(frozen=True)
class TrainingSet:
    """What the pairs of an arm are."""

    image_size: int = 64
    correlation: float = 0.5
    """How often bird y lies on its own ground: rho."""
    ground_named: float = 0.5
    """How often a caption with a bird names the ground."""
    captions: Literal["true", "shuffled", "objects"] = "true"
    """Those of the pictures, those of other pictures, or those of the pictures without their ground."""

    @property
    def name(self) -> str:
        """Of its folder."""
        changed = "" if self.captions == "true" else f"-{self.captions}"
        return f"{self.image_size}px-rho-{self.correlation:g}-named-{self.ground_named:g}{changed}"


@dataclass(frozen=True)
class DataFolder:
    """Where the data of one size lie; whatever is asked for and missing is made."""

    folder: Path
    rows: int
    single_rows: int
    multi_rows: int
    camouflage_rows: int

    def training(self, wanted: TrainingSet) -> Path:
        """The folder of shards."""
        folder = self.folder / wanted.name
        if wanted.captions == "true":
            is_evaluated = wanted == TrainingSet(image_size=wanted.image_size)
            rows = (self.single_rows, self.multi_rows, self.camouflage_rows) if is_evaluated else (0, 0, 0)
            generate(
                str(folder),
                rows=self.rows,
                seed=SEED,
                workers=1,
                background_correlation=wanted.correlation,
                bird_background_caption_probability=wanted.ground_named,
                image_size=wanted.image_size,
                **dict(zip(("single_rows", "multi_rows", "camouflage_rows"), rows, strict=True)),
            )
        elif not folder.exists():
            source = self.training(TrainingSet(wanted.image_size, wanted.correlation, wanted.ground_named))
            change = {"shuffled": shuffled, "objects": without_grounds}[wanted.captions]
            rewrite_captions(source, folder / "train", change)
        return folder / "train"

    def evaluation(self, image_size: int) -> Path:
        """The folder of the benchmark: no test set depends on what a model was trained on."""
        wanted = TrainingSet(image_size=image_size)
        self.training(wanted)
        return self.folder / wanted.name


def shuffled(captions: list[str]) -> list[str]:
    """The same captions in another order."""
    order = np.random.default_rng(SEED).permutation(len(captions))
    return [captions[i] for i in order]


def without_grounds(captions: list[str]) -> list[str]:
    """Each caption without the words that name the ground."""
    ending = re.compile(rf" with ({'|'.join(GROUNDS)})\.$")
    return [ending.sub(".", caption) for caption in captions]


def rewrite_captions(source: Path, target: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Write the shards of ``source`` with other captions into ``target``, which appears whole or not at all."""
    paths = sorted(source.glob("[0-9]*.parquet"))
    tables = [pq.read_table(path) for path in paths]
    captions = change([caption for table in tables for caption in table["caption"].to_pylist()])
    unfinished = target.parent.with_name(f".{target.parent.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / target.name).mkdir(parents=True)
    for path, table in zip(paths, tables, strict=True):
        mine, captions = captions[: len(table)], captions[len(table) :]
        column = pa.array(mine, table.schema.field("caption").type)
        changed = table.set_column(table.schema.get_field_index("caption"), "caption", column)
        rows = pq.ParquetFile(path).metadata.row_group(0).num_rows
        pq.write_table(changed, unfinished / target.name / path.name, row_group_size=rows)
    os.replace(unfinished, target.parent)


def read_training_images(shards: Path) -> Tensor:
    """All pictures of a training set in the order of rows, uint8 (B, 3, H, W)."""
    column = [jpg for path in sorted(shards.glob("[0-9]*.parquet")) for jpg in pq.read_table(path)["jpg"].to_pylist()]
    return torch.from_numpy(np.stack([_pixels(jpg) for jpg in column])).permute(0, 3, 1, 2)


def read_test(benchmark: Path, split: str) -> tuple[Tensor, np.ndarray]:
    """One test set: images uint8 (B, 3, H, W), and the class of each pixel, int64 (B, H, W)."""
    table = pa.concat_tables(pq.read_table(p) for p in sorted((benchmark / "evaluation" / split).glob("*.parquet")))
    images = np.stack([_pixels(data) for data in table["image"].to_pylist()])
    masks = np.stack([_pixels(data) for data in table["mask"].to_pylist()]).astype(np.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2), masks


def contents(rows: int) -> Tensor:
    """What training pictures show, things and ground: float (B, 17) of zeros and ones, whatever their captions say."""
    labels = torch.zeros(rows, len(CLASSES))
    for index in range(rows):
        drawn = scene(SEED, "train", index)
        labels[index, [*drawn.things, drawn.background]] = 1
    return labels


def patch_labels(rows: int, image_size: int, patch: int) -> tuple[Tensor, Tensor]:
    """So many training scenes, uint8 (B, 3, H, W), and the commonest class of each of their patches, int64 (B, N)."""
    scenes = [scene(SEED, "train", index, image_size=image_size) for index in range(rows)]
    grid = image_size // patch
    counted = [count_in_patches(drawn.mask, grid, grid) for drawn in scenes]
    masks = [torch.from_numpy(ids[counts.argmax(axis=1)]) for ids, counts in counted]  # most frequent class
    images = torch.from_numpy(np.stack([drawn.image for drawn in scenes])).permute(0, 3, 1, 2)
    return images, torch.stack(masks)


def _pixels(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))
