"""Rows of Parquet shards by number, each row group read once by threads that walk through it together."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.columns import DataError
from pipelines.shards import open_shard, read_footer, read_groups, retry
from pipelines.storage import Location


@dataclass(frozen=True)
class Shard:
    """A Parquet file, its size, and where its row groups start."""

    location: Location
    size: int
    starts: tuple[int, ...]
    """First row of each row group, and the number of rows."""

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return self.starts[-1]


def describe_shard(location: Location) -> tuple[Shard, pa.Schema]:
    """A shard and its columns, from its footer. Raises DataError."""
    size = retry(lambda: location.filesystem.get_file_info(location.path), location).size or 0
    try:
        footer = read_footer(open_shard(location, size), location)
    except FileNotFoundError:
        raise DataError(f"{location.url}: is missing") from None
    rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    return Shard(location, size, tuple(np.cumsum([0, *rows]).tolist())), footer.schema.to_arrow_schema()


class RowGroups:
    """The row groups that were read last. Threads share them; a pickled copy starts empty."""

    KEPT = 2
    """Threads that walk through the rows together are in two groups at most, most of the time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[str, int], Future[pa.Table]] = OrderedDict()

    def __reduce__(self) -> tuple[type[RowGroups], tuple[()]]:
        return RowGroups, ()

    def read_row(self, shard: Shard, row: int, names: Sequence[str]) -> dict[str, Any]:
        """Some columns of one row. Raises DataError."""
        group = int(np.searchsorted(shard.starts, row, side="right")) - 1
        table = self._table(shard, group, names)
        return table.slice(row - shard.starts[group], 1).to_pylist()[0]

    def _table(self, shard: Shard, group: int, names: Sequence[str]) -> pa.Table:
        key = (shard.location.path, group)
        with self._lock:
            future = self._tables.get(key)
            is_first = future is None
            if future is None:
                future = self._tables[key] = Future()
            self._tables.move_to_end(key)
            while len(self._tables) > self.KEPT:
                self._tables.popitem(last=False)
        if is_first:  # whoever comes first reads, the others wait for what it reads
            try:
                future.set_result(_read(shard, group, names))
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._tables.pop(key, None)
        return future.result()


def _read(shard: Shard, group: int, names: Sequence[str]) -> pa.Table:
    try:
        return read_groups(open_shard(shard.location, shard.size), shard.location, [group], names)
    except FileNotFoundError:
        raise DataError(f"{shard.location.url}: is missing") from None
