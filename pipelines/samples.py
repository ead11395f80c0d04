"""One unit of the plan: read its rows from Parquet, then decode them. Plain functions; the stream runs them as tasks.

A row that gives no pair keeps its place, marked with a cause, so that the order never depends on what images hold.
What is drawn at random for a row, one of its captions or a crop, depends on (seed, pass, key) and on nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from clippy import images
from clippy.crops import RandomResizedCrop, numbers_of
from clippy.tokens import CaptionTokenizer
from pipelines.columns import DataError, is_list, key_texts, texts, usable_mask
from pipelines.layout import FILLER
from pipelines.manifest import Manifest, changed_shard, missing_shard
from pipelines.plan import Part, Plan, Rows
from pipelines.sections import DatasetConfig
from pipelines.shards import footer_digest, open_shard, read_footer, read_groups
from pipelines.storage import Location, locate

VALID = "valid"
CAUSES = (VALID, "null_image", "empty_caption", images.NOT_AN_IMAGE, images.TRUNCATED, images.TOO_LARGE)
"""What can become of a row; its index is the ``cause`` column of a decoded unit."""


def invalid_rows(counts: Sequence[int]) -> dict[str, int]:
    """Rows that were no usable pair, by cause, from the rows of each of CAUSES."""
    return {cause: n for cause, n in zip(CAUSES[1:], counts[1:], strict=True) if n}


_CROP_NUMBERS = 40
"""Four numbers for each of ten tries, as torchvision's RandomResizedCrop makes them."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """One dataset of the mixture and its manifest."""

    config: DatasetConfig
    manifest: Manifest

    @cached_property
    def folder(self) -> Location:
        """Where its shards lie."""
        return locate(self.config.url, self.config.storage_options)

    @cached_property
    def identity(self) -> str:
        """Tells apart what may be remembered: the same shards at another endpoint are others."""
        return f"{self.manifest.digest} {self.config.model_dump_json()}"


@dataclass(frozen=True, eq=False)
class Source:
    """Everything a task needs to make any unit: the datasets and the order."""

    datasets: tuple[Dataset, ...]
    seed: int
    unit_rows: int

    @cached_property
    def plan(self) -> Plan:
        """The order of samples. Raises DataError for a dataset without a usable row."""
        for dataset in self.datasets:
            if not dataset.manifest.usable_rows.sum():
                raise DataError(f"{dataset.config.url}: the dataset has no usable row")
        return Plan(
            [Part(d.manifest.usable_rows, d.manifest.digest, d.config.weight) for d in self.datasets], self.seed
        )

    @property
    def digest(self) -> str:
        """Of data and weights: position in another mixture means nothing."""
        return self.plan.digest

    @property
    def is_local(self) -> bool:
        """Whether nothing has to be fetched from another machine."""
        return all(dataset.folder.is_local for dataset in self.datasets)

    @cached_property
    def excluded(self) -> dict[str, int]:
        """Rows of all datasets that are no samples, by cause."""
        causes = [cause for dataset in self.datasets for cause in dataset.manifest.excluded]
        return {cause: sum(d.manifest.excluded.get(cause, 0) for d in self.datasets) for cause in dict.fromkeys(causes)}


@dataclass(frozen=True)
class Decoding:
    """How rows become arrays."""

    image_size: int
    tokenizer_json: str
    max_tokens: int
    seed: int = 0
    crop: RandomResizedCrop | None = None
    """Null resizes and crops the centre."""


@dataclass(frozen=True)
class Work:
    """Encoded bytes of images, and seconds that tasks spent to read and to decode them."""

    image_bytes: int = 0
    read_seconds: float = 0.0
    decode_seconds: float = 0.0


def read_unit(source: Source, unit: int) -> pa.Table:
    """Rows of one unit, in order, still encoded.

    Columns unit, passes, key, image (bytes or null), caption (text) and read_seconds (each row's share). Raises
    DataError when a shard is gone or is not the one that was indexed.
    """
    started = time.perf_counter()
    runs = source.plan.rows(unit * source.unit_rows, (unit + 1) * source.unit_rows)
    table = pa.concat_tables([_read_rows(source, run) for run in runs])
    table = table.add_column(0, "unit", pa.repeat(pa.scalar(unit, pa.int64()), len(table)))
    return _add_seconds(table, "read_seconds", time.perf_counter() - started)


