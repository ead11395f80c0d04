"""A model and a benchmark to numbers and pictures, on Ray Data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipelines.columns import DataError
from pipelines.console import Console
from pipelines.evaluation.benchmarks import open_parts
from pipelines.evaluation.gallery import Scores, choose_pictures, draw_pictures
from pipelines.evaluation.names import BENCHMARKS
from pipelines.evaluation.protocol import Protocol, choose_protocol
from pipelines.evaluation.question import Findings, Part, Row
from pipelines.evaluation.result import Result, flat
from pipelines.evaluation.run import Progress
from pipelines.evaluation.subject import Subject, find_subject
from pipelines.evaluation.tracking import track
from pipelines.evaluation.units import Measurer, Task, units_of
from pipelines.local_ray import ray_session
from pipelines.sections import EvalConfig, ScalingConfig
from pipelines.storage import Location, locate
from pipelines.targets import FoundDecoder, FoundModel


@dataclass(frozen=True)
class Request:
    """What to measure; what is None comes from the run's recipe, or is the benchmark's own."""

    checkpoint: str
    benchmark: str | None = None
    data: str | None = None
    split: str | None = None
    protocol: str | None = None
    method: str = "patches"
    overrides: tuple[str, ...] = ()
    """``field=value`` on top of protocol and method."""
    decoder: str | None = None
    """Folder of a decoder that the patches go through; a method of its own."""
    out: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    ray_address: str | None = None
    mlflow_uri: str | None = None
    """Where a model that lies in no run gets a run of its own."""


def evaluate(request: Request, console: Console | None = None) -> Result:
    """Measure a run's newest checkpoint, one checkpoint, or any model; write numbers and pictures.

    The numbers do not depend on how many workers there are, and go to the training's MLflow run if there is one. Again
    after a kill it goes on. Raises ValueError, with one clear sentence, for anything that is missing or does not fit.
    """
    console, started = console or Console(), time.monotonic()
    subject = find_subject(request.checkpoint, request.decoder)
    config, benchmark, url, protocol, parts = _open(request, subject)
    method = "decoder" if subject.decoder else request.method
    folder = subject.output_folder(request.out, benchmark, protocol, method, url, request.split)
    scaling = subject.recipe.scaling if subject.recipe else ScalingConfig()
    scaling = scaling.model_copy(update={"ray_address": request.ray_address or scaling.ray_address, "use_gpu": False})
    pictures = sum(len(part.dataset) for part in parts)
    console.line(f"evaluating {subject.model.name} on {benchmark}, {pictures:,} pictures")
    with ray_session(scaling):
        gpus = _gpus_per_worker(request)
        task = Task(subject.model, protocol, parts, config.batch_size, "cuda" if gpus else "cpu", subject.decoder)
        identity = subject.identity() | {"benchmark": benchmark, "data": url, "protocol": protocol.model_dump_json()}
        decoder = subject.decoder.digest if subject.decoder else None
        progress = Progress(task, identity | {"split": request.split, "decoder": decoder}, folder)
        task = progress.learn_on_ray(gpus)
        measuring, missing = time.monotonic(), progress.pictures_missing()
        progress.measure_on_ray(request.workers or scaling.max_workers, gpus, console)
        seconds = time.monotonic() - measuring
        findings, scores = sum_up(parts, progress)
        drawn = draw_pictures(task, choose_pictures(scores, config.pictures), folder, gpus)
    result = Result(
        benchmark=benchmark,
        method=method,
        checkpoint=subject.model.name,
        step=subject.model.step,
        data=url,
        protocol=_explain(protocol, parts, subject.decoder),
        images={part.name: len(part.dataset) for part in parts},
        tables={name: table for found in findings.values() for name, table in found.tables.items()},
        per_class=next((found.per_class for found in findings.values() if found.per_class), {}),
        confusion=next((found.confusion for found in findings.values() if found.confusion), []),
        pictures=drawn,
        seconds=round(time.monotonic() - started, 1),
        images_per_second=round(missing / seconds, 2) if missing else None,
    )
    result.write(folder)
    progress.clear()
    track(subject, result, folder, request.mlflow_uri)
    return result


def evaluate_suite(
    request: Request, benchmarks: Sequence[str], skip_missing: bool = False, console: Console | None = None
) -> list[Result]:
    """Measure one benchmark after the other, all below one folder of data.

    What is missing is told before anything is measured: ValueError with every benchmark's layout, unless it shall be
    skipped.
    """
    console, subject = console or Console(), find_subject(request.checkpoint, request.decoder)
    if request.data is None:
        raise ValueError("--data: a suite needs the folder below which its benchmarks lie")
    options = subject.recipe.eval.storage_options if subject.recipe else None
    missing: dict[str, str] = {}
    requests: dict[str, Request] = {}
    for benchmark in benchmarks:
        errors = []
        for own in _in_suite(request, locate(request.data, options), benchmark):
            try:
                _open(own, subject)
            except DataError as error:
                errors.append(str(error))
            else:
                requests[benchmark] = own
                break
        else:
            missing[benchmark] = errors[0]
    if missing and not skip_missing:
        remedy = "add or mend what is named, or leave it out with --skip-missing"
        raise ValueError("\n\n".join([*missing.values(), remedy]))
    for benchmark, cause in missing.items():
        console.line(f"{benchmark} is left out: {cause.splitlines()[0]}")
    if len(missing) == len(benchmarks):
        raise ValueError(f"{request.data}: none of {', '.join(benchmarks)} is here whole")
    return [evaluate(own, console) for own in requests.values()]


def _in_suite(request: Request, data: Location, benchmark: str) -> list[Request]:
    """One benchmark's part, wherever it may lie: in a folder of its own or its family's name, such as ``coco``, where
    there is one, or in the root itself."""
    family = benchmark.partition("-")[0].rstrip("0123456789")
    names = [name for name in dict.fromkeys((benchmark, family)) if (data / name).exists()]
    out = None if request.out is None else f"{request.out.rstrip('/')}/{benchmark}"
    places = [*(data / name for name in names), data]
    return [replace(request, benchmark=benchmark, data=place.url, out=out) for place in places]


def measure_here(checkpoint: Location, config: EvalConfig) -> dict[str, float]:
    """The benchmark's numbers by their short names, measured in this process alone and without pictures.

    On a GPU where ``eval.resources`` has one; the others are the training's.
    """
    if config.url is None or config.benchmark is None:
        raise ValueError("eval.benchmark, eval.url: name the benchmark that checkpoints are validated on, and its data")
    protocol = choose_protocol(None, config.benchmark, config.protocol)
    parts = open_parts(config.benchmark, locate(config.url, config.storage_options), protocol)
    device = "cuda" if config.resources.get("GPU") else "cpu"
    measurer = Measurer(Task(FoundModel(checkpoint.url, None, checkpoint), protocol, parts, config.batch_size, device))
    measurer.learn_all()
    numbers: dict[str, float] = {}
    for number, part in enumerate(parts):
        rows = [row for unit in units_of(parts) if unit.part == number for row in measurer.measure(unit)]
        for question in part.questions:
            numbers |= flat(question.sum_up(row[question.table] for row in rows).tables)
    return numbers


def sum_up(parts: tuple[Part, ...], progress: Progress) -> tuple[dict[str, Findings], Scores]:
    """What each question came to, by its table, and the score of each picture, read in one pass."""
    findings: dict[str, Findings] = {}
    scores: dict[tuple[int, str], list[float | None]] = {}
    for number, part in enumerate(parts):
        for question in part.questions:
            noted = scores[number, question.table] = []
            rows = (row[question.table] for row in progress.rows(number))
            findings[question.table] = question.sum_up(_noting(rows, noted))
    return findings, scores


def _noting(rows: Iterable[Row], scores: list[float | None]) -> Iterator[Row]:
    """The rows, whose scores are noted as they pass."""
    for row in rows:
        scores.append(row["score"])
        yield row


def _open(request: Request, subject: Subject) -> tuple[EvalConfig, str, str, Protocol, tuple[Part, ...]]:
    """What is measured how: the recipe's settings, the benchmark and where it lies, the protocol, the pictures."""
    if subject.decoder is not None and request.method != "patches":
        raise ValueError(
            f"--decoder: is a method of its own; leave out --method {request.method}, or change single fields of the "
            "protocol with --set"
        )
    if request.workers is not None and request.workers < 1:
        raise ValueError(f"--workers: must be at least 1 (got {request.workers})")
    if request.gpus_per_worker is not None and request.gpus_per_worker < 0:
        raise ValueError(f"--gpus-per-worker: must not be negative (got {request.gpus_per_worker:g})")
    config = subject.recipe.eval if subject.recipe else EvalConfig()
    benchmark, url = _benchmark_and_data(request, config)
    protocol = choose_protocol(request.protocol, benchmark, config.protocol, request.method, request.overrides)
    seen = subject.decoder.config.seen if subject.decoder else None
    parts = open_parts(benchmark, locate(url, config.storage_options), protocol, request.split, seen)
    return config, benchmark, url, protocol, parts


