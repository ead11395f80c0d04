"""Results that the tests of comparisons share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.evaluation.comparison.compare import Comparison, compare
from pipelines.evaluation.comparison.data import as_data
from pipelines.evaluation.comparison.find import FoundResult
from pipelines.evaluation.result import Result
from pipelines.storage import locate

PROTOCOL = {"background": "60 words", "input": "short side 448"}


def voc(checkpoint: str = "runs/mine/checkpoints/step-00000100", miou: float = 0.421, **changes: Any) -> Result:
    """A result on PASCAL VOC, of 20 % true background taken for cat and 50 % true cat taken for background."""
    result = Result(
        benchmark="voc",
        method="clippy",
        checkpoint=checkpoint,
        step=100,
        data="data/voc",
        protocol=PROTOCOL,
        images={"val": 1449},
        tables={
            "segmentation": {
                "model": {"mIoU": miou, "pixel accuracy": 0.7},
                "all background": {"mIoU": 0.035, "pixel accuracy": 0.733},
            },
            "grouping": {"model": {"Jaccard": 0.475}, "random partition": {"Jaccard": 0.163}},
        },
        per_class={"background": {"iou": 0.7, "count": 100}, "cat": {"iou": 0.25, "count": 40}},
        confusion=[[0, 0, 80], [0, 1, 20], [1, 0, 20], [1, 1, 20]],
    )
    return replace(result, **changes)


def waterbirds() -> Result:
    """A result with two answers of the model, whose gap of 12 points is worse than the paper's 2."""
    group = {"waterbird on land": 0.7, "waterbird on water": 0.82, "gap waterbird": 0.12}
    tables = {"groups": {"pooled": group, "patches": {**group, "gap waterbird": 0.01}}}
    return voc(benchmark="waterbirds", tables=tables, per_class={}, confusion=[], images={"test": 5794})


def shapes() -> Result:
    """A result on generated pictures, whose mIoU is not the paper's to be held against."""
    tables = {"segmentation": {"model": {"mIoU": 0.499}, "all background": {"mIoU": 0.261}}}
    return voc(benchmark="shapes", tables=tables, images={"multi": 400})


def found(*results: Result) -> list[FoundResult]:
    """Results as if read, without their pictures."""
    return [FoundResult(result, locate(f"results/{i}")) for i, result in enumerate(results)]


def compared(*results: Result, against: str = "CLIPpy, CC-12M") -> Comparison:
    return compare(found(*results), against)


def cell(comparison: Comparison, benchmark: str, number: str, label: str, answer: str = "model") -> dict[str, Any]:
    """What the data say of one number of one model."""
    (numbers,) = (b["numbers"] for b in as_data(comparison)["benchmarks"] if b["benchmark"] == benchmark)
    (line,) = (line for line in numbers if (line["answer"], line["number"]) == (answer, number))
    return line["values"][label]
