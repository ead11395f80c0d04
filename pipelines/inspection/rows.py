"""A sample of a dataset's rows: which ones, read with few requests and little memory, each measured and decoded."""

from __future__ import annotations

import hashlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from clippy import images
from pipelines.columns import Columns, DataError, as_plain, key_texts, texts, usable_mask
from pipelines.manifest import Manifest, missing_shard
from pipelines.samples import VALID
from pipelines.sections import DatasetConfig
from pipelines.shards import retry
from pipelines.storage import Location, locate

_GROUPS = 64  # row groups opened where they hold enough rows: each costs two or three requests
_WHOLE_BYTES = 128 << 20  # the sample reads row groups whole while they stay below this in all
_BATCH_BYTES = 16 << 20  # images held at a time by a thread, as far as the pages of the file allow
_MEMORY_BYTES = 2 << 30
_THUMBNAIL = 208


@dataclass(frozen=True)
class Pick:
    """Rows to look at in one row group: the places in ``ordinals`` among its usable rows, ascending."""

    group: int
    ordinals: tuple[int, ...]
    whole: bool
    """Whether the row group is fetched in one piece, or page by page as far as needed."""


@dataclass(frozen=True)
class Row:
    """One sampled row: what it is and what becomes of it in training."""

    key: str
    cause: str
    captions: tuple[str, ...]
    image_bytes: int = 0
    digest: bytes = b""
    format: str | None = None
    mode: str | None = None
    width: int = 0
    """As shown: the orientation stored in the file is applied."""
    height: int = 0
    decode_seconds: float = 0.0
    """Of one core."""
    thumbnail: bytes = b""
    """JPEG of what training sees; empty unless wanted."""


