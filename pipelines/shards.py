"""One Parquet shard: its footer and its row groups, by byte range, with patience for storage that stutters.

The size is known from a listing or from the manifest, so that no request asks for it; the footer is read once and
kept. What comes back is right or an error: a short or broken answer is asked for again.
"""

from __future__ import annotations

import hashlib
import io
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from pipelines.columns import DataError, as_plain
from pipelines.storage import Location, explain, is_absence

ATTEMPTS = 7
"""How often a request is tried, waiting 0.2, 0.4, 0.8, ... seconds in between: 12 seconds in all."""

_FORMAT = pads.ParquetFileFormat()
_T = TypeVar("_T")


def open_shard(location: Location, size: int) -> pads.ParquetFileFragment:
    """A handle on a shard of ``size`` bytes. Asks nothing of storage yet."""
    return _FORMAT.make_fragment(location.path, location.filesystem, file_size=size)


def read_footer(shard: pads.ParquetFileFragment, location: Location) -> pq.FileMetaData:
    """The footer, kept by the handle. Raises DataError."""

    def read() -> pq.FileMetaData:
        shard.ensure_complete_metadata()
        return shard.metadata

    return retry(read, location)


def read_groups(
    shard: pads.ParquetFileFragment, location: Location, groups: Sequence[int], names: Sequence[str]
) -> pa.Table:
    """Some columns of some row groups, in their order, each of a ``plain_type``. Raises DataError."""
    part = shard.subset(row_group_ids=list(groups))
    return as_plain(retry(lambda: part.to_table(columns=list(names), use_threads=False), location))


def footer_digest(footer: pq.FileMetaData) -> str:
    """64 hexadecimal digits that change with anything the footer says."""
    content = io.BytesIO()
    footer.write_metadata_file(content)
    return hashlib.sha256(content.getvalue()).hexdigest()


def retry(action: Callable[[], _T], location: Location) -> _T:
    """Do a read again while its failure may pass; then, or at once if it cannot, raise DataError in plain words.

    FileNotFoundError is left to the caller, who knows what should be there.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            if is_absence(error):
                raise FileNotFoundError(location.url) from None
            sentence = explain(error)
            if sentence is not None:
                raise DataError(f"{location.url}: {sentence}") from None
            # Bytes that make no sense may be an answer cut short; a file that is broken stays broken.
            last = ATTEMPTS if isinstance(error, OSError) else 3
            if attempt >= last or (location.is_local and not isinstance(error, InterruptedError)):
                tried = f" after {attempt} attempts" if attempt > 1 else ""
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise DataError(f"{location.url}: cannot be read{tried}: {reason}") from None
            time.sleep(0.2 * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
    raise AssertionError("unreachable")
