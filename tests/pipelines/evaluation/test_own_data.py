"""Users' own pictures, in folders and in Parquet."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clippy.config import ConfigError
from pipelines.columns import DataError
from pipelines.evaluation.benchmarks import open_parts
from pipelines.evaluation.dataset import VOID
from pipelines.evaluation.datasets import row_groups
from pipelines.evaluation.datasets.folder import FolderPictures, open_folder
from pipelines.evaluation.datasets.own_classes import read_classes
from pipelines.evaluation.datasets.parquet import ParquetPictures, open_parquet, open_shapes
from pipelines.evaluation.protocol import PROTOCOLS
from pipelines.storage import locate
from tests.pipelines.evaluation import layouts
from tests.pipelines.evaluation.layouts import encode, encode_grey, encode_palette, picture, write

V = VOID
MASK = np.array([[0, 1, 255], [1, 1, 0]])


def opened(root: Path) -> FolderPictures:
    return open_folder(locate(str(root)), "all")


def rows_of(path: Path) -> ParquetPictures:
    return open_parquet(locate(str(path)), "all")


def test_masks_and_labels(tmp_path: Path) -> None:
    files = {"b.jpg": (picture(2, 3), MASK), "a.png": (picture(2, 3), 0 * MASK)}
    layouts.folder(tmp_path, files, ["cat", "dog"])
    write(tmp_path / "labels.csv", "file,label,note\nb.jpg,dog,\nimages/a.png,0,\nelsewhere.jpg,cat,\n")
    dataset = opened(tmp_path)
    first, second = dataset.read(0), dataset.read(1)
    assert (first.key, first.label, second.key, second.label) == ("a.png", 0, "b.jpg", 1)
    assert second.mask is not None
    np.testing.assert_array_equal(second.mask, [[0, 1, V], [1, 1, 0]])
    assert dataset.classes.names == ("cat", "dog")


def test_masks_alone_with_another_void(tmp_path: Path) -> None:
    layouts.folder(tmp_path, {"a.jpg": (picture(1, 3), MASK[:1] % 3)}, {"classes": ["cat", "dog"], "void": 2})
    write(tmp_path / "masks" / "a.png", encode_palette(np.array([[0, 1, 2]])))
    example = opened(tmp_path).read(0)
    assert example.label is None
    assert example.mask is not None
    np.testing.assert_array_equal(example.mask, [[0, 1, V]])
    write(tmp_path / "masks" / "a.png", encode_palette(np.array([[0, 1, 255]])))
    with pytest.raises(DataError, match=r"masks/a\.png: has the value 255; its values are 0 to 1, and 2 for void"):
        opened(tmp_path).read(0)


def test_picture_that_exif_turns_has_its_mask_as_shown(tmp_path: Path) -> None:
    layouts.folder(tmp_path, {"a.jpg": (picture(3, 2), MASK)}, ["cat", "dog"])  # shown 2 rows of 3
    write(tmp_path / "images" / "a.jpg", encode(picture(3, 2), orientation=6))
    example = opened(tmp_path).read(0)
    assert example.pixels.shape == (2, 3, 3)
    assert example.mask is not None
    np.testing.assert_array_equal(example.mask, [[0, 1, V], [1, 1, 0]])
    write(tmp_path / "masks" / "a.png", encode_palette(MASK.T))
    with pytest.raises(DataError, match=r"masks/a\.png: is 2 x 3, while .*images/a\.jpg is 3 x 2; .* EXIF"):
        opened(tmp_path).read(0)


@pytest.mark.parametrize("inside", ["", "images"])
def test_a_folder_a_class(tmp_path: Path, inside: str) -> None:
    for file in ("dog/b.jpg", "cat/x/c.jpg", "dog/a.jpg"):
        write(tmp_path / inside / file, encode(picture(1, 1)))
    dataset = opened(tmp_path)
    examples = [dataset.read(i) for i in range(len(dataset))]
    assert [(example.key, example.label) for example in examples] == [
        ("cat/x/c.jpg", 0),
        ("dog/a.jpg", 1),
        ("dog/b.jpg", 1),
    ]
    assert dataset.classes.names == ("cat", "dog")
    write(tmp_path / inside / ".ipynb_checkpoints" / "a-checkpoint.jpg", encode(picture(1, 1)))
    assert opened(tmp_path).classes.names == ("cat", "dog")
    write(tmp_path / "classes.txt", "bird\ndog\n\ncat\n")
    dataset = opened(tmp_path)
    assert [dataset.read(i).label for i in range(3)] == [2, 1, 1]
    write(tmp_path / "classes.txt", "dog\n")
    with pytest.raises(DataError, match=r"cat: is none of the classes of .*classes\.txt"):
        opened(tmp_path)


@pytest.mark.parametrize("beside", ["masks/cat/a.png", "labels.csv"])
def test_subfolders_are_no_classes_where_masks_or_labels_say_more(tmp_path: Path, beside: str) -> None:
    write(tmp_path / "images" / "cat" / "a.jpg", encode(picture(1, 1)))
    write(tmp_path / beside, encode_grey(np.zeros((1, 1))))
    with pytest.raises(DataError, match=r"images/cat/a\.jpg: lies in a subfolder; with .* lie in images/"):
        opened(tmp_path)


def test_labels_alone_are_asked_of_the_centre_whatever_else_is_asked(tmp_path: Path) -> None:
    for file in ("cat/a.jpg", "cow/b.jpg", "dog/c.jpg"):
        write(tmp_path / file, encode(picture(1, 1)))
    for held_out in ((), ("dog",)):
        protocol = PROTOCOLS["paper"].model_copy(update={"held_out": held_out})
        (part,) = open_parts("folder", locate(str(tmp_path)), protocol)
        assert part.cropped


def test_a_threshold_needs_two_classes_beside_the_background(tmp_path: Path) -> None:
    for names in (["other", "crack"], ["other", "crack", "stain"]):
        layouts.folder(tmp_path, {"a.jpg": (picture(2, 3), MASK)}, {"classes": names, "background": "other"})
        assert open_parts("folder", locate(str(tmp_path)), PROTOCOLS["paper"])
        if len(names) > 2:
            assert open_parts("folder", locate(str(tmp_path)), PROTOCOLS["tcl"])
        else:
            with pytest.raises(ConfigError, match="background: a single class has probability 1 everywhere"):
                open_parts("folder", locate(str(tmp_path)), PROTOCOLS["tcl"])


def test_what_is_missing_in_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no evaluation data here, images/\*\.jpg is missing; expected:\n  images/a"):
        opened(tmp_path)
    write(tmp_path / "images" / "a.jpg", encode(picture(1, 1)))
    with pytest.raises(DataError, match=r"classes\.json is missing"):
        opened(tmp_path)
    write(tmp_path / "classes.json", '["cat"]')
    with pytest.raises(DataError, match=r"masks/\*\.png is missing"):
        opened(tmp_path)
    write(tmp_path / "masks" / "b.png", encode_grey(np.zeros((1, 1))))
    with pytest.raises(DataError, match=r"masks/a\.png: is missing; 1 of 1 pictures have no mask"):
        opened(tmp_path)
    write(tmp_path / "masks" / "a.png", encode_grey(np.zeros((1, 1))))
    write(tmp_path / "images" / "a.png", encode(picture(1, 1), "PNG"))
    with pytest.raises(DataError, match=r"masks/a\.png: belongs to 2 pictures"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,label\na.jpg,cat\n", r"labels\.csv: has the columns name, label; it needs file and label"),
        ("file,label\na.jpg,cow\n", r"labels\.csv, line 2: has the label 'cow', none of .*classes\.json"),
        ("file,label\na.jpg,2\n", r"labels\.csv, line 2: has the label '2'"),
        ("file,label\na.jpg\n", r"labels\.csv, line 2: has the label ''"),
        ("file,label\na.jpg,cat\nimages/a.jpg,dog\n", r"labels\.csv, line 3: gives a\.jpg a second label, 'dog'"),
        ("file,label\nb.jpg,cat\n", r"labels\.csv: has no row for a\.jpg"),
    ],
)
def test_what_is_wrong_with_labels_is_named(tmp_path: Path, table: str, message: str) -> None:
    layouts.folder(tmp_path, {"a.jpg": (picture(1, 1),)}, ["cat", "dog"])
    write(tmp_path / "labels.csv", table)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_classes_with_kinds_and_background(tmp_path: Path) -> None:
    entries = ["cat", {"name": "grass", "kind": "stuff"}, "other"]
    write(tmp_path / "classes.json", json.dumps({"classes": entries, "background": "other", "void": None}))
    own = read_classes(locate(str(tmp_path)))
    assert own is not None
    assert own.classes.names == ("cat", "grass", "other")
    assert own.classes.kinds == ("thing", "stuff", "background")
    assert own.classes.background == 2
    with pytest.raises(DataError, match=r"has the value 255; its values are 0 to 2$"):
        own.ids()(np.array([[255]], dtype=np.uint8), "m.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "has no classes"),
        ('{"classes": []}', "has no classes"),
        ('"cat"', "has no classes"),
        ("[1]", "has the class 1; it is a name"),
        ('["cat", " "]', "has the class ' '"),
        ('["cat", "cat"]', "names the class 'cat' twice"),
        ('[{"name": "cat", "kind": "beast"}]', "has a class of kind 'beast'; kinds are thing, stuff, background"),
        ('{"classes": ["cat"], "background": "dog"}', "background is 'dog', which is none of the classes"),
        ('{"classes": ["cat"], "background": 1}', "background is 1"),
        ('{"classes": ["cat"], "void": 0}', "void is 0; it is null, or a number that no class has, 1 to 65535"),
        ('{"classes": ["cat"]', "is no JSON"),
        ('{"classes": ["cat"], "backgruond": "cat"}', "has no field 'backgruond', only .*; did you mean 'background'"),
        ('[{"name": "cat", "colour": 1}]', "has no field 'colour', only name, kind, id"),
        ('[{"name": "cat", "id": 1}]', "cat has the id 1 and is number 0"),
    ],
)
def test_what_is_wrong_with_classes_is_named(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path / "classes.json", content)
    with pytest.raises(DataError, match=rf"classes\.json: {message}"):
        read_classes(locate(str(tmp_path)))


def rows(count: int) -> list[dict[str, Any]]:
    """Pictures of different sizes, with masks of one class each."""
    return [
        {
            "image": {"bytes": encode(picture(1 + i, 2)), "path": f"{i}.jpg"},
            "mask": encode_grey(np.full((1 + i, 2), i % 3)),
            "segments": encode_grey(np.full((1 + i, 2), i)),
            "label": i % 3,
            "place": 10 * i,
            "note": "text",
        }
        for i in range(count)
    ]


def test_parquet_rows_by_number_over_files_and_groups(tmp_path: Path) -> None:
    layouts.parquet(tmp_path, rows(7), ["cat", "dog", "cow"], row_group_rows=2, shards=2)
    dataset = rows_of(tmp_path)
    assert len(dataset) == 7
    for i in (6, 0, 3, 4, 1):
        example = dataset.read(i)
        assert example.pixels.shape == (1 + i, 2, 3)
        assert example.label == i % 3
        assert example.attributes == {"place": 10 * i}
        assert example.mask is not None
        assert example.segments is not None
        assert (example.mask == i % 3).all()
        assert (example.segments == i).all()
        assert example.segments.dtype == np.int32
    assert [dataset.read(i).key for i in (0, 4)] == ["00000.parquet:0", "00001.parquet:0"]
    assert dataset.classes.names == ("cat", "dog", "cow")
    for index in (7, -1):
        with pytest.raises(IndexError):
            dataset.read(index)


def test_parquet_of_one_file_with_plain_bytes_keys_and_nulls(tmp_path: Path) -> None:
    table = [
        {"uid": "x", "jpg": encode(picture(1, 3)), "mask": encode_palette(MASK[:1])},
        {"uid": None, "jpg": encode(picture(1, 3)), "mask": None},
    ]
    layouts.parquet(tmp_path, table, ["cat", "dog"])
    dataset = rows_of(tmp_path / "00000.parquet")
    first, second = dataset.read(0), dataset.read(1)
    assert (first.key, second.key, second.mask, first.label) == ("x", "00000.parquet:1", None, None)
    assert first.mask is not None
    np.testing.assert_array_equal(first.mask, [[0, 1, V]])


def test_a_folder_may_be_called_as_a_parquet_file_is(tmp_path: Path) -> None:
    layouts.parquet(tmp_path / "pictures.parquet", rows(3), ["cat", "dog", "cow"], shards=2)
    assert len(rows_of(tmp_path / "pictures.parquet")) == 3


def test_parquet_whose_first_row_says_nothing_is_refused(tmp_path: Path) -> None:
    table = [{"jpg": encode(picture(1, 3)), "label": None}, {"jpg": encode(picture(1, 3)), "label": 1}]
    layouts.parquet(tmp_path, table, ["cat", "dog"])
    with pytest.raises(DataError, match="its first picture has neither label, mask nor segments"):
        open_parts("parquet", locate(str(tmp_path)), PROTOCOLS["paper"])


def test_row_groups_are_read_once_when_threads_walk_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.parquet(tmp_path, rows(12), ["cat", "dog", "cow"], row_group_rows=3)
    read: list[int] = []
    original: Callable[..., pa.Table] = row_groups._read

    def counted(shard: row_groups.Shard, group: int, names: list[str]) -> pa.Table:
        read.append(group)
        return original(shard, group, names)

    monkeypatch.setattr(row_groups, "_read", counted)
    dataset = rows_of(tmp_path)
    assert read == []
    with ThreadPoolExecutor(3) as pool:
        labels = list(pool.map(lambda i: dataset.read(i).label, range(12)))
    assert labels == [i % 3 for i in range(12)]
    assert sorted(read) == [0, 1, 2, 3]
    assert pickle.loads(pickle.dumps(dataset)).read(11).attributes == {"place": 110}
    assert read[-1] == 3  # the copy came without what had been read


def test_a_row_group_that_cannot_be_read_is_an_error_for_all_and_tried_again(tmp_path: Path) -> None:
    layouts.parquet(tmp_path, rows(2), ["cat", "dog", "cow"])
    dataset = rows_of(tmp_path)
    file = tmp_path / "00000.parquet"
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(DataError, match=r"00000\.parquet: is missing"):
        dataset.read(0)
    file.write_bytes(content)
    assert dataset.read(0).label == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 3}, r"00000\.parquet, row 0: has the label 3; labels are 0 to 2"),
        (
            {"mask": encode_grey(np.full((1, 2), 3))},
            r"row 0: the mask: has the value 3; its values are 0 to 2, and 255",
        ),
        ({"image": {"bytes": None, "path": "a.jpg"}}, r"row 0: the image: has no bytes"),
        ({"mask": encode_grey(np.zeros((4, 4)))}, r"row 0: the mask: is 4 x 4, while .*row 0 is 2 x 1"),
        ({"image": {"bytes": b"hello", "path": None}}, r"row 0: the bytes are no image"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    layouts.parquet(tmp_path, [rows(1)[0] | change, rows(1)[0]], ["cat", "dog", "cow"])
    dataset = rows_of(tmp_path)
    with pytest.raises(DataError, match=message):
        dataset.read(0)
    assert dataset.read(1).label == 0


def test_what_is_wrong_with_parquet_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no evaluation data in Parquet here, \*\.parquet is missing"):
        rows_of(tmp_path)
    with pytest.raises(DataError, match=r"a\.parquet is missing; expected"):
        rows_of(tmp_path / "a.parquet")
    for row, message in (
        ({"text": "a"}, r"00000\.parquet: has no image column \(looked for image, .*; it has text"),
        ({"image": b"a"}, "has no mask, label or segments; it has image"),
        ({"image": "a", "label": 1}, "column 'image' holds string, not the bytes of images"),
        ({"image": b"a", "label": "cat"}, "column 'label' holds string, not numbers of classes"),
    ):
        layouts.parquet(tmp_path, [row], ["cat"])
        with pytest.raises(DataError, match=message):
            rows_of(tmp_path)
    pq.write_table(pa.table({"image": [b"a"], "label": [0]}), tmp_path / "00000.parquet")
    pq.write_table(pa.table({"image": [b"a"]}), tmp_path / "00001.parquet")
    with pytest.raises(DataError, match=r"00001\.parquet: has no column 'label', which 00000\.parquet has"):
        rows_of(tmp_path)
    write(tmp_path / "00000.parquet", "hello, this is no Parquet file")
    with pytest.raises(DataError, match=r"00000\.parquet: cannot be read"):
        rows_of(tmp_path)


def test_shapes(shapes: Path) -> None:
    dataset = open_shapes(locate(str(shapes)), "multi")
    assert len(dataset) == 40
    stored = pq.read_table(shapes / "evaluation" / "multi").to_pylist()
    for i in (0, 39):
        example = dataset.read(i)
        assert (example.key, example.label) == (stored[i]["key"], stored[i]["label"])
        assert example.attributes == {"background": stored[i]["background"]}
        assert example.mask is not None
        assert example.segments is not None
        # Each object has one class, and the ground is the background's.
        assert set(example.mask[example.segments == 0].tolist()) == {stored[i]["background"]}
        assert sorted(example.mask[example.segments == k][0] for k in np.unique(example.segments) if k) == sorted(
            stored[i]["labels"]
        )
    assert set(open_shapes(locate(str(shapes)), "spurious").read(0).attributes) == {"background", "group"}
    with pytest.raises(DataError, match=r"no shapes benchmark here, evaluation/classes\.json is missing"):
        open_shapes(locate(str(shapes / "train")), "multi")
