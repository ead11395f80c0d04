"""What the driver checks and makes before a run starts: manifest, run folder, tokenizer, and a model that can be built.

Every mistake of the user is found here, in seconds, before Ray starts and before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch

from clippy.crops import RandomResizedCrop
from clippy.model import CLIPpy
from clippy.tokens import CaptionTokenizer, build_tokenizer
from pipelines.columns import DataError, is_list, texts, usable_mask
from pipelines.console import Console
from pipelines.index import index_dataset
from pipelines.job import Job
from pipelines.manifest import check_shards, load_manifest
from pipelines.plan import unit_rows
from pipelines.recipe import Recipe
from pipelines.run_folder import TOKENIZER_FILE, RunFolder, check_run, create_run
from pipelines.samples import Dataset, Decoding, Source, read_shard
from pipelines.sections import DatasetConfig

VOCABULARY_CAPTIONS = 100_000
"""A vocabulary is learned from so many captions at most, the first of the dataset."""


def prepare(recipe: Recipe, console: Console) -> Job:
    """The job of this recipe, its run folder made or found again.

    Raises ValueError, with one clear sentence, for whatever cannot work.
    """
    datasets = find_datasets(recipe, console)
    source = make_source(recipe.absolute(), datasets)
    folder = check_run(recipe, source)
    known = folder.exists()
    if known:
        text = (folder.location / TOKENIZER_FILE).read_text()
        tokenizer = CaptionTokenizer.from_json(text, recipe.model.text.max_tokens)
    else:
        tokenizer = build_tokenizer(recipe.model.text, islice(captions(datasets), VOCABULARY_CAPTIONS))
    _check_model(recipe, tokenizer)
    job = make_job(recipe.absolute(), source, tokenizer)
    if not known:
        _make_run(folder, recipe, source, tokenizer)
    return job


def _make_run(folder: RunFolder, recipe: Recipe, source: Source, tokenizer: CaptionTokenizer) -> None:
    """Write a new run's folder, with the model it starts from where that is made of published weights.

    So these are looked up once, here, where what does not fit is the user's to know, and never again on a resume.
    """
    initial = None
    if recipe.model.image.pretrained or recipe.model.text.pretrained:
        torch.manual_seed(recipe.seed)
        initial = CLIPpy(recipe.model, tokenizer)
    create_run(folder, recipe, source, tokenizer.to_json(), initial)


def find_datasets(recipe: Recipe, console: Console) -> tuple[Dataset, ...]:
    """The recipe's datasets with their manifests, made now where there is none, and checked against the shards."""
    found = []
    for i, config in enumerate(recipe.data.datasets):
        try:
            found.append(_find_dataset(config, console))
        except DataError as error:
            raise DataError(f"data.sources.{i}: {error}" if recipe.data.sources else str(error)) from None
    return tuple(found)


def _find_dataset(config: DatasetConfig, console: Console) -> Dataset:
    manifest = load_manifest(config)
    if manifest is None:
        console.line(f"indexing {config.url}")
        manifest = index_dataset(config, lambda done, total: console.count("shards", done, total)).manifest
    check_shards(config, manifest)
    return Dataset(config, manifest)


def make_source(recipe: Recipe, datasets: tuple[Dataset, ...]) -> Source:
    """The order of samples, in units that fit a block and of which a micro-batch is a whole number."""
    decoded_bytes = 3 * recipe.model.image.image_size**2 + 4 * recipe.model.text.max_tokens
    anchored = zip(recipe.data.datasets, datasets, strict=True)
    source = Source(
        tuple(Dataset(config, dataset.manifest) for config, dataset in anchored),
        recipe.seed,
        unit_rows(recipe.micro_batch_size, decoded_bytes),
    )
    _ = source.plan  # refuses a dataset without a usable row
    return source


def make_job(recipe: Recipe, source: Source, tokenizer: CaptionTokenizer) -> Job:
    """The job: recipe, order, and how rows become arrays."""
    crop = RandomResizedCrop(recipe.data.crop_scale, recipe.data.crop_ratio)
    decoding = Decoding(
        recipe.model.image.image_size,
        tokenizer.to_json(),
        recipe.model.text.max_tokens,
        recipe.seed,
        crop if recipe.data.crop == "random_resized" else None,
    )
    return Job(recipe, source, decoding)


def captions(datasets: tuple[Dataset, ...]) -> Iterator[str]:
    """Captions of usable rows in file order, one dataset after the other. Raises DataError as ``read_shard``."""
    for dataset in datasets:
        manifest, columns = dataset.manifest, dataset.manifest.columns
        names = [name for name in (columns.caption, columns.status) if name]
        for shard, groups in enumerate(manifest.groups_of_shard.tolist()):
            table = read_shard(dataset, shard, range(groups), names)
            column = table.filter(usable_mask(table, columns)).column(columns.caption)
            for caption in texts(column):
                yield from (text for text in caption if text) if is_list(column.type) else (caption,)


def _check_model(recipe: Recipe, tokenizer: CaptionTokenizer) -> None:
    """Build the model without memory or downloads, so that a tower that cannot be is refused at once."""
    image = recipe.model.image.model_copy(update={"pretrained": False})
    config = recipe.model.model_copy(update={"image": image})
    if config.text.pretrained is None:
        with torch.device("meta"):
            model = CLIPpy(config, tokenizer)
        if recipe.train.activation_checkpointing:
            model.checkpoint_activations()
