"""Looking at a dataset: facts are exact where they can be counted, and nothing is written."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.cli import main
from pipelines.columns import DataError
from pipelines.index import index_dataset
from pipelines.inspection.collect import Inspection, inspect_data
from pipelines.inspection.data_card import write_data_card
from pipelines.inspection.rows import pick_rows
from pipelines.inspection.text import as_text
from pipelines.manifest import Manifest
from pipelines.sections import DatasetConfig


def picture(width: int = 40, height: int = 32, seed: int = 0, format: str = "JPEG", mode: str = "RGB") -> bytes:
    """Smooth colours with a little noise: other seed, other bytes."""
    random = np.random.default_rng(seed)
    corners = random.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, format)
    return stream.getvalue()


def rows(number: int, first: int = 0, **columns: list[object] | pa.Array) -> dict[str, list[object] | pa.Array]:
    """Good rows; ``columns`` replace or add some."""
    places = range(first, first + number)
    images = columns.pop("jpg", None) or [picture(seed=i) for i in places]
    return {
        "key": [f"k{i:04d}" for i in places],
        "caption": [f"picture number {i}" for i in places],
        "jpg": pa.array(images, pa.large_binary()),
        **columns,
    }


def write(folder: Path, name: str, columns: dict[str, list[object] | pa.Array], row_group_rows: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / name, row_group_size=row_group_rows)


def inspect(folder: Path | str, image_size: int = 32, index: bool = False, **options: object) -> Inspection:
    data = DatasetConfig(url=str(folder))
    if index:
        index_dataset(data)
    return inspect_data(data, image_size=image_size, **options)  # type: ignore[arg-type]


def advised(inspection: Inspection) -> list[str]:
    return [advice.name for advice in inspection.advice]


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_facts_of_the_shapes_benchmark_are_exact(shapes: Path) -> None:
    shards = sorted(path for path in (shapes / "train").glob("*.parquet") if not path.name.startswith("_"))
    before = contents(shapes / "train")
    found = inspect(shapes / "train", image_size=64)
    facts = json.loads(json.dumps(found.as_dict()))
    assert (facts["rows"], facts["usable_rows"], facts["shards"], facts["row_groups"]) == (200, 200, 2, 13)
    assert facts["row_group_rows"]["max"] == facts["row_group_rows"]["median"] == 16
    assert facts["bytes"] == sum(shard.stat().st_size for shard in shards)
    roles = {column["role"]: column["name"] for column in facts["schema"] if column["role"]}
    assert roles == {"image": "jpg", "caption": "caption", "key": "key", "status": "status"}
    sample = facts["sample"]
    assert (sample["rows"], sample["causes"], sample["formats"]) == (200, {"valid": 200}, {"JPEG": 200})
    assert (sample["short_side"]["min"], sample["short_side"]["max"]) == (64, 64)
    table = pa.concat_tables(pq.read_table(shard, columns=["caption", "jpg"]) for shard in shards).to_pydict()
    assert sample["repeated_captions"] == 200 - len(set(table["caption"]))
    assert sample["image_bytes"]["max"] == max(map(len, table["jpg"]))
    assert sample["caption_words"]["max"] == max(len(caption.split()) for caption in table["caption"])
    assert sample["images_per_second"] == pytest.approx(sample["images_per_second_per_core"] * sample["cores"])
    assert contents(shapes / "train") == before


def test_bad_rows_are_counted_by_cause_and_named(tmp_path: Path) -> None:
    good = picture(80, 60)
    images = [
        good,
        good,
        picture(50, 40, 1, "PNG"),
        picture(50, 40, 2, mode="L"),
        b"<html>404</html>",
        picture(200, 200, 3)[:1500],
        None,
        picture(seed=4),
        picture(seed=5),
        picture(seed=6),
    ]
    captions = ["a", "b", "c", "d", "e", "f", "g", "  ", None, "a"]
    status = ["success"] * 9 + ["failed_to_resize"]
    write(tmp_path, "a.parquet", rows(10, jpg=images, caption=captions, status=status))
    found = inspect(tmp_path)
    assert found.layout.excluded_rows == {"null_caption": 1, "status_not_success": 1}
    sample = found.sample
    assert sample.causes == {
        "valid": 4,
        "null_image": 1,
        "empty_caption": 1,
        "not_an_image": 1,
        "truncated_image": 1,
    }
    assert sample.failure_keys == {
        "not_an_image": ["k0004"],
        "truncated_image": ["k0005"],
        "null_image": ["k0006"],
        "empty_caption": ["k0007"],
    }
    assert sample.formats == {"JPEG": 5, "PNG": 1}  # the header of the truncated one can be read
    assert sample.modes == {"RGB": 5, "L": 1}
    assert (sample.repeated_images, sample.repeated_captions) == (1, 0)
    assert advised(found) == ["decode_failures", "manifest_missing", "repeated_images"]
    assert "k0005" in as_text(found)


def test_stored_orientation_is_applied(tmp_path: Path) -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (60, 30)).save(stream, "JPEG", exif=exif)
    write(tmp_path, "a.parquet", rows(1, jpg=[stream.getvalue()]))
    assert [(row.width, row.height) for row in inspect(tmp_path).rows] == [(30, 60)]


def test_hugging_face_layout_is_understood(tmp_path: Path) -> None:
    images = [{"bytes": picture(), "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None]
    write(tmp_path, "train.parquet", {"image": pa.array(images), "text": ["a", "b", "c"]})
    found = inspect(tmp_path)
    assert found.sample.causes == {"valid": 1, "null_image": 2}
    assert found.sample.failure_keys == {"null_image": ["train.parquet:0:1", "train.parquet:0:2"]}
    assert [column.role for column in found.layout.schema] == ["image", "caption"]
    assert found.layout.largest_image_column_bytes > len(picture())


def test_the_role_of_a_column_stands_apart_from_a_long_type(tmp_path: Path) -> None:
    images = [{"bytes": picture(), "path": "a.jpg", "source of the picture": "nobody knows"}]
    write(tmp_path, "train.parquet", {"image": pa.array(images), "text": ["a"]})
    assert re.search(r"^image  struct<bytes: .*…  image$", as_text(inspect(tmp_path)), re.MULTILINE)


def test_several_captions_of_an_image_are_kept_apart(tmp_path: Path) -> None:
    captions: list[object] = [["a dog", "an old dog"], ["a cat", None, " "], [], ["  "], None]
    write(tmp_path, "a.parquet", rows(5, caption=pa.array(captions, pa.list_(pa.string()))))
    found = inspect(tmp_path, thumbnails=True)
    assert found.layout.usable_rows == 3  # neither null nor an empty list
    sample = found.sample
    assert sample.causes == {"valid": 2, "empty_caption": 1}
    assert sample.caption_words is not None
    assert (sample.caption_words.count, sample.caption_words.max) == (3, 3)
    assert sample.captions_per_row is not None
    assert sample.captions_per_row.max == 2
    assert "captions a row" in as_text(found)
    write_data_card(found, str(tmp_path / "card.html"))
    assert "(+1 more)" in (tmp_path / "card.html").read_text()


def test_sample_is_spread_and_always_the_same(tmp_path: Path) -> None:
    for shard in range(4):
        write(tmp_path, f"{shard}.parquet", rows(200, 200 * shard), row_group_rows=10)
    first, second = (inspect(tmp_path, sample_rows=128) for _ in range(2))
    keys = [row.key for row in first.rows]
    assert keys == [row.key for row in second.rows]
    assert len(set(keys)) == len(keys) == 128
    assert keys == sorted(keys)
    per_shard = np.bincount([int(key[1:]) // 200 for key in keys])
    assert per_shard.tolist() == [32, 32, 32, 32]
    assert first.sample.row_groups == 64


def manifest_of(usable_rows: list[int]) -> Manifest:
    number = len(usable_rows)
    return Manifest(
        **{
            **{field.name: None for field in dataclasses.fields(Manifest)},
            "shards": ("a",),
            "image_bytes": np.full(number, 1000),
            "shard_of_group": np.zeros(number, dtype=np.int64),
            "group_in_shard": np.arange(number),
            "rows": np.array(usable_rows) + 1,
            "usable_rows": np.array(usable_rows),
        }  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "usable_rows", [[], [0, 0], [1], [5, 0, 7], [3] * 500, [1] * 2000, [0, 10_000, 1] * 100, [100_000]]
)
@pytest.mark.parametrize("wanted", [1, 100, 512])
def test_picked_rows_exist_and_are_as_many_as_wanted(usable_rows: list[int], wanted: int) -> None:
    picks = pick_rows(manifest_of(usable_rows), wanted)
    number = sum(len(pick.ordinals) for pick in picks)
    expected = min(wanted, sum(usable_rows))
    assert expected <= number <= expected + len(picks)  # whole shares of rows
    assert len({pick.group for pick in picks}) == len(picks) <= max(64, wanted)
    for pick in picks:
        assert len(set(pick.ordinals)) == len(pick.ordinals)
        assert list(pick.ordinals) == sorted(pick.ordinals)
        assert 0 <= pick.ordinals[0] <= pick.ordinals[-1] < usable_rows[pick.group]


def test_a_huge_row_group_is_read_only_as_far_as_needed(tmp_path: Path) -> None:
    random, number = np.random.default_rng(0), 10_000
    pool = [random.bytes(20_000) for _ in range(500)]
    images = pa.array([pool[i % 500] for i in range(number)], pa.large_binary())
    table = pa.table({"jpg": images, "caption": [f"c{i}" for i in range(number)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=number, use_dictionary=False, compression="none")
    size = (tmp_path / "a.parquet").stat().st_size
    assert size > 200_000_000
    code = (
        "import sys, pyarrow as pa\n"
        "from pipelines.inspection.collect import inspect_data\n"
        "from pipelines.sections import DatasetConfig\n"
        "found = inspect_data(DatasetConfig(url=sys.argv[1]), sample_rows=50)\n"
        "print(pa.default_memory_pool().max_memory(), found.sample.rows, *(a.name for a in found.advice))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True).split()
    assert int(printed[0]) < size / 3
    assert printed[1] == "50"
    assert "row_groups_too_large" in printed


@pytest.fixture
def s3_data(s3: str, tmp_path: Path) -> Iterator[str]:
    from pipelines.storage import locate

    write(tmp_path, "a.parquet", rows(20))
    folder = locate("s3://bucket/inspect")
    (folder / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    yield "s3://bucket/inspect"
    folder.remove_folder()


def test_data_on_s3(s3_data: str) -> None:
    from pipelines.storage import locate

    found = inspect(s3_data)
    assert (found.layout.rows, found.sample.causes) == (20, {"valid": 20})
    assert [info.base_name for info in locate(s3_data).list()] == ["a.parquet"]
    assert inspect(s3_data, index=True).layout.manifest == "current"


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(tmp_path / "nowhere")], "does not exist"),
        ([str(tmp_path / "empty")], "no Parquet file"),
        ([str(tmp_path / "empty"), "train.steps=3"], "only data.* fields"),
        ([str(tmp_path / "empty"), "--html", str(tmp_path)], "is a folder"),
    ):
        assert main(["data", "inspect", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert message in printed.err
    write(tmp_path / "data", "a.parquet", rows(2))
    for options, message in (({"sample_rows": 0}, "--sample-rows"), ({"image_size": 0}, "--image-size")):
        with pytest.raises(DataError, match=message):
            inspect(tmp_path / "data", **options)  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", rows(2))
    (tmp_path / "a.parquet").chmod(0)
    with pytest.raises(DataError, match=r"a\.parquet"):
        inspect(tmp_path)