def decode_unit(table: pa.Table, decoding: Decoding, pixels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Arrays of one unit: pixels uint8 (rows, size, size, 3), ids int32 (rows, tokens), and one number a row.

    These are unit, key, cause, image_bytes (encoded), read_seconds and decode_seconds (of a core; each row's
    share). A row without a pair has zero pixels and the ids of an empty caption. ``pixels`` is where to decode to.
    """
    started = time.thread_time()
    if pixels is None:
        pixels = np.empty((len(table), decoding.image_size, decoding.image_size, 3), dtype=np.uint8)
    causes = np.zeros(len(table), dtype=np.int8)
    captions, keys = texts(table.column("caption")), texts(table.column("key"))
    passes = table.column("passes").to_pylist()
    for i, image in enumerate(table.column("image")):
        cause = _decode_row(image, captions[i], pixels[i], decoding, (decoding.seed, passes[i], keys[i]))
        if cause != VALID:
            causes[i], captions[i], pixels[i] = CAUSES.index(cause), "", 0
    lengths = pc.fill_null(pc.binary_length(table.column("image")), 0)
    return {
        "unit": table.column("unit").to_numpy(),
        "key": np.array(keys, dtype=object),
        "cause": causes,
        "pixels": pixels,
        "ids": _tokenizer(decoding.tokenizer_json, decoding.max_tokens)(captions, width=decoding.max_tokens),
        "image_bytes": lengths.to_numpy().astype(np.int64),
        "read_seconds": table.column("read_seconds").to_numpy(),
        "decode_seconds": np.full(len(table), (time.thread_time() - started) / len(table), np.float32),
    }


def filler_unit(rows: int, decoding: Decoding, pixels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Arrays of a unit of no rows of the plan, as ``decode_unit`` makes them: black, without captions or keys."""
    if pixels is None:
        pixels = np.empty((rows, decoding.image_size, decoding.image_size, 3), np.uint8)
    pixels[:] = 0
    return {
        "key": np.array([], dtype=object),
        "cause": np.full(rows, FILLER, np.int8),
        "pixels": pixels,
        "ids": _tokenizer(decoding.tokenizer_json, decoding.max_tokens)([""] * rows, width=decoding.max_tokens),
        "image_bytes": np.zeros(1, np.int64),
        "read_seconds": np.zeros(1, np.float32),
        "decode_seconds": np.zeros(1, np.float32),
    }


def _decode_row(
    image: pa.Scalar, caption: str, pixels: np.ndarray, decoding: Decoding, sample: tuple[int, int, str]
) -> str:
    """Decode one image into ``pixels`` and return VALID, or the cause why it is no sample."""
    if not caption.strip():
        return "empty_caption"
    if not image.is_valid:
        return "null_image"
    crop = decoding.crop
    try:
        if crop is None:
            pixels[:] = images.decode_image(image.as_py(), len(pixels))
        else:
            numbers = numbers_of(_CROP_NUMBERS, "crop", *sample)
            pixels[:] = images.decode_image(image.as_py(), len(pixels), lambda w, h: crop.box(w, h, numbers))
    except images.ImageError as error:
        return error.cause
    return VALID


def _add_seconds(table: pa.Table, name: str, seconds: float) -> pa.Table:
    return table.append_column(name, pa.repeat(pa.scalar(seconds / len(table), pa.float32()), len(table)))


@lru_cache(maxsize=4)
def _tokenizer(text: str, max_tokens: int) -> CaptionTokenizer:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # whoever decodes has one core: threads would only wait
    return CaptionTokenizer.from_json(text, max_tokens)


def _read_rows(source: Source, run: Rows) -> pa.Table:
    """The wanted rows of one row group, as columns passes, key, image, caption."""
    dataset = source.datasets[run.part]
    manifest, columns = dataset.manifest, dataset.manifest.columns
    shard_index, group = int(manifest.shard_of_group[run.group]), int(manifest.group_in_shard[run.group])
    shard = manifest.shards[shard_index]
    names = [name for name in (columns.image, columns.caption, columns.key, columns.status) if name]
    table = read_shard(dataset, shard_index, [group], names)
    usable = np.flatnonzero(usable_mask(table, columns))
    if len(usable) != manifest.usable_rows[run.group]:
        raise DataError(changed_shard(dataset.config, shard))
    rows = usable[run.rows]
    wanted = table.take(pa.array(rows))
    image = wanted.column(columns.image)
    if pa.types.is_struct(image.type):
        image = pc.struct_field(image, "bytes")
    if columns.key is None:
        keys = pa.array([f"{shard}:{group}:{row}" for row in rows.tolist()], pa.string())
    else:
        keys = key_texts(wanted.column(columns.key))
    return pa.table(
        {
            "passes": pa.repeat(pa.scalar(run.passes, pa.int64()), len(rows)),
            "key": keys,
            "image": image.cast(pa.large_binary()),  # 32-bit offsets overflow at 2 GiB in a column
            "caption": _draw_captions(wanted.column(columns.caption), keys, source.seed, run.passes),
        }
    )


def _draw_captions(captions: pa.ChunkedArray, keys: pa.Array, seed: int, passes: int) -> pa.Array:
    """One caption a row: where there are several, another one drawn in each pass."""
    if not is_list(captions.type):
        return captions.cast(pa.string())
    drawn = []
    for key, several in zip(texts(keys), texts(captions), strict=True):
        choices = [text for text in several if text and text.strip()]
        (number,) = numbers_of(1, "caption", seed, passes, key)
        drawn.append(choices[int(number * len(choices))] if choices else "")
    return pa.array(drawn, pa.string())


def read_shard(dataset: Dataset, shard_index: int, groups: Sequence[int], names: Sequence[str]) -> pa.Table:
    """Some columns of some row groups. Raises DataError when the shard is gone or is not the one that was indexed."""
    shard_name = dataset.manifest.shards[shard_index]
    location = dataset.folder / shard_name
    try:
        shard = _open_shard(dataset, shard_index, location)
        try:
            return read_groups(shard, location, groups, names)
        except DataError:
            with _SHARDS_LOCK:
                _SHARDS.pop((dataset.identity, location.path), None)
            _open_shard(dataset, shard_index, location)  # says so, if the shard was replaced after it was opened
            raise
    except FileNotFoundError:
        raise DataError(missing_shard(dataset.config, shard_name)) from None


_SHARDS: OrderedDict[tuple[str, str], pads.ParquetFileFragment] = OrderedDict()
_SHARDS_LOCK = threading.Lock()
"""Two threads of a decoder read at once."""
_MOST_SHARDS = 64


def _open_shard(dataset: Dataset, shard_index: int, location: Location) -> pads.ParquetFileFragment:
    """A handle with its footer, kept for the next unit that this process reads from the shard."""
    manifest = dataset.manifest
    key = (dataset.identity, location.path)
    with _SHARDS_LOCK:
        if key in _SHARDS:
            _SHARDS.move_to_end(key)
            return _SHARDS[key]
    changed = changed_shard(dataset.config, manifest.shards[shard_index])
    shard = open_shard(location, int(manifest.shard_bytes[shard_index]))
    try:
        footer = read_footer(shard, location)
    except DataError as error:
        # Of another size, the file does not end where the manifest says: what is read there is no footer.
        if "Parquet" in str(error):
            raise DataError(changed) from None
        raise
    if footer_digest(footer) != manifest.shard_digests[shard_index]:
        raise DataError(changed)
    with _SHARDS_LOCK:
        _SHARDS[key] = shard
        if len(_SHARDS) > _MOST_SHARDS:
            _SHARDS.popitem(last=False)
    return shard