def _benchmark_and_data(request: Request, config: EvalConfig) -> tuple[str, str]:
    benchmark = request.benchmark or config.benchmark
    if benchmark is None:
        raise ValueError(f"{request.checkpoint}: no recipe names a benchmark; give --benchmark NAME")
    if benchmark not in BENCHMARKS:
        raise ValueError(f"--benchmark: there is no {benchmark!r}; there are {', '.join(BENCHMARKS)}")
    url = request.data or (config.url if benchmark == config.benchmark else None)
    if url is None:
        raise ValueError(
            f"{request.checkpoint}: no recipe says where {benchmark} lies; give its folder with --data URL"
        )
    return benchmark, url


def _gpus_per_worker(request: Request) -> float:
    """As told, or one where the cluster has any."""
    import ray

    if request.gpus_per_worker is not None:
        return request.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


def _explain(protocol: Protocol, parts: tuple[Part, ...], decoder: FoundDecoder | None) -> dict[str, str]:
    """Every choice by name: the fields of the protocol, the decoder, and what each question says of itself."""
    chosen = protocol.model_dump(exclude_none=True)
    choices = {
        name: ", ".join(map(str, v)) if isinstance(v, tuple) else str(v) for name, v in chosen.items() if v != ()
    }
    if decoder is not None:
        trained = ", ".join(f"{name} {value}" for name, value in decoder.config.training.items())
        choices["decoder"] = f"{decoder.folder.url}, trained on masks: {trained}"
    for part in parts:
        for question in part.questions:
            for name, choice in question.explain().items():
                # Questions that differ in a choice name their table; what they share is told once.
                choices[name if choices.get(name, choice) == choice else f"{name} ({question.table})"] = choice
    return choices
