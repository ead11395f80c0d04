"""Photographs to measure with: JPEGs of three usual sizes, as Parquet of our layout and as webdataset tars.

    python benchmarks/photographs.py OUT [--rows 2304] [--seed 0]

What is in them was photographed: crops of the pictures that come with scikit-learn and matplotlib, mirrored and laid
side by side at their own resolution, never enlarged, so that edges, grain and the size of the files are those of
photographs. A third each is 1024 x 768, 640 x 480 and 384 x 256 pixels, JPEG of quality 85 to 95 with 4:2:0. The same
seed gives the same pictures. ``OUT/parquet`` and ``OUT/tars`` hold the same ones in the same order.
"""

from __future__ import annotations

import argparse
import io
import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from importlib.resources import files
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZES = ((1024, 768), (640, 480), (384, 256))
"""Width, height."""
ROW_GROUP_ROWS = 256
"""Also the rows of a shard: a plain reader that takes a shard at a time is given small ones."""
_SUBJECTS = ("a temple by a lake", "a flower", "a portrait of an officer")


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--rows", type=int, default=2304)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_photographs(options.out, options.rows, options.seed)


def write_photographs(out: Path, rows: int, seed: int = 0) -> None:
    """``out/parquet/*.parquet`` and ``out/tars/*.tar`` with so many pictures, sizes in turn."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        images = list(pool.map(partial(make_photograph, seed), range(rows), chunksize=32))
    captions = [f"{_SUBJECTS[i % len(_SUBJECTS)]}, picture number {i}" for i in range(rows)]
    keys = [f"{i:08d}" for i in range(rows)]
    _write_parquet(out / "parquet", keys, captions, images)
    _write_tars(out / "tars", keys, captions, images)


def make_photograph(seed: int, index: int) -> bytes:
    """The JPEG of one picture; a function of its arguments alone."""
    random = np.random.default_rng([seed, index])
    width, height = SIZES[index % len(SIZES)]
    picture = Image.new("RGB", (width, height))
    columns, rows = -(-width // 512), -(-height // 400)  # tiles that fit into every one of the photographs
    xs = np.linspace(0, width, columns + 1).astype(int).tolist()
    ys = np.linspace(0, height, rows + 1).astype(int).tolist()
    for left, right in pairwise(xs):
        for top, bottom in pairwise(ys):
            picture.paste(_crop(random, right - left, bottom - top), (left, top))
    brightness = random.uniform(0.8, 1.2)
    content = io.BytesIO()
    picture.point(lambda value: value * brightness).save(
        content, "JPEG", quality=int(random.integers(85, 96)), subsampling="4:2:0"
    )
    return content.getvalue()


def _crop(random: np.random.Generator, width: int, height: int) -> Image.Image:
    photographs = _photographs()
    photograph = photographs[random.integers(len(photographs))]
    left = int(random.integers(photograph.width - width + 1))
    top = int(random.integers(photograph.height - height + 1))
    crop = photograph.crop((left, top, left + width, top + height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else crop


@lru_cache(maxsize=1)
def _photographs() -> list[Image.Image]:
    """640 x 427, 640 x 427 and 512 x 600 pixels."""
    try:
        samples = files("sklearn.datasets.images")
        paths = [samples / "china.jpg", samples / "flower.jpg"]
        paths.append(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg")
        return [Image.open(io.BytesIO(path.read_bytes())).convert("RGB") for path in paths]
    except ModuleNotFoundError as error:
        raise ImportError(f"the photographs come with scikit-learn and matplotlib: pip install {error.name}") from None


def _write_parquet(folder: Path, keys: list[str], captions: list[str], images: list[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"key": keys, "caption": captions, "image": pa.array(images, pa.large_binary())})
    for shard, start in enumerate(range(0, len(table), ROW_GROUP_ROWS)):
        # A JPEG does not shrink any further.
        pq.write_table(
            table.slice(start, ROW_GROUP_ROWS),
            folder / f"{shard:05d}.parquet",
            row_group_size=ROW_GROUP_ROWS,
            compression="none",
            use_dictionary=False,
        )


def _write_tars(folder: Path, keys: list[str], captions: list[str], images: list[bytes]) -> None:
    """At least two shards for every core: each worker of the loader reads shards of its own."""
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    shard_rows = max(1, min(256, len(keys) // (2 * (os.cpu_count() or 1))))
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=shard_rows, verbose=0) as writer:
        for key, caption, image in zip(keys, captions, images, strict=True):
            writer.write({"__key__": key, "jpg": image, "txt": caption})


if __name__ == "__main__":
    main()
