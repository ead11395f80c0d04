"""Which image-text pairs a plan is for: a name of the table, sizes told on the command line, or an indexed dataset."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from clippy.config import ConfigError, Section, nearest
from cluster.capacity.hardware import packaged_datasets
from pipelines.recipe import Recipe
from pipelines.sections import DatasetConfig

_LOOKED_AT = 256
"""Rows of an indexed dataset whose pictures and captions are looked at."""
_TOKENS_PER_WORD = 1.35
"""Of T5's tokenizer on captions, beside the end token."""


class Pairs(Section):
    """A dataset in a few numbers."""

    name: str
    pairs: int = Field(gt=0)
    bytes: float = Field(gt=0)
    """Of an encoded picture."""
    width: float = Field(gt=0)
    height: float = Field(gt=0)
    tokens: float = Field(28, gt=0)
    """Of the median caption."""
    token_spread: float = Field(0.55, ge=0)
    """Standard deviation of the logarithm of a caption's tokens."""
    group_rows: int = Field(256, gt=0)
    """Rows of a Parquet row group."""
    prefixes: int = Field(1, gt=0)
    """Prefixes of the bucket over which the shards are spread; storage serves each at a rate of its own."""
    source: str = "the command line"


def find_pairs(text: str | None, recipe: Recipe) -> Pairs:
    """What ``--dataset`` names; without it, what the recipe's data are called after.

    Raises ValueError, with the near miss, where that is nothing.
    """
    known = packaged_datasets()
    if text is None:
        parts = [part for source in recipe.data.datasets for part in source.url.split("/")]
        named = next((part for part in parts if part in known), None)
        if named is None:
            raise ValueError(
                f"--dataset: nothing is known of {recipe.data.urls}; name one of {', '.join(known)}, or say "
                "pairs=...,bytes=...,width=...,height=..., or give the URL of an indexed dataset"
            )
        text = named
    name, _, changes = text.partition(",")
    if name in known:
        return _told({"name": text, **known[name]}, changes)
    if "=" in name and "://" not in name:
        return _told({"name": "a dataset"}, text)
    if "/" in text or "." in text:
        return _indexed(DatasetConfig(url=text, storage_options=recipe.data.storage_options))
    raise ValueError(
        f"--dataset: {name!r} is none of {', '.join(known)}{nearest(name, list(known))}, no URL, and not of the form "
        "pairs=...,bytes=...,width=...,height=..."
    )


def _told(values: dict[str, Any], changes: str) -> Pairs:
    """Values with those of ``name=number,name=number`` in their place."""
    for part in filter(None, changes.split(",")):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"--dataset: {part!r} must have the form name=number, as in pairs=134e6") from None
        values[name] = int(number) if number == int(number) else number
    try:
        return Pairs.build("--dataset", values)
    except ConfigError as error:
        problems = "; ".join(problem.replace(" (from the file)", "") for problem in error.problems)
        raise ValueError(f"--dataset: {problems}") from None


def _indexed(config: DatasetConfig) -> Pairs:
    """Counts from the manifest, sizes of pictures and captions from the rows of its first unit."""
    from clippy.images import ImageError, read_header
    from pipelines.manifest import check_shards, index_command, load_manifest
    from pipelines.samples import Dataset, Source, read_unit

    manifest = load_manifest(config)
    if manifest is None:
        raise ValueError(f"--dataset: {config.url} has no manifest; run: {index_command(config)}")
    check_shards(config, manifest)
    source = Source((Dataset(config, manifest),), 0, min(_LOOKED_AT, int(manifest.usable_rows.sum())))
    table = read_unit(source, 0)
    sizes, words = [], []
    for image, caption in zip(table.column("image").to_pylist(), table.column("caption").to_pylist(), strict=True):
        try:
            header = read_header(image or b"")
        except ImageError:
            continue
        sizes.append((header.width, header.height))
        words.append(len(caption.split()))
    if not sizes:
        raise ValueError(f"--dataset: {config.url}: none of the first {len(table)} rows has a picture that can be read")
    words.sort()
    return Pairs(
        name=config.url,
        pairs=source.plan.rows_per_epoch,
        bytes=float(manifest.image_bytes.sum() / manifest.rows.sum()),
        width=sum(width for width, _ in sizes) / len(sizes),
        height=sum(height for _, height in sizes) / len(sizes),
        tokens=1 + _TOKENS_PER_WORD * words[len(words) // 2],
        group_rows=source.plan.usual_rows,
        source=f"its manifest; pictures and captions of {len(sizes)} of its rows",
    )
