"""The sections of a recipe, one a subject. Imports neither torch nor ray."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from clippy.config import Section, nearest
from pipelines.credentials import LocationSection, checked_url
from pipelines.evaluation.names import BENCHMARKS
from pipelines.evaluation.protocol import Protocol


class _Columns(LocationSection):
    """What is known of a dataset of Parquet shards beside its place."""

    manifest: str | None = None
    """Where the manifest lies; null means ``_manifest.parquet`` beside the shards."""
    image_column: str | None = None
    """Column of image bytes; null finds it by the usual names."""
    caption_column: str | None = None
    """Column of captions; null finds it by the usual names."""
    key_column: str | None = None
    """Column that names a sample; null finds it by the usual names, or numbers the rows."""


class DatasetConfig(_Columns):
    """One dataset of image-text pairs."""

    url: str
    """Folder or ``s3://`` URL of Parquet shards."""
    weight: float = Field(1.0, gt=0)
    """How often each pair comes up in an epoch of a mixture: 2 repeats, 0.25 takes another quarter each time."""

    _check_urls = field_validator("url", "manifest")(checked_url)


class DataConfig(_Columns):
    """Where the image-text pairs are and how they are read."""

    url: str | None = None
    """Folder or ``s3://`` URL of Parquet shards."""
    sources: tuple[DatasetConfig, ...] = ()
    """Several datasets as one, in place of ``url``; one without storage options of its own uses those of ``data``."""
    crop: Literal["center", "random_resized"] = "center"
    """``center`` resizes the short side and crops, as the paper does; ``random_resized`` is the released training's."""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Share of the picture's area that a random crop keeps."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Width to height of a random crop before it is resized to a square."""
    max_invalid_fraction: float = Field(0.01, ge=0, le=1)
    """The run stops when more than this share of its samples turn out to be no usable pair."""
    prefetch_batches: int = Field(4, ge=1)
    """Units each worker fetches ahead of the step."""
    object_store_gib: float | None = Field(None, gt=0)
    """Most of the object store that the stream may fill, in GiB; null is what it needs to keep every core busy."""

    _check_urls = field_validator("url", "manifest")(checked_url)

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 < bounds[0] <= bounds[1]:
            raise ValueError(f"must be two positive numbers, the smaller first (got {list(bounds)})")
        return bounds

    @model_validator(mode="after")
    def _one_place(self) -> DataConfig:
        if (self.url is None) == (not self.sources):
            raise ValueError("name one dataset with url, or several with sources" + (", not both" if self.url else ""))
        told = [name for name in ("manifest", "image_column", "caption_column", "key_column") if getattr(self, name)]
        if self.sources and told:
            raise ValueError(f"{', '.join(told)}: with sources, give it to the source that it is meant for")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale: a crop is at most the whole picture, 1.0 (got {list(self.crop_scale)})")
        return self

    @property
    def datasets(self) -> tuple[DatasetConfig, ...]:
        """The sources, or the one dataset."""
        if self.url is not None:
            names = DatasetConfig.model_fields.keys() - {"weight"}
            return (DatasetConfig(**{name: getattr(self, name) for name in names}),)
        options = {"storage_options": self.storage_options}
        return tuple(s if s.storage_options else s.model_copy(update=options) for s in self.sources)

    @property
    def urls(self) -> str:
        """The place or places, for a sentence."""
        weighted = (f"{s.weight:g} x {s.url}" if s.weight != 1 else s.url for s in self.datasets)
        return " + ".join(weighted)


