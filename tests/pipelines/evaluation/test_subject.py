"""Where the benchmarks of a suite are found, and where the numbers of an evaluation go unless that is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow.fs import copy_files

from pipelines import evaluate
from pipelines.evaluate import Request
from pipelines.evaluation.protocol import PROTOCOLS, choose_protocol
from pipelines.evaluation.subject import Subject
from pipelines.recipe import load_recipe
from pipelines.run_folder import RunFolder
from pipelines.storage import locate
from pipelines.targets import FoundModel
from tests.pipelines.evaluation import layouts


def subject(folder: Path, in_run: bool = True) -> Subject:
    run = RunFolder(locate(str(folder)))
    return Subject(FoundModel("model", 7, None), run if in_run else None, None)


def test_results_of_a_run_lie_by_step_and_benchmark_unless_told(tmp_path: Path) -> None:
    found = subject(tmp_path).output_folder(None, "voc", PROTOCOLS["paper"], "patches", "/data/voc", "val")
    assert found.path == f"{tmp_path}/evaluation/step-00000007/voc"
    told = str(tmp_path / "out")
    assert subject(tmp_path).output_folder(told, "voc", PROTOCOLS["paper"], "patches", "/data/voc").path == told
    with pytest.raises(ValueError, match="lies in no run folder; say where"):
        subject(tmp_path, in_run=False).output_folder(None, "voc", PROTOCOLS["paper"], "patches", "/data/voc")


def test_results_that_differ_in_protocol_split_or_own_pictures_lie_apart(tmp_path: Path) -> None:
    def name(benchmark: str, url: str, split: str | None = None, protocol: str = "paper") -> str:
        chosen = choose_protocol(protocol, benchmark)
        return subject(tmp_path).output_folder(None, benchmark, chosen, "patches", url, split).path

    asked = [("voc", "/a"), ("voc", "/a", "train"), ("voc", "/a", None, "tcl"), ("folder", "/a"), ("folder", "/b")]
    assert len({name(*one) for one in asked}) == len(asked)
    assert name("voc", "/a") == name("voc", "/b", "val")  # there is but one of it, wherever it lies


def test_a_suite_finds_each_benchmark_by_its_name_its_familys_or_in_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.imagenet(tmp_path / "imagenet", {"n01440764/a.JPEG": layouts.picture(1, 1)})
    layouts.imagenet_v2(tmp_path, {"0/a.jpeg": layouts.picture(1, 1)})  # beside imagenet/, which is of its family
    layouts.voc(tmp_path, {"a": (layouts.picture(1, 1), np.zeros((1, 1)))})
    layouts.cityscapes(tmp_path / "cityscapes", {"a_0_0": (layouts.picture(1, 1), np.zeros((1, 1)))})
    asked: list[Request] = []
    monkeypatch.setattr(evaluate, "find_subject", lambda path, decoder: Subject(FoundModel(path, 0, None), None, None))
    monkeypatch.setattr(evaluate, "evaluate", lambda request, console: asked.append(request))
    names = ("imagenet", "imagenet-v2", "voc", "cityscapes27", "ade20k")
    request = Request("model", data=str(tmp_path), out="out")
    evaluate.evaluate_suite(request, names, skip_missing=True)
    assert [(one.benchmark, one.data, one.out) for one in asked] == [
        ("imagenet", f"{tmp_path}/imagenet", "out/imagenet"),
        ("imagenet-v2", str(tmp_path), "out/imagenet-v2"),
        ("voc", str(tmp_path), "out/voc"),
        ("cityscapes27", f"{tmp_path}/cityscapes", "out/cityscapes27"),
    ]
    with pytest.raises(ValueError, match=r"no ADE20K here(.|\n)*or leave it out with --skip-missing"):
        evaluate.evaluate_suite(request, names)


def test_what_a_suite_leaves_out_is_told_by_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    layouts.waterbirds(tmp_path, [("a.jpg", layouts.picture(1, 1), 0, 2, 7)])
    layouts.voc(tmp_path, {"a": (layouts.picture(1, 1), np.zeros((1, 1)))})
    monkeypatch.setattr(evaluate, "find_subject", lambda path, decoder: Subject(FoundModel(path, 0, None), None, None))
    monkeypatch.setattr(evaluate, "evaluate", lambda request, console: request.benchmark)
    request = Request("model", data=str(tmp_path), out="out")
    assert evaluate.evaluate_suite(request, ("waterbirds", "voc", "ade20k"), skip_missing=True) == ["voc"]
    told = capfd.readouterr().err
    assert "metadata.csv, line 2: has place '7'" in told
    assert "ade20k is left out: " in told


def test_numbers_that_no_cluster_has_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "find_subject", lambda path, decoder: Subject(FoundModel(path, 0, None), None, None))
    with pytest.raises(ValueError, match=r"^--workers: must be at least 1 \(got 0\)$"):
        evaluate.evaluate(Request("model", "voc", "nowhere", workers=0))
    with pytest.raises(ValueError, match=r"^--gpus-per-worker: must not be negative \(got -1\)$"):
        evaluate.evaluate(Request("model", "voc", "nowhere", gpus_per_worker=-1))


def test_a_file_of_weights_that_was_replaced_is_another_model(tmp_path: Path) -> None:
    file = layouts.write(tmp_path / "epoch_latest.pt", "weights of one epoch")

    def identity() -> dict[str, Any]:
        return Subject(FoundModel(f"open_clip:ViT-B-16:{file}", None, None), None, None).identity()

    before = identity()
    assert identity() == before
    layouts.write(file, "weights of the next epoch")
    assert identity() != before
    tag = Subject(FoundModel("open_clip:ViT-B-16:laion2b_s34b_b88k", None, None), None, None)
    assert tag.identity() == tag.identity()


def test_a_suite_is_looked_for_where_the_recipe_says_that_its_store_answers(
    tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.imagenet(tmp_path / "imagenet", {"n01440764/a.JPEG": layouts.picture(1, 1)})
    copy_files(str(tmp_path), locate("s3://bucket/suite").path, destination_filesystem=locate("s3://bucket").filesystem)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")  # where nothing listens
    recipe = load_recipe("shapes", [f"eval.storage_options.endpoint_url={s3}"])
    found = Subject(FoundModel("model", 0, None), None, recipe)
    asked: list[Request] = []
    monkeypatch.setattr(evaluate, "find_subject", lambda path, decoder: found)
    monkeypatch.setattr(evaluate, "evaluate", lambda request, console: asked.append(request))
    evaluate.evaluate_suite(Request("model", data="s3://bucket/suite", out="out"), ["imagenet"])
    assert [one.data for one in asked] == ["s3://bucket/suite/imagenet"]
