"""Writes the synthetic benchmark: training shards with captions, and four test sets with exact masks."""

import concurrent.futures
import hashlib
import io
import json
import multiprocessing
import operator
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
from PIL import Image

from pipelines.scenes import BIRDS, CLASSES, SPLITS, Scene, generator_for, scene

__all__ = ["CLASSES", "TEMPLATES", "Parameters", "Scene", "caption", "generate", "scene"]

TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "here is a {}.")
BACKGROUND_CAPTION_PROBABILITY = 0.5
SPURIOUS_ROWS = 400
MARKER = "shapes.json"
FORMAT = 1

TRAIN_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("url", "caption", "key", "status", "error_message")),
        *((name, pa.int32()) for name in ("width", "height", "original_width", "original_height")),
        ("exif", pa.string()),
        ("sha256", pa.string()),
        ("jpg", pa.binary()),
    ]
)
EVALUATION_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        *((name, pa.binary()) for name in ("image", "mask", "instances")),
        *((name, pa.int32()) for name in ("label", "background")),
        ("labels", pa.list_(pa.int32())),
    ]
)
SPURIOUS_SCHEMA = EVALUATION_SCHEMA.append(pa.field("group", pa.int32()))


@dataclass(frozen=True)
class Parameters:
    """Everything that decides the bytes of a dataset; raises ValueError at the first value out of range."""

    rows: int = 8192
    seed: int = 0
    row_group_rows: int = 32
    shard_rows: int = 1024
    background_correlation: float = 0.5
    bird_background_caption_probability: float = 0.5
    image_size: int = 64
    single_rows: int = 600
    multi_rows: int = 400
    camouflage_rows: int = 200

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[int, int | None]] = {
            "rows": (1, None),
            "seed": (0, 2**63 - 1),
            "row_group_rows": (1, None),
            "shard_rows": (1, 10_000),  # the row takes four digits of the key
            "image_size": (32, 256),
            "single_rows": (0, None),
            "multi_rows": (0, None),
            "camouflage_rows": (0, None),
        }
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            rule = f"{low} or more" if high is None else f"between {low} and {high}"
            try:
                whole = operator.index(value)
            except TypeError:
                raise ValueError(f"{field} is {value!r}, but must be a whole number, {rule}") from None
            if whole < low or (high is not None and whole > high):
                raise ValueError(f"{field} is {value}, but must be {rule}")
            object.__setattr__(self, field, whole)
        for field in ("background_correlation", "bird_background_caption_probability"):
            value = getattr(self, field)
            if not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
                raise ValueError(f"{field} is {value!r}, but must be between 0 and 1")
            object.__setattr__(self, field, float(value))
        largest = max(self.counts().values())
        if -(-largest // self.shard_rows) > 100_000:  # the shard takes five digits of the key
            rule = f"large enough that {largest} rows fit in 100000 shards"
            raise ValueError(f"shard_rows is {self.shard_rows}, but must be {rule}")

    def counts(self) -> dict[str, int]:
        """Returns the number of rows of each split."""
        rows = (self.rows, self.single_rows, self.multi_rows, self.camouflage_rows, SPURIOUS_ROWS)
        return dict(zip(SPLITS, rows, strict=True))


@dataclass(frozen=True)
class _Shard:
    """One unit of work: rows `start` to `stop` of a split, which become one Parquet file."""

    split: str
    number: int
    start: int
    stop: int

    @property
    def path(self) -> str:
        folder = "train" if self.split == "train" else f"evaluation/{self.split}"
        return f"{folder}/{self.number:05d}.parquet"


def caption(scene: Scene, generator: np.random.Generator, bird_background_caption_probability: float = 0.5) -> str:
    """Writes one sentence that names the things of a scene in random order and sometimes its ground.

    bird_background_caption_probability: how often the ground is named when a bird is there; without a bird
    it is named half of the time. Positions, counts and sizes are never told.
    """
    template = TEMPLATES[int(generator.integers(len(TEMPLATES)))]
    order = generator.permutation(len(scene.things))
    words = " and a ".join(CLASSES[scene.things[i]]["name"] for i in order)
    has_bird = any(thing in BIRDS for thing in scene.things)
    probability = bird_background_caption_probability if has_bird else BACKGROUND_CAPTION_PROBABILITY
    if generator.random() < probability:
        words += f" with {CLASSES[scene.background]['name']}"
    return template.format(words)


def generate(
    out: str,
    *,
    rows: int = 8192,
    seed: int = 0,
    workers: int | None = None,
    row_group_rows: int = 32,
    shard_rows: int = 1024,
    background_correlation: float = 0.5,
    bird_background_caption_probability: float = 0.5,
    image_size: int = 64,
    single_rows: int = 600,
    multi_rows: int = 400,
    camouflage_rows: int = 200,
    progress: Callable[[int, int], None] | None = None,
    filesystem: pyarrow.fs.FileSystem | None = None,
) -> dict[str, int]:
    """Writes the whole dataset below `out` and returns the number of rows of each split.

    out: a path inside `filesystem` (default: this machine). workers: processes that draw, default all cores;
    the bytes written never depend on it. progress: called with (rows done, rows in all) after each shard.
    A whole dataset of equal parameters is left as it is; a partial one is written again. Raises ValueError
    for a parameter out of range and for a folder that holds a dataset of other parameters.
    """
    parameters = Parameters(
        rows=rows,
        seed=seed,
        row_group_rows=row_group_rows,
        shard_rows=shard_rows,
        background_correlation=background_correlation,
        bird_background_caption_probability=bird_background_caption_probability,
        image_size=image_size,
        single_rows=single_rows,
        multi_rows=multi_rows,
        camouflage_rows=camouflage_rows,
    )
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, but must be 1 or more")
    filesystem = filesystem or pyarrow.fs.LocalFileSystem()
    out = out.rstrip("/") or out
    if _is_whole(filesystem, out, parameters):
        return parameters.counts()
    shards = list(_plan(parameters))
    _remove_leftovers(filesystem, out, shards)
    done, total = 0, sum(parameters.counts().values())
    for shard, files in zip(shards, _drawn(parameters, shards, workers or os.cpu_count() or 1), strict=True):
        for path, content in files.items():
            _write(filesystem, f"{out}/{path}", content)
        done += shard.stop - shard.start
        if progress is not None:
            progress(done, total)
    _write(filesystem, f"{out}/evaluation/classes.json", _json({"classes": CLASSES, "templates": TEMPLATES}))
    # The marker comes last: a folder without it is not whole.
    marker = {"format": FORMAT, "parameters": asdict(parameters), "counts": parameters.counts()}
    _write(filesystem, f"{out}/{MARKER}", _json(marker))
    return parameters.counts()


def _plan(parameters: Parameters) -> Iterator[_Shard]:
    """Yields the shards of all splits in the order in which they are written."""
    for split, count in parameters.counts().items():
        for number, start in enumerate(range(0, count, parameters.shard_rows)):
            yield _Shard(split, number, start, min(start + parameters.shard_rows, count))


def _drawn(parameters: Parameters, shards: list[_Shard], workers: int) -> Iterator[dict[str, bytes]]:
    """Yields the files of each shard in order, drawn here or by several processes."""
    draw = partial(_shard_files, parameters)
    workers = min(workers, len(shards))
    if workers <= 1:
        yield from map(draw, shards)
        return
    # Processes start afresh: forking a process that runs threads (Arrow, Ray) can hang.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(draw, shards)


def _shard_files(parameters: Parameters, shard: _Shard) -> dict[str, bytes]:
    """Draws one shard and returns the content of its files by path; whoever asked writes them."""
    indices = range(shard.start, shard.stop)
    if shard.split == "train":
        drawn = [_train_row(parameters, shard, index) for index in indices]
        content = _parquet(drawn, TRAIN_SCHEMA, parameters.row_group_rows)
        count = len(indices)
        # No times: the same seed must give the same bytes.
        stats: dict[str, Any] = {
            "count": count,
            "successes": count,
            "failed_to_download": 0,
            "failed_to_resize": 0,
        }
        stats |= {"duration": 0.0, "start_time": 0.0, "end_time": 0.0, "status_dict": {"success": count}}
        return {shard.path: content, shard.path.removesuffix(".parquet") + "_stats.json": _json(stats)}
    schema = SPURIOUS_SCHEMA if shard.split == "spurious" else EVALUATION_SCHEMA
    drawn = [_evaluation_row(parameters, shard, index) for index in indices]
    return {shard.path: _parquet(drawn, schema, parameters.row_group_rows)}


def _key(shard: _Shard, index: int) -> str:
    return f"{shard.number:05d}{index - shard.start:04d}"


def _train_row(parameters: Parameters, shard: _Shard, index: int) -> dict[str, Any]:
    """Draws one captioned picture as a row of TRAIN_SCHEMA."""
    seed, size, correlation = parameters.seed, parameters.image_size, parameters.background_correlation
    drawn = scene(seed, "train", index, image_size=size, background_correlation=correlation)
    words = generator_for(seed, "train", index, stream=1)
    jpg = _encoded(drawn.image, "JPEG")
    return {
        "url": f"shapes://train/{index}",
        "caption": caption(drawn, words, parameters.bird_background_caption_probability),
        "key": _key(shard, index),
        "status": "success",
        "error_message": None,
        **dict.fromkeys(("width", "height", "original_width", "original_height"), size),
        "exif": "{}",
        "sha256": hashlib.sha256(jpg).hexdigest(),
        "jpg": jpg,
    }


def _evaluation_row(parameters: Parameters, shard: _Shard, index: int) -> dict[str, Any]:
    """Draws one picture with its masks as a row of EVALUATION_SCHEMA, with `group` for the spurious split."""
    drawn = scene(parameters.seed, shard.split, index, image_size=parameters.image_size)
    row = {
        "key": _key(shard, index),
        "image": _encoded(drawn.image, "JPEG"),
        "mask": _encoded(drawn.mask, "PNG"),
        "instances": _encoded(drawn.instances, "PNG"),
        "label": drawn.things[0],
        "background": drawn.background,
        "labels": list(drawn.things),
    }
    return row | {"group": index % 4} if shard.split == "spurious" else row


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    """Encodes uint8 pixels; JPEG keeps full colour resolution, because small things differ in hue alone."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return buffer.getvalue()


def _parquet(rows: list[dict[str, Any]], schema: pa.Schema, row_group_rows: int) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=schema)
    pyarrow.parquet.write_table(table, sink, row_group_size=row_group_rows)
    return sink.getvalue().to_pybytes()


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _is_whole(filesystem: pyarrow.fs.FileSystem, out: str, parameters: Parameters) -> bool:
    """Tells whether `out` already holds this dataset; raises ValueError where it holds another one."""
    path = f"{out}/{MARKER}"
    if filesystem.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
        return False
    remedy = "remove the folder or choose another one"
    with filesystem.open_input_stream(path) as stream:
        content = stream.read()
    try:
        marker = json.loads(content)
        found = {"format": marker["format"], **marker["parameters"]}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not the marker of a shapes dataset; {remedy}") from None
    for field, value in {"format": FORMAT, **asdict(parameters)}.items():
        if found.get(field) != value:
            held = found.get(field)
            raise ValueError(f"{out} holds a dataset with {field} = {held}, not {value}; {remedy}")
    return True


def _remove_leftovers(filesystem: pyarrow.fs.FileSystem, out: str, shards: Iterable[_Shard]) -> None:
    """Removes shards of an unfinished run that this run would not overwrite, and nothing else."""
    kept = {f"{out}/{shard.path}" for shard in shards}
    for folder in sorted({posixpath.dirname(path) for path in kept}):
        selector = pyarrow.fs.FileSelector(folder, allow_not_found=True)
        for info in filesystem.get_file_info(selector):
            shard_path = re.sub(r"_stats\.json$", ".parquet", info.path)
            is_ours = re.fullmatch(r"\d{5}(\.parquet|_stats\.json)|\..+\.partial", info.base_name)
            if is_ours and shard_path not in kept:
                filesystem.delete_file(info.path)


def _write(filesystem: pyarrow.fs.FileSystem, path: str, content: bytes) -> None:
    """Writes one file so that nobody sees half of it under its final name."""
    base = filesystem
    while isinstance(base, pyarrow.fs.SubTreeFileSystem):
        base = base.base_fs
    is_local = isinstance(base, pyarrow.fs.LocalFileSystem)
    folder, name = posixpath.split(path)
    # Object stores have no folders and show a file only when it is complete.
    target = f"{folder}/.{name}.partial" if is_local else path
    if is_local:
        filesystem.create_dir(folder, recursive=True)
    with filesystem.open_output_stream(target) as stream:
        stream.write(content)
    if is_local:
        filesystem.move(target, path)