class OptimConfig(Section):
    """The optimizer, and its rate: linear warm-up, then a cosine."""

    name: Literal["adamw", "lamb"] = "adamw"
    """``lamb`` scales each matrix's update to the matrix (arXiv 1904.00962); it wants a higher rate than AdamW."""
    global_batch_size: int = Field(gt=0)
    """Pairs per step over all workers; the order of samples depends on it, never on the number of workers."""
    learning_rate: float = Field(gt=0)
    """At its highest, when the warm-up ends."""
    image_learning_rate_factor: float = Field(1.0, gt=0)
    """The image tower's rate is ``learning_rate`` times this; ``model.image.frozen`` keeps the tower as it is."""
    text_learning_rate_factor: float = Field(1.0, gt=0)
    """The same for the text tower."""
    final_learning_rate_factor: float = Field(0.0, ge=0, le=1)
    """The cosine ends at ``learning_rate`` times this; 1 keeps the rate constant after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0)
    weight_decay: float = Field(0.2, ge=0)
    """On matrices only: vectors, biases and the logit scale are not decayed."""
    warmup_steps: int = Field(0, ge=0)
    """Steps until the rate is at its highest."""
    warmup_samples: int = Field(0, ge=0)
    """The same in pairs, in place of ``warmup_steps``; rounded up to whole steps."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Gradients are scaled down to this global norm; null does not clip."""

    @field_validator("betas")
    @classmethod
    def _betas_below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"both must be at least 0 and below 1 (got {list(betas)})")
        return betas

    @model_validator(mode="after")
    def _one_warm_up(self) -> OptimConfig:
        if self.warmup_steps and self.warmup_samples:
            raise ValueError(
                f"give warmup_steps or warmup_samples, not both (got {self.warmup_steps} and {self.warmup_samples}); "
                "set the other to 0"
            )
        return self

    @property
    def warmup(self) -> int:
        """Steps of warm-up, however it was stated."""
        return self.warmup_steps or -(-self.warmup_samples // self.global_batch_size)


class TrainConfig(Section):
    """How long, in which pieces, and how often to speak."""

    steps: int = Field(gt=0)
    """Optimizer steps in all."""
    micro_batch_size: int | None = Field(None, gt=0)
    """Pairs that run through the towers at once on a worker; null is a worker's whole share of the global batch. A
    worker with several micro-batches embeds all of them, then runs each again for its gradient: the gradient of the
    whole batch in the memory of one micro-batch."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs both towers in autocast; norms, temperature, logits and weights stay in float32."""
    activation_checkpointing: bool = False
    """Keep the input of each block alone and run it again in the backward pass: much less memory, a third more time."""
    compile: bool = False
    """Have torch.compile translate the blocks of both towers while the first steps run, which takes a minute or more
    and a C++ compiler on each worker. Draws the same numbers; results are the same to rounding."""
    log_every: int = Field(10, gt=0)
    """Steps between two progress lines; metrics.jsonl holds every step."""
    profile_steps: tuple[int, int] | None = None
    """Rank 0 writes a trace of torch's profiler for these steps, the first and the last, to ``profile/`` in the run."""
    ledger: bool = False
    """Write the keys of each step's pairs to ``ledger/`` in the run, to prove what it was trained on."""

    @field_validator("profile_steps")
    @classmethod
    def _in_order(cls, steps: tuple[int, int] | None) -> tuple[int, int] | None:
        if steps is not None and not 1 <= steps[0] <= steps[1]:
            raise ValueError(f"must be a first and a last step, counted from 1 (got {list(steps)})")
        return steps


class CheckpointConfig(Section):
    """When checkpoints are written, and which are kept beside the best and those still to be validated."""

    every: int = Field(100, gt=0)
    """Steps between two checkpoints; one is always written at the end, when asked to stop, and on notice of preemption.
    They are written while training goes on."""
    keep_last: int = Field(2, ge=1)
    """Newest checkpoints that are kept."""
    keep_every: int | None = Field(None, gt=0)
    """Checkpoints at multiples of so many steps are kept too; null keeps none for that reason."""
    sharded: bool = False
    """Each worker writes its part of the optimizer's state, rather than the first worker all of it."""
    max_failures: int = Field(3, ge=0)
    """Checkpoints in a row that storage may refuse, each after several tries, before the run stops."""


class HealthConfig(Section):
    """What a run does about a loss or gradient that is not finite."""

    max_skipped_steps: int = Field(10, ge=0)
    """Such steps change no weight. After more than so many in a row, weights and optimizer go back to the last good
    checkpoint, and training goes on with the next batch: the same batches would only lead to the same end."""
    max_rollbacks: int = Field(3, ge=0)
    """The run stops where it would go back once more."""
    spike_deviations: float = Field(6.0, gt=0)
    """A loss so many standard deviations above its running mean is logged as a spike."""


class EvalConfig(LocationSection):
    """What ``clippy evaluate`` and ``clippy quickstart`` measure, and training while it goes on."""

    benchmark: str | None = None
    """One of ``clippy evaluate --list``."""
    url: str | None = None
    """Folder or URL of the benchmark's data."""
    protocol: Protocol | None = None
    """How pictures are shown and read out; null is the benchmark's own way."""
    batch_size: int = Field(16, gt=0)
    """Images per forward pass."""
    pictures: int = Field(12, ge=0)
    """Pictures drawn for each question: some of the first, the best and the worst."""
    every: int | None = Field(None, gt=0)
    """Steps between two checkpoints that are validated on the benchmark while training goes on; null validates none."""
    best: str = "segmentation/model/mIoU"
    """The number that marks a validated checkpoint as the best; it is never removed."""
    best_is: Literal["max", "min"] = "max"
    """Whether more or less of it is better."""
    resources: dict[str, float] = Field(default_factory=dict)
    """What a validation takes for itself, e.g. ``{GPU: 1}``; without any, it shares the machine with the training."""

    _check_url = field_validator("url")(checked_url)

    @field_validator("benchmark")
    @classmethod
    def _check_benchmark(cls, name: str | None) -> str | None:
        if name is not None and name not in BENCHMARKS:
            raise ValueError(
                f"there is no benchmark {name!r}{nearest(name, list(BENCHMARKS))}; see clippy evaluate --list"
            )
        return name


class ScalingConfig(Section):
    """How many workers, what each needs, and which cluster."""

    num_workers: int | tuple[int, int] = 1
    """Training workers; two numbers are the least and the most of an elastic run, which goes on with those that the
    cluster has and takes more when they come back."""
    use_gpu: bool = False
    resources_per_worker: dict[str, float] = Field(default_factory=lambda: {"CPU": 1.0})
    decode_cores: int | None = Field(None, gt=0)
    """Cores that read and decode; null is every core of the cluster that the workers leave."""
    ray_address: str | None = None
    """Address of a running cluster, ``auto`` for the one of this machine; null starts Ray here."""
    max_failures: int = Field(3, ge=0)
    """How often the worker group is started again from the last checkpoint after a worker died; preempted nodes and
    mistakes that would come again do not count."""
    resize_seconds: float = Field(60.0, gt=0)
    """How often an elastic run looks for more workers."""

    @field_validator("num_workers")
    @classmethod
    def _positive(cls, workers: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(workers, int):
            if workers < 1:
                raise ValueError(f"must be at least 1 (got {workers})")
        elif not 1 <= workers[0] < workers[1]:
            raise ValueError(f"must be the least and the most workers, as in [2, 8] (got {list(workers)})")
        return workers

    @model_validator(mode="after")
    def _elastic_runs_start_again(self) -> ScalingConfig:
        if isinstance(self.num_workers, tuple) and not self.max_failures:
            raise ValueError("max_failures: an elastic run goes on by starting again; allow at least 1 (got 0)")
        return self

    @property
    def min_workers(self) -> int:
        """The fewest workers that the run goes on with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """The most workers that the run takes."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def worker_resources(self) -> dict[str, float]:
        """What a worker needs, by Ray's name of it."""
        return ({"GPU": 1.0} if self.use_gpu else {}) | self.resources_per_worker


class TrackingConfig(Section):
    """One MLflow run for a training, the same one after a restart."""

    enabled: bool = True
    uri: str | None = None
    """Server URL or ``sqlite:///FILE``; null means ``mlflow.db`` in the storage folder."""
    experiment: str = "clippy"

    @field_validator("uri")
    @classmethod
    def _no_file_store(cls, uri: str | None) -> str | None:
        if uri is not None and not uri.startswith(
            ("sqlite:", "http://", "https://", "postgresql", "mysql", "databricks")
        ):
            raise ValueError(
                f"MLflow 3 keeps no runs in folders (got {uri!r}); use sqlite:///FILE or the http(s):// URL of a server"
            )
        return checked_url(uri)


class StorageConfig(LocationSection):
    """Where runs are kept."""

    url: str = "runs"
    """Folder or ``s3://`` URL; a run lies in the folder of its name inside."""

    _check_url = field_validator("url")(checked_url)