def pick_rows(manifest: Manifest, wanted: int) -> list[Pick]:
    """About ``wanted`` usable rows spread evenly over the dataset, in few row groups; always the same ones."""
    ends = np.cumsum(manifest.usable_rows)
    total = int(ends[-1]) if len(ends) else 0
    if not total:
        return []
    wanted = min(wanted, total)
    places = np.arange(wanted, dtype=np.int64) * total // wanted
    groups, counts = np.unique(np.searchsorted(ends, places, side="right"), return_counts=True)
    number = _GROUPS
    while number < len(groups):  # spread over all groups would cost too many requests: take more rows of fewer
        chosen = groups[np.arange(number) * len(groups) // number]
        shares = np.minimum(manifest.usable_rows[chosen], -(-wanted // number))
        if shares.sum() >= wanted:
            groups, counts = chosen, shares
            break
        number *= 2
    bytes_of_group = manifest.image_bytes[groups]
    return [
        Pick(int(group), _ordinals(int(manifest.usable_rows[group]), int(count), whole), whole)
        for group, count, whole in zip(
            groups, counts, (bytes_of_group <= _WHOLE_BYTES / len(groups)).tolist(), strict=True
        )
    ]


def _ordinals(usable: int, count: int, spread: bool) -> tuple[int, ...]:
    return tuple((np.arange(count) * usable // count).tolist()) if spread else tuple(range(count))


def read_rows(
    data: DatasetConfig,
    manifest: Manifest,
    picks: list[Pick],
    footers: dict[int, pq.FileMetaData],
    image_size: int,
    thumbnails: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Read and decode the picked rows. Calls ``progress(done, all)`` as row groups finish.

    Images live only while they are looked at. Raises DataError naming a shard that cannot be read.
    """
    if not picks:
        return []
    largest = float(manifest.image_bytes[[pick.group for pick in picks]].max())
    threads = int(np.clip(_MEMORY_BYTES / max(largest, 1), 2, 16))
    folder, rows = locate(data.url, data.storage_options), list[Row]()
    with _one_core_each(), warnings.catch_warnings(), ThreadPoolExecutor(max_workers=threads) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        images.decode_image(_warm_up_image(), image_size)  # tables are made at the first call, which is not counted

        def read(pick: Pick) -> list[Row]:
            shard = manifest.shards[int(manifest.shard_of_group[pick.group])]
            location = folder / shard
            try:
                return retry(
                    lambda: [
                        _look_at(*values, image_size, thumbnails)
                        for values in _read_pick(location, manifest, pick, footers)
                    ],
                    location,
                )
            except FileNotFoundError:
                raise DataError(missing_shard(data, shard)) from None

        for done, some in enumerate(pool.map(read, picks), 1):
            rows += some
            if progress:
                progress(done, len(picks))
    return rows


@contextmanager
def _one_core_each() -> Iterator[None]:
    """Within, a picture is decoded by the thread that asks for it alone, so that its time is what one core takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _warm_up_image() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    return stream.getvalue()


def _read_pick(
    location: Location, manifest: Manifest, pick: Pick, footers: dict[int, pq.FileMetaData]
) -> Iterator[tuple[str, bytes | None, tuple[str, ...]]]:
    """Key, image and captions of each picked row; stops reading behind the last one."""
    shard_index, group = int(manifest.shard_of_group[pick.group]), int(manifest.group_in_shard[pick.group])
    columns, shard = manifest.columns, manifest.shards[shard_index]
    names = [name for name in (columns.image, columns.caption, columns.key, columns.status) if name]
    per_row = manifest.image_bytes[pick.group] / max(int(manifest.rows[pick.group]), 1)
    batch_rows = int(np.clip(_BATCH_BYTES / max(per_row, 1), 1, 64))
    reading = {"pre_buffer": True} if pick.whole else {"pre_buffer": False, "buffer_size": 1 << 20}
    left, seen, first = list(reversed(pick.ordinals)), 0, 0
    with (
        location.filesystem.open_input_file(location.path) as stream,
        pq.ParquetFile(stream, metadata=footers[shard_index], **reading) as file,
    ):
        for read in file.iter_batches(batch_rows, row_groups=[group], columns=names, use_threads=False):
            batch = as_plain(pa.table(read))
            usable = np.flatnonzero(usable_mask(batch, columns))
            while left and left[-1] < seen + len(usable):
                place = int(usable[left.pop() - seen])
                yield _row_values(batch, place, columns, f"{shard}:{group}:{first + place}")
            if not left:
                return
            seen, first = seen + len(usable), first + len(batch)


def _row_values(
    batch: pa.RecordBatch, place: int, columns: Columns, unnamed: str
) -> tuple[str, bytes | None, tuple[str, ...]]:
    image: Any = batch.column(columns.image)[place].as_py()
    if isinstance(image, dict):
        image = image["bytes"]
    (caption,) = texts(batch.column(columns.caption).slice(place, 1))
    captions = tuple(text for text in (caption if isinstance(caption, list) else [caption]) if text is not None)
    key = unnamed
    if columns.key is not None:
        key = str(texts(key_texts(pa.chunked_array([batch.column(columns.key).slice(place, 1)])))[0])
    return key, image, captions


def _look_at(key: str, image: bytes | None, captions: tuple[str, ...], image_size: int, thumbnail: bool) -> Row:
    """Measure one row; its cause is the one that training would give it."""
    has_caption = any(text.strip() for text in captions)
    if image is None:
        return Row(key, "null_image" if has_caption else "empty_caption", captions)
    facts: dict[str, Any] = {
        "image_bytes": len(image),
        "digest": hashlib.blake2b(image, digest_size=16).digest(),
        **_read_header(image),
    }
    started = time.thread_time()
    try:
        pixels = images.decode_image(image, image_size)
    except images.ImageError as error:
        return Row(key, error.cause if has_caption else "empty_caption", captions, **facts)
    facts["decode_seconds"] = time.thread_time() - started
    if thumbnail:
        facts["thumbnail"] = _to_thumbnail(pixels)
    return Row(key, VALID if has_caption else "empty_caption", captions, **facts)


def _read_header(image: bytes) -> dict[str, Any]:
    """Format, colour mode and shown size as far as the header tells."""
    try:
        with Image.open(io.BytesIO(image)) as picture:
            width, height = picture.size
            if picture.format in ("JPEG", "MPO", "WEBP") and picture.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                width, height = height, width
            return {"format": picture.format, "mode": picture.mode, "width": width, "height": height}
    except Exception:  # Pillow raises whatever its plugins raise; decode_image names the cause
        return {}


def _to_thumbnail(pixels: np.ndarray) -> bytes:
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    picture.save(stream, "JPEG", quality=82)
    return stream.getvalue()
