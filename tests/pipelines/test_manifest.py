"""One pass over footers: what is a sample, what is not, and one clear sentence for data that cannot be used."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.cli import main, parse
from cluster.data import data_config
from pipelines.columns import DataError
from pipelines.index import index_dataset
from pipelines.manifest import check_shards, index_command, load_manifest
from pipelines.sections import DatasetConfig


def write(folder: Path, name: str, row_group_rows: int = 4, **columns: list[object] | pa.Array) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / name, row_group_size=row_group_rows)


def shard(rows: int = 10, **columns: list[object]) -> dict[str, list[object]]:
    return {"jpg": [b"x"] * rows, "caption": [f"c{i}" for i in range(rows)], **columns}


def test_counts_rows_that_are_samples(tmp_path: Path) -> None:
    status: list[object] = ["success"] * 8 + ["failed_to_download", None]
    captions: list[object] = ["c"] * 5 + [None] + ["c"] * 3 + [None]
    write(tmp_path, "00000.parquet", **shard(status=status, caption=captions))
    write(tmp_path, "00001.parquet", **shard(3, status=["success"] * 3))
    manifest = index_dataset(DatasetConfig(url=str(tmp_path))).manifest
    assert manifest.rows.tolist() == [4, 4, 2, 3]
    assert manifest.usable_rows.tolist() == [4, 3, 0, 3]
    assert manifest.excluded == {"null_caption": 1, "status_not_success": 2}


@pytest.mark.parametrize("status", [[200] * 9 + [404], [True] * 9 + [None]])
def test_a_status_that_is_no_text_leaves_nothing_out(tmp_path: Path, status: list[object]) -> None:
    write(tmp_path, "a.parquet", **shard(status=status))
    manifest = index_dataset(DatasetConfig(url=str(tmp_path))).manifest
    assert manifest.columns.status is None
    assert manifest.usable_rows.tolist() == [4, 4, 2]


def test_written_manifest_is_the_one_that_was_built(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", **shard())
    data = DatasetConfig(url=str(tmp_path))
    assert load_manifest(data) is None
    built = index_dataset(data).manifest
    loaded = load_manifest(data)
    assert loaded is not None
    assert loaded.summary() == built.summary()
    assert np.array_equal(loaded.usable_rows, built.usable_rows)
    assert index_dataset(data).manifest.digest == built.digest  # and it is no shard of its own dataset


def test_digest_follows_the_data(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", **shard())
    data = DatasetConfig(url=str(tmp_path))
    before = index_dataset(data).manifest.digest
    write(tmp_path, "a.parquet", **shard(caption=[f"d{i}" for i in range(10)]))  # same sizes, other captions
    assert index_dataset(data).manifest.digest != before


@pytest.mark.parametrize(
    ("columns", "told", "message"),
    [
        ({"txt": ["a"]}, {}, r"00000\.parquet: has no image column .* it has txt; set data\.image_column"),
        ({"jpg": [b"x"]}, {}, r"no caption column"),
        ({"jpg": [b"x"], "caption": ["a"]}, {"image_column": "picture"}, r"no column 'picture'"),
        ({"jpg": ["path.jpg"], "caption": ["a"]}, {}, r"column 'jpg' holds string, not the bytes"),
        ({"jpg": [b"x"], "caption": [[1, 2]]}, {}, r"column 'caption' holds int64, not text"),
        ({"jpg": [b"x"], "caption": ["a"]}, {"key_column": "uid"}, r"no column 'uid' \(data\.key_column\)"),
    ],
)
def test_unusable_columns_are_named(
    tmp_path: Path, columns: dict[str, list[object]], told: dict[str, str], message: str
) -> None:
    write(tmp_path, "00000.parquet", **columns)
    with pytest.raises(DataError, match=message):
        index_dataset(DatasetConfig(url=str(tmp_path), **told))
    assert [p.name for p in tmp_path.iterdir()] == ["00000.parquet"]


def test_struct_of_bytes_is_an_image_column(tmp_path: Path) -> None:
    write(tmp_path, "train.parquet", image=[{"bytes": b"x", "path": None}], text=["a"])
    columns = index_dataset(DatasetConfig(url=str(tmp_path))).manifest.columns
    assert (columns.image, columns.caption, columns.key, columns.status) == ("image", "text", None, None)


def test_names_of_columns_may_have_dots(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image.bytes": [b"x" * 99] * 10, "text.en": ["a"] * 10}), tmp_path / "a.parquet")
    data = DatasetConfig(url=str(tmp_path), image_column="image.bytes", caption_column="text.en")
    stored = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(0).total_compressed_size
    assert index_dataset(data).manifest.image_bytes.tolist() == [stored]


def test_folders_that_hold_no_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        index_dataset(DatasetConfig(url=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="no Parquet file"):
        index_dataset(DatasetConfig(url=str(tmp_path)))
    (tmp_path / "a.parquet").write_text("not Parquet")
    with pytest.raises(DataError, match=r"no Parquet file in .*a\.parquet; name the folder that holds the shards"):
        index_dataset(DatasetConfig(url=str(tmp_path / "a.parquet")))
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file"):
        index_dataset(DatasetConfig(url=str(tmp_path)))


def test_shards_of_other_columns_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", **shard())
    write(tmp_path, "b.parquet", png=[b"x"], caption=["a"])
    with pytest.raises(DataError, match=r"b\.parquet: has the columns"):
        index_dataset(DatasetConfig(url=str(tmp_path)))


def test_vanished_and_changed_shards_are_named(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path, name, **shard())
    data = DatasetConfig(url=str(tmp_path))
    manifest = index_dataset(data).manifest
    check_shards(data, manifest)
    write(tmp_path, "a.parquet", **shard(50))
    with pytest.raises(DataError, match=r"a\.parquet: this shard changed"):
        check_shards(data, manifest)
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(DataError, match=r"a\.parquet: this shard is in the manifest but is gone"):
        check_shards(data, manifest)


def test_damaged_manifest_says_how_to_make_it_anew(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", **shard())
    (tmp_path / "_manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="run: clippy data index"):
        load_manifest(DatasetConfig(url=str(tmp_path)))


def test_a_manifest_with_damaged_pages_is_made_anew_by_the_index(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", **shard())
    data, file = DatasetConfig(url=str(tmp_path)), tmp_path / "_manifest.parquet"
    whole = index_dataset(data).manifest
    content = bytearray(file.read_bytes())
    content[4:24] = b"\xff" * 20  # between the magic bytes and the footer, which stay
    file.write_bytes(content)
    with pytest.raises(DataError, match="run: clippy data index"):
        load_manifest(data)
    assert index_dataset(data).manifest.digest == whole.digest
    loaded = load_manifest(data)
    assert loaded is not None
    assert loaded.digest == whole.digest


def test_manifest_can_lie_elsewhere_and_remembers_its_columns(tmp_path: Path) -> None:
    write(tmp_path / "data", "a.parquet", **shard(text=["t"] * 10))
    data = DatasetConfig(url=str(tmp_path / "data"), manifest=str(tmp_path / "m.parquet"))
    assert index_dataset(data).manifest.columns.caption == "caption"
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["a.parquet"]
    with pytest.raises(DataError, match=r"data\.caption_column: 'text', but the manifest"):
        load_manifest(data.model_copy(update={"caption_column": "text"}))


@pytest.mark.parametrize("change", ["changed", "gone", "damaged manifest"])
def test_the_command_of_a_sentence_indexes_the_same_dataset(
    tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my data"
    for name in ("a.parquet", "b.parquet"):
        write(folder, name, **shard(alt=["t"] * 10))
    data = DatasetConfig(url=str(folder), manifest=str(tmp_path / "m.parquet"), caption_column="alt")
    manifest = index_dataset(data).manifest
    if change == "gone":
        (folder / "a.parquet").unlink()
    elif change == "changed":
        write(folder, "a.parquet", **shard(50, alt=["t"] * 50))
    else:
        (tmp_path / "m.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError) as caught:
        check_shards(data, load_manifest(data) or manifest)
    command = shlex.split(str(caught.value).split("run: ")[1])
    assert command.pop(0) == "clippy"
    assert main(command) == 0
    capsys.readouterr()
    again = load_manifest(data)
    assert again is not None
    check_shards(data, again)
    assert sorted(path.name for path in folder.iterdir()) == sorted(again.shards)  # and nothing was written beside them


def test_the_command_of_a_sentence_opens_storage_in_the_same_way() -> None:
    options = {"endpoint_url": "http://host:9000", "anon": True}
    data = DatasetConfig(url="s3://bucket/pairs", storage_options=options)
    arguments = shlex.split(index_command(data))[1:]
    assert data_config("clippy data index", parse(arguments)) == data


def test_a_second_index_reads_only_what_is_new(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path, name, **shard())
    data = DatasetConfig(url=str(tmp_path))
    first = index_dataset(data)
    assert first.added == ("a.parquet", "b.parquet")
    old = tmp_path / "a.parquet"
    times = old.stat()
    old.write_bytes(b"x" * times.st_size)  # as it was to a listing: whoever reads it again fails
    os.utime(old, ns=(times.st_atime_ns, times.st_mtime_ns))
    write(tmp_path, "aa.parquet", **shard(6))
    second = index_dataset(data)
    assert (second.added, second.changed, second.vanished) == (("aa.parquet",), (), ())
    assert second.manifest.shards == ("a.parquet", "aa.parquet", "b.parquet")
    assert second.manifest.rows.tolist() == [4, 4, 2, 4, 2, 4, 4, 2]


def test_a_manifest_that_cannot_be_written_can_lie_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", **shard())
    with pytest.raises(DataError, match=r"a\.parquet/m: the manifest cannot be written: .*; name .* data\.manifest"):
        index_dataset(DatasetConfig(url=str(tmp_path), manifest=f"{tmp_path}/a.parquet/m"))


def test_a_manifest_of_any_name_among_the_shards_is_none_of_them(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", **shard())
    data = DatasetConfig(url=str(tmp_path), manifest=f"{tmp_path}/manifest.parquet")
    index_dataset(data)
    assert index_dataset(data).manifest.shards == ("a.parquet",)


def test_new_shards_are_read_by_the_columns_of_the_others(tmp_path: Path) -> None:
    two = shard(alt=["t"] * 9 + [None])
    write(tmp_path, "a.parquet", **two)
    told = DatasetConfig(url=str(tmp_path), caption_column="alt")
    index_dataset(told)
    write(tmp_path, "b.parquet", **two)
    manifest = index_dataset(DatasetConfig(url=str(tmp_path))).manifest
    assert manifest.columns.caption == "alt"
    assert manifest.excluded == {"null_caption": 2}
    for name in ("a.parquet", "b.parquet"):  # nothing is left of what the columns were told for
        write(tmp_path, name, png=[b"x"] * 20, text=["t"] * 20)
    assert index_dataset(DatasetConfig(url=str(tmp_path))).manifest.columns.caption == "text"


def test_changed_and_vanished_shards_are_named_by_the_index(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet", "c.parquet"):
        write(tmp_path, name, **shard())
    data = DatasetConfig(url=str(tmp_path))
    before = index_dataset(data).manifest
    write(tmp_path, "b.parquet", **shard(caption=["other"] * 10))
    os.utime(tmp_path / "b.parquet", ns=(1, 1))
    (tmp_path / "c.parquet").unlink()
    index = index_dataset(data)
    assert (index.added, index.changed, index.vanished) == ((), ("b.parquet",), ("c.parquet",))
    assert index.manifest.digest != before.digest


def test_an_index_in_steps_equals_one_at_once(tmp_path: Path) -> None:
    data = DatasetConfig(url=str(tmp_path))
    for name in ("b.parquet", "a.parquet", "c.parquet"):
        write(tmp_path, name, **shard(caption=[name] * 9 + [None]))
        in_steps = index_dataset(data).manifest
    (tmp_path / "_manifest.parquet").unlink()
    at_once = index_dataset(data).manifest
    assert in_steps.summary() == at_once.summary()
    assert in_steps.excluded == {"null_caption": 3}


def test_rows_with_several_captions_count_when_they_have_one(tmp_path: Path) -> None:
    captions = [["a", "b"], [], None, ["c"], ["d"], ["e", None]]
    write(tmp_path, "a.parquet", **shard(6, caption=captions))
    manifest = index_dataset(DatasetConfig(url=str(tmp_path))).manifest
    assert manifest.usable_rows.tolist() == [2, 2]
    assert manifest.excluded == {"null_caption": 2}


def test_statistics_alone_settle_what_is_usable(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", **shard(status=["success"] * 10))
    path = tmp_path / "a.parquet"
    footer = pq.read_metadata(path)
    content = bytearray(path.read_bytes())
    content[4 : footer.row_group(0).column(0).data_page_offset + 50] = b"\0" * (
        footer.row_group(0).column(0).data_page_offset + 46
    )
    path.write_bytes(content)  # every page of the first column chunk is gone: an index that read it would fail
    assert index_dataset(DatasetConfig(url=str(tmp_path))).manifest.usable_rows.sum() == 10
