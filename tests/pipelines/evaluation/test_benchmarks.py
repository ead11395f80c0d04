"""Each benchmark's reader against its files, with what comes out worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from pipelines.columns import DataError
from pipelines.evaluation.dataset import VOID, Dataset, Example
from pipelines.evaluation.datasets.catalogue import BENCHMARKS
from pipelines.storage import locate
from tests.pipelines.evaluation import layouts
from tests.pipelines.evaluation.layouts import picture, write

V = VOID


def opened(benchmark: str, root: Path, split: str | None = None) -> Dataset:
    return BENCHMARKS[benchmark].open(locate(str(root)), split or BENCHMARKS[benchmark].splits[0])


def only(dataset: Dataset) -> Example:
    assert len(dataset) == 1
    return dataset.read(0)


def numbers(*rows: list[int]) -> np.ndarray:
    return np.array(rows)


def same(found: np.ndarray | None, *rows: list[int]) -> None:
    assert found is not None
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, rows)


def test_voc(tmp_path: Path) -> None:
    classes, objects = numbers([0, 15, 255], [20, 15, 1]), numbers([0, 1, 255], [2, 3, 4])
    pixels = picture(2, 3, (10, 200, 90))
    root = layouts.voc(tmp_path, {"2007_000033": (pixels, classes, objects)})
    example = only(opened("voc", root))
    assert example.key == "2007_000033"
    assert example.label is None
    assert np.abs(example.pixels.astype(int) - pixels).max() <= 3
    same(example.mask, [0, 15, V], [20, 15, 1])
    same(example.segments, [0, 1, V], [2, 3, 4])
    same(only(opened("voc20", root)).mask, [V, 14, V], [19, 14, 0])


def test_voc_keeps_the_order_of_its_image_set_and_does_without_objects(tmp_path: Path) -> None:
    classes = numbers([0, 1])
    root = layouts.voc(tmp_path, {name: (picture(1, 2), classes + i) for i, name in enumerate(("b", "c", "a"))})
    write(root / "VOCdevkit/VOC2012/JPEGImages/other.jpg", layouts.encode(picture(1, 2)))
    dataset = opened("voc", root)
    examples = [dataset.read(i) for i in range(len(dataset))]
    assert [example.key for example in examples] == ["b", "c", "a"]
    assert [int(example.mask.max()) for example in examples if example.mask is not None] == [1, 2, 3]
    assert {example.segments for example in examples} == {None}
    with pytest.raises(IndexError):
        dataset.read(3)


def test_context(tmp_path: Path) -> None:
    root = layouts.context(tmp_path, {"2008_000002": (picture(2, 2), numbers([0, 1], [59, 20]))})
    same(only(opened("context60", root)).mask, [0, 1], [59, 20])
    same(only(opened("context59", root)).mask, [V, 0], [58, 19])
    assert only(opened("context59", root)).segments is None


def test_ade20k(tmp_path: Path) -> None:
    root = layouts.ade20k(tmp_path, {"ADE_val_00000001": (picture(2, 2), numbers([0, 1], [150, 13]))})
    layouts.ade20k(tmp_path, {"ADE_train_00000001": (picture(1, 1), numbers([2]))}, folder="training")
    same(only(opened("ade20k", root)).mask, [V, 0], [149, 12])
    same(only(opened("ade20k", root, "train")).mask, [1])


def test_cityscapes(tmp_path: Path) -> None:
    # unlabelled, road, parking, building; person, trailer, train, bicycle
    labels = numbers([0, 7, 9, 11], [24, 30, 31, 33])
    root = layouts.cityscapes(tmp_path, {"munster_000173_000019": (picture(2, 4), labels)})
    example = only(opened("cityscapes19", root))
    assert example.key == "munster/munster_000173_000019"
    same(example.mask, [V, 0, V, 2], [11, V, 16, 18])
    assert example.segments is None
    same(only(opened("cityscapes27", root)).mask, [V, 0, 2, 4], [17, 23, 24, 26])


def test_cityscapes_segments_are_objects_and_stuff_and_leave_out_groups_and_void(tmp_path: Path) -> None:
    labels = numbers([0, 7, 7, 26], [26, 26, 26, 9])
    # 26000 and 26001 are two cars, 26 a group of cars.
    instances = numbers([0, 7, 7, 26000], [26000, 26001, 26, 9])
    root = layouts.cityscapes(tmp_path, {"munster_000173_000019": (picture(2, 4), labels, instances)})
    same(only(opened("cityscapes19", root)).segments, [V, 1, 1, 2], [2, 3, V, V])
    same(only(opened("cityscapes27", root)).segments, [V, 1, 1, 3], [3, 4, V, 2])


@pytest.mark.parametrize("mmseg", [False, True])
def test_coco_stuff_and_object_from_raw_maps(tmp_path: Path, mmseg: bool) -> None:
    # person, stop sign (13), toothbrush (90); banner (92), wood (182), unlabelled
    raw = numbers([0, 12, 89], [91, 181, 255])
    root = layouts.coco_stuff(tmp_path, {"000000000139": (picture(2, 3), raw)}, mmseg=mmseg)
    same(only(opened("coco-stuff", root)).mask, [0, 11, 79], [80, 170, V])
    same(only(opened("coco-object", root)).mask, [1, 12, 80], [0, 0, 0])


def test_coco_stuff_and_object_from_converted_maps(tmp_path: Path) -> None:
    pixels = picture(1, 3)
    layouts.coco_stuff(tmp_path, {"000000000139": (pixels, numbers([0, 12, 255]))}, mmseg=True)
    layouts.coco_stuff(tmp_path, {"000000000139": (pixels, numbers([0, 11, 255]))}, "_labelTrainIds", mmseg=True)
    layouts.coco_stuff(tmp_path, {"000000000139": (pixels, numbers([1, 12, 0]))}, "_instanceTrainIds", mmseg=True)
    same(only(opened("coco-stuff", tmp_path)).mask, [0, 11, V])
    same(only(opened("coco-object", tmp_path)).mask, [1, 12, 0])


def test_coco_panoptic(tmp_path: Path) -> None:
    ids = numbers([0, 5, 5, 70000], [300, 300, 9, 9])
    segments = [(70000, 1, 0), (5, 1, 0), (300, 200, 0), (9, 62, 1)]  # two people, a rug, a crowd of chairs
    root = layouts.coco_panoptic(tmp_path, {"000000000139": (picture(2, 4), ids, segments)})
    example = only(opened("coco-panoptic", root))
    assert example.key == "000000000139.jpg"
    same(example.mask, [V, 0, 0, 0], [132, 132, 56, 56])
    same(example.segments, [V, 2, 2, 1], [3, 3, V, V])


def test_coco_panoptic_in_the_other_usual_place_and_order(tmp_path: Path) -> None:
    named = {name: (picture(1, 1), numbers([i]), [(i, i, 0)]) for i, name in enumerate(("b", "a"), start=1)}
    layouts.coco_panoptic(tmp_path, named)
    (tmp_path / "annotations" / "panoptic_val2017").rename(tmp_path / "panoptic_val2017")
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images" / "val2017")
    dataset = opened("coco-panoptic", tmp_path)
    assert [dataset.read(i).key for i in range(2)] == ["a.jpg", "b.jpg"]
    same(dataset.read(0).mask, [1])


def test_coco_panoptic_names_what_does_not_fit(tmp_path: Path) -> None:
    layouts.coco_panoptic(tmp_path, {"a": (picture(1, 2), numbers([3, 4]), [(3, 1, 0)])})
    with pytest.raises(DataError, match=r"panoptic_val2017/a\.png: has the segment id 4, which the annotation file"):
        opened("coco-panoptic", tmp_path).read(0)
    layouts.coco_panoptic(tmp_path, {"a": (picture(1, 1), numbers([3]), [(3, 12, 0)])})
    with pytest.raises(DataError, match=r"panoptic_val2017\.json: has the category 12, none of COCO's 133"):
        opened("coco-panoptic", tmp_path).read(0)


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ({"id": 3, "category_id": 1}, r"the segments of a\.jpg are not as COCO's are \(KeyError: 'iscrowd'\)"),
        ({"id": 3, "category_id": "1", "iscrowd": 0}, r"has the category '1', none of COCO's 133"),
        (None, r"the segments of a\.jpg are not as COCO's are \(TypeError"),
    ],
)
def test_coco_panoptic_names_segments_of_another_form(tmp_path: Path, segment: Any, message: str) -> None:
    layouts.coco_panoptic(tmp_path, {"a": (picture(1, 1), numbers([3]), [(3, 1, 0)])})
    file = tmp_path / "annotations" / "panoptic_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segments_info"] = [segment]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"panoptic_val2017\.json: {message}"):
        opened("coco-panoptic", tmp_path).read(0)


def test_coco_ids_of_segments_may_be_texts_and_those_of_pictures_must_agree(tmp_path: Path) -> None:
    layouts.coco_panoptic(tmp_path, {"a": (picture(1, 1), numbers([3]), [("3", 1, 0)])})  # type: ignore[list-item]
    same(opened("coco-panoptic", tmp_path).read(0).mask, [0])
    file = tmp_path / "annotations" / "panoptic_val2017.json"
    file.write_text(file.read_text().replace('"image_id": 7', '"image_id": "7"'))
    with pytest.raises(DataError, match=r"no image_id, such as '7', is the id of a picture, such as 7"):
        opened("coco-panoptic", tmp_path)


def test_coco_instances(tmp_path: Path) -> None:
    objects = [
        {"category_id": 13, "bbox": [1, 0, 2, 2], "segmentation": [[1, 0, 3, 0, 3, 2, 1, 2]], "iscrowd": 0},
        {"category_id": 1, "bbox": [0, 0, 4, 2], "segmentation": {"size": [2, 4], "counts": [0, 8]}, "iscrowd": 1},
        {"category_id": 90, "bbox": [0, 1, 1.5, 1], "segmentation": {"size": [2, 4], "counts": "116"}, "iscrowd": 0},
    ]
    root = layouts.coco_instances(tmp_path, {"b": (picture(2, 4), objects), "a": (picture(1, 1), [])})
    dataset = opened("coco-instances", root)
    assert dataset.read(0).regions == ()
    sign, brush = dataset.read(1).regions
    assert (sign.label, sign.box) == (11, (1.0, 0.0, 3.0, 2.0))
    assert (brush.label, brush.box) == (79, (0.0, 1.0, 1.5, 2.0))
    assert sign.mask is not None
    assert brush.mask is not None
    np.testing.assert_array_equal(sign.mask, [[0, 1, 1, 0], [0, 1, 1, 0]])
    np.testing.assert_array_equal(brush.mask, [[0, 0, 0, 0], [1, 0, 0, 0]])


def test_coco_instances_names_what_does_not_fit(tmp_path: Path) -> None:
    broken = {"category_id": 1, "bbox": [0, 0, 1, 1], "segmentation": {"size": [2, 2], "counts": [3]}, "iscrowd": 0}
    layouts.coco_instances(tmp_path, {"a": (picture(2, 2), [broken])})
    with pytest.raises(DataError, match=r"instances_val2017\.json: annotation 0 is not as COCO's are \(run lengths"):
        opened("coco-instances", tmp_path).read(0)
    write(tmp_path / "val2017" / "a.jpg", layouts.encode(picture(4, 2)))
    with pytest.raises(DataError, match=r"instances_val2017\.json: is 2 x 2, while .*a\.jpg is 2 x 4"):
        opened("coco-instances", tmp_path).read(0)
    write(tmp_path / "annotations" / "instances_val2017.json", '{"images": []}')
    with pytest.raises(DataError, match=r"instances_val2017\.json: is no annotation file of COCO's"):
        opened("coco-instances", tmp_path)


@pytest.mark.parametrize("home", ["", "val"])
def test_imagenet_by_folders_of_some_classes(tmp_path: Path, home: str) -> None:
    # The first, second and last of the sorted WordNet ids: tench, goldfish, toilet tissue.
    files = ["n15075141/b.JPEG", "n01440764/ILSVRC2012_val_00000293.JPEG", "n01443537/a.JPEG"]
    layouts.imagenet(tmp_path, {file: picture(2, 2) for file in files})
    write(tmp_path / "val" / "n01440764" / "._a.JPEG", "what a Mac leaves")
    dataset = opened("imagenet", tmp_path / "val" if home else tmp_path)
    examples = [dataset.read(i) for i in range(len(dataset))]
    assert [(example.key, example.label) for example in examples] == [
        ("n01440764/ILSVRC2012_val_00000293.JPEG", 0),
        ("n01443537/a.JPEG", 1),
        ("n15075141/b.JPEG", 999),
    ]


def test_imagenet_refuses_folders_of_other_classes(tmp_path: Path) -> None:
    layouts.imagenet(tmp_path, {"n01440764/a.JPEG": picture(1, 1), "n00000001/a.JPEG": picture(1, 1)})
    with pytest.raises(DataError, match="val/n00000001: is none of the 1000 classes, n01440764 to n15075141"):
        opened("imagenet", tmp_path)


def write_list(root: Path) -> None:
    write(root / "val.txt", "ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG 970\n")


def write_solution(root: Path) -> None:
    rows = "ILSVRC2012_val_00000002,n09193705 1 2 3 4 n09193705 5 6 7 8 \nILSVRC2012_val_00000001,n01751748 1 1 9 9 \n"
    write(root / "LOC_val_solution.csv", f"ImageId,PredictionString\n{rows}")


def write_devkit(root: Path) -> None:
    """As ILSVRC2012_devkit_t12 has it: numbers of its own, and hypernyms after the thousandth."""
    data = root / "ILSVRC2012_devkit_t12" / "data"
    write(data / "ILSVRC2012_validation_ground_truth.txt", "490\n361\n")
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    rows = [(361, "n09193705", "alp"), (490, "n01751748", "sea snake"), (1001, "n00001740", "entity")]
    savemat(data / "meta.mat", {"synsets": np.array(rows, dtype=kind).reshape(-1, 1)})


@pytest.mark.parametrize("write_labels", [write_list, write_solution, write_devkit])
def test_imagenet_in_one_folder(tmp_path: Path, write_labels: Callable[[Path], None]) -> None:
    # n01751748 sea snake and n09193705 alp are 65 and 970 of the sorted WordNet ids.
    layouts.imagenet(tmp_path, {f"ILSVRC2012_val_{i:08}.JPEG": picture(2, 2) for i in (1, 2)})
    write(tmp_path / "val" / "._ILSVRC2012_val_00000001.JPEG", "what a Mac leaves")
    write_labels(tmp_path)
    dataset = opened("imagenet", tmp_path)
    assert [dataset.read(i).label for i in range(len(dataset))] == [65, 970]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("val.txt", "ILSVRC2012_val_00000002.JPEG 1", r"val\.txt: has no label for ILSVRC2012_val_00000001\.JPEG"),
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 1000", r"val\.txt: has the label 1000; labels are 0 to 999"),
        ("val.txt", "ILSVRC2012_val_00000001.JPEG one", r"val\.txt: is no list of ImageNet's labels"),
        ("LOC_val_solution.csv", "ImageId,PredictionString\na,n0 1\n", "is no list of ImageNet's labels"),
        ("ILSVRC2012_validation_ground_truth.txt", "1", r"meta\.mat: is missing"),
        ("ILSVRC2012_validation_ground_truth.txt", "1", r"ground_truth\.txt: is no list of ImageNet's labels"),
    ],
)
def test_imagenet_names_what_is_wrong_with_its_labels(tmp_path: Path, file: str, content: str, message: str) -> None:
    layouts.imagenet(tmp_path, {"ILSVRC2012_val_00000001.JPEG": picture(1, 1)})
    write(tmp_path / file, content)
    if "meta" not in message:
        write(tmp_path / "meta.mat", "hello")
    with pytest.raises(DataError, match=message):
        opened("imagenet", tmp_path)


def test_imagenet_v2_folders_are_numbers_and_not_in_the_order_of_texts(tmp_path: Path) -> None:
    names = ["0/a.jpeg", "2/a.jpeg", "10/a.jpeg", "999/a.jpeg"]
    layouts.imagenet_v2(tmp_path, {name: picture(1, 1) for name in names})
    for root in (tmp_path, tmp_path / "imagenetv2-matched-frequency-format-val"):
        dataset = opened("imagenet-v2", root)
        labels = {dataset.read(i).key: dataset.read(i).label for i in range(len(dataset))}
        assert labels == {"0/a.jpeg": 0, "2/a.jpeg": 2, "10/a.jpeg": 10, "999/a.jpeg": 999}


def test_waterbirds(tmp_path: Path) -> None:
    rows = [(f"00{i}.Bird/{i}.jpg", picture(1, 1), i // 2, 2, i % 2) for i in range(4)]
    rows += [("009.Bird/9.jpg", picture(1, 1), 1, 0, 1)]
    root = layouts.waterbirds(tmp_path, rows)
    dataset = opened("waterbirds", root)
    examples = [dataset.read(i) for i in range(len(dataset))]
    assert [example.label for example in examples] == [0, 0, 1, 1]
    assert [example.attributes for example in examples] == [
        {"place": 0, "group": 0},
        {"place": 1, "group": 1},
        {"place": 0, "group": 2},
        {"place": 1, "group": 3},
    ]
    assert only(opened("waterbirds", root / "waterbird_complete95_forest2water2", "train")).key == "009.Bird/9.jpg"
    with pytest.raises(DataError, match=r"metadata\.csv: has no row of split 1 \(val\)"):
        opened("waterbirds", root, "val")


def test_waterbirds_names_what_does_not_fit(tmp_path: Path) -> None:
    layouts.waterbirds(tmp_path, [("a.jpg", picture(1, 1), 0, 2, 2)])
    with pytest.raises(DataError, match=r"metadata\.csv, line 2: has place '2'; it is 0 to 1"):
        opened("waterbirds", tmp_path)
    write(tmp_path / "waterbird_complete95_forest2water2" / "metadata.csv", "img_filename,y,split\n")
    with pytest.raises(DataError, match=r"metadata\.csv: has no column place; it has img_filename, y, split"):
        opened("waterbirds", tmp_path)
