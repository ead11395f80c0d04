"""What the driver checks and makes before a run starts: manifest, run folder, tokenizer, and a model that can be built.

Every mistake of the user is found here, in seconds, before Ray starts and before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pyarrow.parquet as pq
import torch

from clippy.model import CLIPpy
from clippy.tokens import CaptionTokenizer, build_tokenizer
from pipelines.columns import usable_mask
from pipelines.console import Console
from pipelines.manifest import Manifest, build_manifest, check_shards, load_manifest
from pipelines.plan import unit_rows
from pipelines.recipe import Recipe
from pipelines.run_folder import TOKENIZER_FILE, check_run, create_run
from pipelines.samples import Decoding, Source
from pipelines.storage import locate
from pipelines.worker import Job

VOCABULARY_CAPTIONS = 100_000
"""A vocabulary is learned from so many captions at most, the first of the dataset."""


def prepare(recipe: Recipe, console: Console) -> Job:
    """The job of this recipe, its run folder made or found again.

    Raises ValueError, with one clear sentence, for whatever cannot work.
    """
    manifest = find_manifest(recipe, console)
    folder = check_run(recipe, manifest)
    tokenizer_file = folder.location / TOKENIZER_FILE
    if folder.exists():
        tokenizer = CaptionTokenizer.from_json(tokenizer_file.read_text(), recipe.model.text.max_tokens)
    else:
        tokenizer = build_tokenizer(recipe.model.text, islice(_captions(recipe, manifest), VOCABULARY_CAPTIONS))
    _check_model(recipe, tokenizer)
    job = make_job(recipe.absolute(), manifest, tokenizer)
    if not folder.exists():
        create_run(folder, recipe, manifest, tokenizer.to_json())
    return job


def find_manifest(recipe: Recipe, console: Console) -> Manifest:
    """The dataset's manifest, made now if there is none, and checked against the shards."""
    manifest = load_manifest(recipe.data)
    if manifest is None:
        console.line(f"indexing {recipe.data.url}")
        manifest = build_manifest(recipe.data, lambda done, total: console.count("shards", done, total))
    check_shards(recipe.data, manifest)
    return manifest


def make_job(recipe: Recipe, manifest: Manifest, tokenizer: CaptionTokenizer) -> Job:
    """The job, its unit chosen so that one fits a block and a worker's batch is a whole number of them."""
    rows_per_worker = recipe.optim.global_batch_size // recipe.scaling.num_workers
    decoded_bytes = 3 * recipe.model.image.image_size**2 + 4 * recipe.model.text.max_tokens
    rows = unit_rows(rows_per_worker, decoded_bytes)
    source = Source(recipe.data, manifest, recipe.seed, rows)
    _ = source.plan  # refuses a dataset without a usable row
    return Job(
        recipe,
        source,
        Decoding(recipe.model.image.image_size, tokenizer.to_json(), recipe.model.text.max_tokens),
    )


def _captions(recipe: Recipe, manifest: Manifest) -> Iterator[str]:
    """Captions of usable rows in file order."""
    folder, columns = locate(recipe.data.url, recipe.data.storage_options), manifest.columns
    names = [name for name in (columns.caption, columns.status) if name]
    for shard in manifest.shards:
        with folder.filesystem.open_input_file((folder / shard).path) as stream, pq.ParquetFile(stream) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=names)
                yield from table.filter(usable_mask(table, columns)).column(columns.caption).to_pylist()


def _check_model(recipe: Recipe, tokenizer: CaptionTokenizer) -> None:
    """Build the model without memory or downloads, so that a tower that cannot be is refused at once."""
    image = recipe.model.image.model_copy(update={"pretrained": False})
    config = recipe.model.model_copy(update={"image": image})
    if config.text.pretrained is None:
        with torch.device("meta"):
            CLIPpy(config, tokenizer)
