"""What ``clippy data import`` is told. Imports neither torch nor ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from pipelines.credentials import LocationSection, checked_url
from pipelines.places import anchored

Format = Literal["wds", "parquet", "csv", "tsv", "jsonl", "files"]


class ImportConfig(LocationSection):
    """One import: from where, to where, and what is done to the pairs on their way. ``storage_options`` open SOURCE."""

    source: str
    """Folder, file or URL; ``{00000..00012}`` and ``{a,b}`` name several."""
    dest: str
    """Folder or URL for the Parquet."""
    dest_storage: LocationSection = LocationSection()
    """How DEST is opened."""
    format: Format | None = None
    """Null tells it from what lies there."""
    image_column: str | None = None
    """Column, or extension of a tar's member, that holds the image or its path; null finds it by the usual names."""
    caption_column: str | None = None
    """Column, member extension or field of the JSON member; null finds it by the usual names."""
    key_column: str | None = None
    """Column or field of the JSON member that names a row; null finds it by the usual names."""
    row_group_rows: int = Field(256, gt=0)
    shard_mib: float = Field(256, gt=0)
    """A shard is about so large, and a whole number of row groups."""
    shuffle: int | None = Field(None, ge=0, lt=2**63)
    """Seed of a shuffle over all rows; null keeps the source's order."""
    deduplicate: bool = False
    """Of rows whose images are the same bytes, keep the first."""
    max_short_side: int | None = Field(None, ge=16)
    """Images with a longer short side are brought to it, in pixels; null keeps every image as it is."""
    quality: int = Field(92, ge=1, le=100)
    """JPEG quality of the images that are made smaller."""
    verify: bool = True
    """Decode each image to its end, cheaply; false reads headers alone."""
    skip_broken_files: bool = False
    """Leave out, and report, a tar or Parquet file that cannot be read to its end; false stops."""

    _check_urls = field_validator("source", "dest")(checked_url)

    def absolute(self) -> ImportConfig:
        """The same with folders of this machine as absolute paths: Ray's workers run in folders of their own."""
        return self.model_copy(update={"source": anchored(self.source), "dest": anchored(self.dest)})

    def deciding(self) -> dict[str, Any]:
        """The fields that decide what is written; an import goes on only with the same."""
        free = {"dest", "storage_options", "dest_storage", "skip_broken_files"}
        return self.model_dump(mode="json", exclude=free)
