"""The manifest: which row groups a dataset has and how many usable rows each, from one pass over the footers.

Written once beside the data by ``pipelines.index``, so that a run neither lists shards nor asks for their sizes.

A usable row is one whose ``status``, where there is such a column, is "success", and whose caption is not null; both
are decided without reading a single image. A usable row whose image turns out to be null or broken keeps its place.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from clippy.config import flatten
from pipelines.columns import Columns, DataError
from pipelines.sections import DatasetConfig
from pipelines.shards import retry
from pipelines.storage import Location, locate, reason

MANIFEST_FILE = "_manifest.parquet"  # Parquet readers pass over names with a leading underscore
_VERSION = 2
_ORDER = 1  # part of the digest, and so of every order of samples: stays what it is when the file's form changes


@dataclass(frozen=True, eq=False)
class Manifest:
    """Shards in the order of their names, and their row groups: arrays with one entry a group or a shard."""

    columns: Columns
    shards: tuple[str, ...]
    """Paths relative to the dataset's folder."""
    shard_bytes: np.ndarray
    shard_modified: np.ndarray
    """When storage says that each shard was last written, in nanoseconds; 0 where it does not say."""
    shard_digests: tuple[str, ...]
    """Of each shard's footer."""
    shard_of_group: np.ndarray
    group_in_shard: np.ndarray
    rows: np.ndarray
    usable_rows: np.ndarray
    null_captions: np.ndarray
    """Rows left out for want of a caption; the other left-out rows had no status 'success'."""
    image_bytes: np.ndarray
    """Of the image column as it is stored."""

    @cached_property
    def digest(self) -> str:
        """Of columns, names, sizes and footers: other data, other digest. When it was written does not matter."""
        shards = list(zip(self.shards, self.shard_bytes.tolist(), self.shard_digests, strict=True))
        return hashlib.sha256(json.dumps([_ORDER, asdict(self.columns), shards]).encode()).hexdigest()

    @property
    def excluded(self) -> dict[str, int]:
        """Rows that are no samples, by cause."""
        null, absent = int(self.null_captions.sum()), int((self.rows - self.usable_rows).sum())
        return {cause: n for cause, n in (("null_caption", null), ("status_not_success", absent - null)) if n}

    @cached_property
    def groups_of_shard(self) -> np.ndarray:
        """Row groups of each shard."""
        return np.bincount(self.shard_of_group, minlength=len(self.shards))

    def summary(self) -> dict[str, object]:
        """What ``clippy data index`` reports."""
        return {
            "shards": len(self.shards),
            "bytes": int(self.shard_bytes.sum()),
            "row_groups": len(self.rows),
            "rows": int(self.rows.sum()),
            "usable_rows": int(self.usable_rows.sum()),
            "excluded_rows": self.excluded,
            "columns": asdict(self.columns),
            "digest": self.digest,
        }


def manifest_location(data: DatasetConfig) -> Location:
    """Where the manifest of this dataset lies."""
    if data.manifest is not None:
        return locate(data.manifest, data.storage_options)
    return locate(data.url, data.storage_options) / MANIFEST_FILE


def load_manifest(data: DatasetConfig) -> Manifest | None:
    """The manifest written for this dataset, or None if there is none. Raises DataError if it is unreadable."""
    location = manifest_location(data)
    try:
        content = retry(location.read_bytes, location)
    except FileNotFoundError:
        return None
    try:
        manifest = _from_parquet(content)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:  # OSError: pages that make no sense
        raise DataError(f"{location.url}: no manifest of this version ({error}); run: {index_command(data)}") from None
    for field, name in (
        ("image_column", manifest.columns.image),
        ("caption_column", manifest.columns.caption),
        ("key_column", manifest.columns.key),
    ):
        wanted = getattr(data, field)
        if wanted is not None and wanted != name:
            raise DataError(
                f"data.{field}: {wanted!r}, but the manifest of {data.url} was made for {name!r}; "
                f"run: {index_command(data)}"
            )
    return manifest


def save_manifest(data: DatasetConfig, manifest: Manifest) -> None:
    """Write the manifest whole. Raises DataError where it cannot be, as beside data that one may only read."""
    location, content = manifest_location(data), _to_parquet(manifest)
    try:
        location.write_bytes(content)
    except OSError as error:
        raise DataError(
            f"{location.url}: the manifest cannot be written: {reason(error)}; "
            "name a file or URL that can be written with data.manifest"
        ) from None


def check_shards(data: DatasetConfig, manifest: Manifest) -> None:
    """Raise DataError if a shard of a local dataset vanished or changed size since it was indexed.

    On object storage nothing is asked: there each footer that a task reads is compared with the manifest.
    """
    folder = locate(data.url, data.storage_options)
    if not folder.is_local:
        return
    infos = folder.filesystem.get_file_info([f"{folder.path}/{shard}" for shard in manifest.shards])
    for shard, size, info in zip(manifest.shards, manifest.shard_bytes, infos, strict=True):
        if info.type == pafs.FileType.NotFound:
            raise DataError(missing_shard(data, shard))
        if info.size != size:
            raise DataError(changed_shard(data, shard))


def missing_shard(data: DatasetConfig, shard: str) -> str:
    """The sentence for a shard that the manifest names and storage does not have."""
    return f"{data.url}/{shard}: this shard is in the manifest but is gone; restore it, or run: {index_command(data)}"


def changed_shard(data: DatasetConfig, shard: str) -> str:
    """The sentence for a shard that is not the one the manifest describes."""
    return f"{data.url}/{shard}: this shard changed after it was indexed; run: {index_command(data)}"


def index_command(data: DatasetConfig) -> str:
    """The command that brings the manifest of this dataset up to date, where it lies and with the same columns."""
    names = ("image_column", "caption_column", "key_column", "manifest")
    told = [f"data.{name}={value}" for name in names if (value := getattr(data, name)) is not None]
    told += [f"data.storage_options.{option}" for option in option_words(data.storage_options)]
    return " ".join(["clippy data index", *map(shlex.quote, [data.url, *told])])


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Storage options as a command line takes them: ``name=value``."""
    return [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in flatten(options).items()
    ]


_GROUP_ARRAYS = ("shard_of_group", "group_in_shard", "rows", "usable_rows", "null_captions", "image_bytes")


def _to_parquet(manifest: Manifest) -> bytes:
    described = {
        "version": _VERSION,
        "columns": asdict(manifest.columns),
        "shards": list(manifest.shards),
        "shard_bytes": manifest.shard_bytes.tolist(),
        "shard_modified": manifest.shard_modified.tolist(),
        "shard_digests": list(manifest.shard_digests),
    }
    table = pa.table({name: pa.array(getattr(manifest, name)) for name in _GROUP_ARRAYS})
    content = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({"clippy_manifest": json.dumps(described)}), content, compression="zstd"
    )
    return content.getvalue()


def _from_parquet(content: bytes) -> Manifest:
    table = pq.read_table(io.BytesIO(content))
    described = json.loads((table.schema.metadata or {})[b"clippy_manifest"])
    if described["version"] != _VERSION:
        raise ValueError(f"version {described['version']}, this is {_VERSION}")
    return Manifest(
        columns=Columns(**described["columns"]),
        shards=tuple(described["shards"]),
        shard_bytes=np.array(described["shard_bytes"], dtype=np.int64),
        shard_modified=np.array(described["shard_modified"], dtype=np.int64),
        shard_digests=tuple(described["shard_digests"]),
        **{name: table.column(name).to_numpy() for name in _GROUP_ARRAYS},
    )
