"""What holds for every benchmark: its files missing, its masks wrong, threads, pickles and object storage."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pyarrow.fs import copy_files

from clippy.vocabulary import class_list, class_list_names
from pipelines.columns import DataError
from pipelines.evaluation.benchmarks import open_parts
from pipelines.evaluation.dataset import VOID
from pipelines.evaluation.datasets.catalogue import BENCHMARKS, open_benchmark
from pipelines.evaluation.datasets.masked import MaskedPictures
from pipelines.evaluation.protocol import PROTOCOLS
from pipelines.storage import locate
from tests.pipelines.evaluation import layouts
from tests.pipelines.evaluation.layouts import SEGMENTATION, encode_grey, picture, write, write_classes

MISSING = {
    "imagenet": "no ImageNet here, val/n01440764 is missing",
    "imagenet-v2": "no ImageNet-v2 here, imagenetv2-matched-frequency-format-val/0 is missing",
    "waterbirds": "no Waterbirds here, waterbird_complete95_forest2water2/metadata.csv is missing",
    "voc": "no PASCAL VOC 2012 here, VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt is missing",
    "context60": "no PASCAL Context here, VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt is missing",
    "ade20k": "no ADE20K here, ADEChallengeData2016/images/validation is missing",
    "coco-panoptic": "no COCO panoptic here, annotations/panoptic_val2017.json is missing",
    "coco-stuff": "no COCO-Stuff here, val2017 is missing",
    "coco-object": "no COCO-Object here, val2017 is missing",
    "coco-instances": "no COCO instances here, annotations/instances_val2017.json is missing",
    "cityscapes19": "no Cityscapes here, leftImg8bit/val is missing",
    "shapes": "no shapes benchmark here, evaluation/classes.json is missing",
}


def masks(benchmark: str) -> list[np.ndarray]:
    """Two masks with the first and the last class, one between them, and void."""
    last = len(class_list(benchmark)) - 1
    return [np.array([[0, last, VOID], [last // 2, 0, 0]]), np.array([[last], [VOID]])]


def written(benchmark: str, root: Path) -> list[np.ndarray]:
    told = masks(benchmark)
    write_classes(benchmark, root, [picture(*mask.shape) for mask in told], told)
    return told


@pytest.mark.parametrize("benchmark", SEGMENTATION)
def test_what_is_written_is_read_back_after_a_pickle_and_by_threads(tmp_path: Path, benchmark: str) -> None:
    told = written(benchmark, tmp_path)
    entry = BENCHMARKS[benchmark]
    dataset = pickle.loads(pickle.dumps(entry.open(locate(str(tmp_path)), entry.splits[0])))
    with ThreadPoolExecutor(4) as pool:
        examples = list(pool.map(dataset.read, [0, 1] * 4))
    for i, example in enumerate(examples):
        np.testing.assert_array_equal(example.mask, told[i % 2])
        assert example.mask.dtype == np.int32
        assert example.pixels.shape == (*told[i % 2].shape, 3)


@pytest.mark.parametrize("benchmark", sorted({*SEGMENTATION} - {"coco-panoptic"}))
def test_numbers_beyond_the_classes_are_named(tmp_path: Path, benchmark: str) -> None:
    written(benchmark, tmp_path)
    entry = BENCHMARKS[benchmark]
    dataset = entry.open(locate(str(tmp_path)), entry.splits[0])
    assert isinstance(dataset, MaskedPictures)
    file = Path(dataset.folder.path) / dataset.mask.format(dataset.names[1])
    file.write_bytes(encode_grey(np.array([[0], [200]])))
    with pytest.raises(DataError, match=rf"{file.name}: has the value 200; its values are 0 to "):
        dataset.read(1)


@pytest.mark.parametrize("benchmark", MISSING)
def test_missing_files_are_named_with_the_tree_that_is_expected(tmp_path: Path, benchmark: str) -> None:
    entry = BENCHMARKS[benchmark]
    with pytest.raises(DataError) as caught:
        entry.open(locate(str(tmp_path)), entry.splits[0])
    first, *tree = str(caught.value).splitlines()
    assert first == f"{tmp_path}: {MISSING[benchmark]}; expected:"
    assert [line.removeprefix("  ") for line in tree] == entry.layout.tree.strip().splitlines()


@pytest.mark.parametrize("benchmark", SEGMENTATION)
def test_a_folder_that_lacks_its_masks_is_noticed_at_once(tmp_path: Path, benchmark: str) -> None:
    written(benchmark, tmp_path)
    entry = BENCHMARKS[benchmark]
    for file in tmp_path.rglob("*.png"):
        if "leftImg8bit" not in file.name:
            file.unlink()
    if benchmark == "coco-panoptic":
        (tmp_path / "annotations" / "panoptic_val2017").rmdir()
    with pytest.raises(DataError, match=f"no {entry.layout.title} here, .* is missing; expected"):
        entry.open(locate(str(tmp_path)), entry.splits[0])


def test_the_root_may_be_the_folder_itself_or_above_it(tmp_path: Path) -> None:
    told = written("voc", tmp_path)
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012"):
        np.testing.assert_array_equal(BENCHMARKS["voc"].open(locate(str(root)), "val").read(0).mask, told[0])
    write(tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "gone\n")
    with pytest.raises(DataError, match=r"VOCdevkit/VOC2012/JPEGImages/gone\.jpg is missing; expected"):
        BENCHMARKS["voc"].open(locate(str(tmp_path)), "val")


def test_a_file_that_went_is_named_when_it_is_read(tmp_path: Path) -> None:
    written("voc", tmp_path)
    dataset = BENCHMARKS["voc"].open(locate(str(tmp_path)), "val")
    (tmp_path / "VOCdevkit/VOC2012/SegmentationClass/000000000001.png").unlink()
    with pytest.raises(DataError, match=r"/SegmentationClass/000000000001\.png: is missing$"):
        dataset.read(1)


@pytest.mark.parametrize("benchmark", ["voc", "cityscapes27", "coco-panoptic"])
def test_benchmarks_lie_on_object_storage_too(tmp_path: Path, s3: str, benchmark: str) -> None:
    told = written(benchmark, tmp_path)
    root = locate(f"s3://bucket/benchmarks/{benchmark}")
    copy_files(str(tmp_path), root.path, destination_filesystem=root.filesystem)
    dataset = pickle.loads(pickle.dumps(BENCHMARKS[benchmark].open(root, "val")))
    assert len(dataset) == 2
    with ThreadPoolExecutor(2) as pool:
        for mask, example in zip(told, pool.map(dataset.read, range(2)), strict=True):
            np.testing.assert_array_equal(example.mask, mask)
    with pytest.raises(DataError, match=r"^s3://bucket/elsewhere: no .* here, .* is missing; expected:\n"):
        BENCHMARKS[benchmark].open(locate("s3://bucket/elsewhere"), "val")


def test_names_and_splits_that_are_not_there(tmp_path: Path) -> None:
    root = locate(str(tmp_path))
    with pytest.raises(DataError, match="no benchmark 'ade'; did you mean 'ade20k'"):
        open_benchmark("ade", root)
    with pytest.raises(DataError, match="no benchmark 'x'; there are imagenet, imagenet-v2, waterbirds, voc, "):
        open_benchmark("x", root)
    with pytest.raises(DataError, match="voc has no split 'test'; it has val, train, trainval"):
        open_benchmark("voc", root, "test")
    with pytest.raises(DataError, match="shapes: all its splits are measured together"):
        open_parts("shapes", root, PROTOCOLS["shapes"], "single")


def test_every_benchmark_has_a_list_of_classes_or_brings_its_own(tmp_path: Path) -> None:
    assert {name for name, entry in BENCHMARKS.items() if entry.classes is None} == {"shapes", "folder", "parquet"}
    lists = {entry.classes for entry in BENCHMARKS.values() if entry.classes is not None}
    assert lists == {*class_list_names()}
    written("voc20", tmp_path)
    dataset, classes = open_benchmark("voc20", locate(str(tmp_path)))
    assert (len(dataset), len(classes), classes.names[0]) == (2, 20, "aeroplane")


def test_own_classes_come_with_the_data(tmp_path: Path) -> None:
    layouts.folder(tmp_path, {"a.jpg": (picture(1, 1), np.array([[1]]))}, ["cat", "dog"])
    dataset, classes = open_benchmark("folder", locate(str(tmp_path)))
    assert classes.names == ("cat", "dog")
    assert len(dataset) == 1
