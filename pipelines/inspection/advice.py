"""What to change about a dataset before training on it: rules over the facts, each said with its number and remedy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.inspection.layout import Layout
from pipelines.inspection.sample import Sample
from pipelines.inspection.units import bytes_text, percent
from pipelines.manifest import index_command, option_words
from pipelines.samples import VALID
from pipelines.sections import DataConfig, DatasetConfig

MAX_GROUP_ROWS = 1024
MAX_GROUP_BYTES = 64 << 20
MIN_SHARD_BYTES = 8 << 20
MANY_SHARDS = 16  # fewer files cost few requests whatever their size
MIN_GROUP_ROWS, MIN_GROUP_BYTES, MANY_GROUPS = 16, 1 << 20, 64
MAX_SIZE_RATIO = 2.0
MAX_SMALLER_SHARE = 0.25
MAX_BYTES_PER_PIXEL = 1.5
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")  # small ones of these take more bytes a pixel, and nothing is to be gained
MIN_USABLE_SHARE = 0.8
MAX_REPEATED_CAPTIONS_SHARE = 0.1
MAX_REPEATED_IMAGES_SHARE = 0.02
MAX_INVALID_SHARE = float(DataConfig.model_fields["max_invalid_fraction"].default)
INT32_BYTES = 1 << 30  # half of what 32-bit offsets address


@dataclass(frozen=True)
class Advice:
    """One thing to change. Problems stop or spoil a training; the others cost time, storage or quality."""

    name: str
    problem: bool
    sentence: str
    command: str | None = None


def advise(data: DatasetConfig, layout: Layout, sample: Sample) -> list[Advice]:
    """Everything worth changing, problems first; nothing where the dataset is fit to train on as it is."""
    found = [*_rows(data, layout, sample), *_storage(data, layout), *_images(data, sample), *_captions(sample)]
    return sorted(found, key=lambda advice: not advice.problem)


def import_command(data: DatasetConfig, options: str) -> str:
    """The command that writes the dataset anew; DEST is for the user to choose."""
    columns = {name: getattr(data, f"{name}_column") for name in ("image", "caption", "key")}
    told = [f"--{name}-column={column}" for name, column in columns.items() if column is not None]
    told += [f"--storage-option={option}" for option in option_words(data.storage_options)]
    words = ["clippy data import", shlex.quote(data.url), "DEST", *map(shlex.quote, told), options]
    return " ".join(words).strip()


def _rows(data: DatasetConfig, layout: Layout, sample: Sample) -> Iterator[Advice]:
    """Rows that are no samples."""
    left_out = ", ".join(f"{cause} {n:,}" for cause, n in layout.excluded_rows.items())
    if not layout.usable_rows:
        yield Advice("no_usable_rows", True, f"None of the {layout.rows:,} rows is a sample ({left_out or 'no rows'}).")
    elif layout.usable_rows < MIN_USABLE_SHARE * layout.rows:
        yield Advice(
            "few_usable_rows",
            False,
            f"Only {layout.usable_rows:,} of {layout.rows:,} rows ({percent(layout.usable_rows / layout.rows)}) are "
            f"samples ({left_out}); below {percent(MIN_USABLE_SHARE)} look at how the data was collected, and leave "
            "the other rows behind by importing it.",
            import_command(data, ""),
        )
    if sample.rows and sample.failed > MAX_INVALID_SHARE * sample.rows:
        causes = ", ".join(f"{cause} {n}" for cause, n in sample.causes.items() if cause != VALID)
        yield Advice(
            "decode_failures",
            True,
            f"{sample.failed} of {sample.rows} sampled rows ({percent(sample.failed / sample.rows)}) give no pair "
            f"({causes}); training stops above data.max_invalid_fraction={MAX_INVALID_SHARE:g}. Import the "
            "data, which refuses such rows and lists them, or raise that field.",
            import_command(data, ""),
        )


def _storage(data: DatasetConfig, layout: Layout) -> Iterator[Advice]:
    """How the bytes are cut."""
    rows, stored = layout.row_group_rows, layout.row_group_bytes
    if layout.manifest != "current":
        why = {
            "missing": "There is no manifest, so the first training would read all footers before it starts",
            "stale": "The manifest is not of the shards that lie here now: training stops at old and misses new ones",
            "unreadable": "The manifest cannot be used as it is, and training would stop at it",
        }[layout.manifest]
        yield Advice(
            f"manifest_{layout.manifest}",
            layout.manifest != "missing",
            f"{why} ({layout.shards:,} shards); index the dataset once.",
            index_command(data),
        )
    if rows.max > MAX_GROUP_ROWS or stored.max > MAX_GROUP_BYTES:
        yield Advice(
            "row_groups_too_large",
            False,
            f"The largest row group holds {rows.max:,.0f} rows and the heaviest {bytes_text(stored.max)}; a unit of "
            f"training reads a whole row group, so keep to {MAX_GROUP_ROWS:,} rows and {bytes_text(MAX_GROUP_BYTES)}.",
            import_command(data, "--row-group-rows 256"),
        )
    if layout.largest_image_column_bytes > INT32_BYTES and _image_offsets_are_32_bit(layout):
        yield Advice(
            "int32_binary",
            True,
            f"The images of one row group take {bytes_text(layout.largest_image_column_bytes)} in a column of 32-bit "
            "binary, which cannot be read as one array from 2 GiB on; write smaller row groups of large_binary.",
            import_command(data, "--row-group-rows 256"),
        )
    if layout.shards >= MANY_SHARDS and layout.shard_bytes.median < MIN_SHARD_BYTES:
        yield Advice(
            "tiny_shards",
            False,
            f"The median of the {layout.shards:,} shards is {bytes_text(layout.shard_bytes.median)} large; below "
            f"{bytes_text(MIN_SHARD_BYTES)} the requests cost more than the bytes, so write fewer and larger ones.",
            import_command(data, ""),
        )
    if layout.row_groups >= MANY_GROUPS and rows.median < MIN_GROUP_ROWS and stored.median < MIN_GROUP_BYTES:
        yield Advice(
            "tiny_row_groups",
            False,
            f"The median of the {layout.row_groups:,} row groups holds {rows.median:.0f} rows and "
            f"{bytes_text(stored.median)}; each is a request of its own, so write at least {MIN_GROUP_ROWS} rows or "
            f"{bytes_text(MIN_GROUP_BYTES)} into each.",
            import_command(data, "--row-group-rows 256"),
        )
    if not any(column.role == "key" for column in layout.schema):
        yield Advice(
            "no_key_column",
            False,
            "No column names the samples, so that they are called shard:row group:row, which changes when the shards "
            "do; name one with data.key_column, or import the data, which writes keys.",
            import_command(data, ""),
        )


def _image_offsets_are_32_bit(layout: Layout) -> bool:
    image = next(column.type for column in layout.schema if column.role == "image")
    return "large_binary" not in image


def _images(data: DatasetConfig, sample: Sample) -> Iterator[Advice]:
    """What the images cost and give."""
    side, size = sample.short_side, sample.image_size
    if side is not None and side.median > MAX_SIZE_RATIO * size:
        yield Advice(
            "images_too_large",
            False,
            f"The median short side is {side.median:.0f} px, {side.median / size:.1f} times the {size} px of training; "
            f"beyond {MAX_SIZE_RATIO:g} times storage, network and decoding are spent on pixels that are thrown away.",
            import_command(data, f"--max-short-side {_enough(size)}"),
        )
    if side is not None and sample.smaller_than_image_size > MAX_SMALLER_SHARE * side.count:
        share = percent(sample.smaller_than_image_size / side.count)
        yield Advice(
            "images_too_small",
            False,
            f"{sample.smaller_than_image_size} of {side.count} sampled images ({share}) have a short side below the "
            f"{size} px of training and would be blown up, which costs compute and adds no detail; train at a smaller "
            "model.image.image_size, or leave them out.",
        )
    mostly = next(iter(sample.formats), None)
    if (sample.median_bytes_per_pixel or 0) > MAX_BYTES_PER_PIXEL and mostly not in _LOSSY:
        yield Advice(
            "images_uncompressed",
            False,
            f"Images take {sample.median_bytes_per_pixel:.1f} bytes a pixel (median; mostly {mostly}); JPEG of high "
            f"quality takes about 0.3, and more than {MAX_BYTES_PER_PIXEL} is storage and network wasted, so encode "
            "them as JPEG.",
        )
    if sample.repeated_images > MAX_REPEATED_IMAGES_SHARE * sample.rows:
        yield Advice(
            "repeated_images",
            False,
            f"{sample.repeated_images} of {sample.rows} sampled rows repeat the bytes of another image; in one batch "
            f"the loss takes them for different things, so above {percent(MAX_REPEATED_IMAGES_SHARE)} drop the copies.",
            import_command(data, "--deduplicate"),
        )


def _enough(size: int) -> int:
    """A short side that leaves a crop of ``size`` some room: 256 for 224, 512 for 448."""
    return -(-size * 8 // 7 // 8) * 8


def _captions(sample: Sample) -> Iterator[Advice]:
    if sample.repeated_captions > MAX_REPEATED_CAPTIONS_SHARE * sample.rows:
        most = next(iter(sample.most_repeated_captions), "")
        yield Advice(
            "repeated_captions",
            False,
            f"{sample.repeated_captions} of {sample.rows} sampled rows repeat another's caption (most often "
            f"{_shortened(most)!r}); in one batch the loss takes equal captions for different ones, so above "
            f"{percent(MAX_REPEATED_CAPTIONS_SHARE)} look for boilerplate and filter it at the source.",
        )
    if sample.repeated_keys:
        yield Advice(
            "repeated_keys",
            False,
            f"{sample.repeated_keys} of {sample.rows} sampled rows have a key that another row has; what is drawn at "
            "random for a sample follows its key, so name a column of unique ones with data.key_column.",
        )


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
