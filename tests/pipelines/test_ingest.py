"""Imports on Ray: what is refused is named with its cause, what stays stays whole, in one order, on disk and on S3."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.columns import DataError
from pipelines.console import Console
from pipelines.ingest.config import ImportConfig
from pipelines.ingest.run import ImportSummary, import_dataset
from pipelines.storage import locate

pytestmark = pytest.mark.ray


def picture(number: int, width: int = 80, height: int = 50, kind: str = "JPEG") -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


def run(source: Path | str, dest: Path | str, **fields: Any) -> ImportSummary:
    return import_dataset(ImportConfig(source=str(source), dest=str(dest), **fields), Console(io.StringIO()))


def read(dest: Path) -> pa.Table:
    """All rows, in order."""
    return pa.concat_tables([pq.read_table(file) for file in sorted(dest.glob("shard-*.parquet"))])


def rejects(dest: Path) -> list[dict[str, str]]:
    return pq.read_table(dest / "_rejects.parquet").to_pylist()


def shard_bytes(dest: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(dest.glob("shard-*.parquet"))}


def write_tars(folder: Path, tars: int, rows: int, make: Callable[[int], bytes] = picture) -> None:
    """webdataset's own writer: ``tars`` of ``rows`` pairs each."""
    from webdataset import ShardWriter

    folder.mkdir(parents=True)
    with ShardWriter(f"file:{folder}/%05d.tar", maxcount=rows, verbose=0) as writer:
        for i in range(tars * rows):
            writer.write({"__key__": f"{i:06d}", "jpg": make(i), "txt": f"caption {i}", "json": {"number": i}})


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tars of 20 pairs."""
    folder = tmp_path_factory.mktemp("tars") / "source"
    write_tars(folder, 5, 20)
    return folder


def write_every_mistake(folder: Path) -> dict[str, tuple[str, str]]:
    """Sources with one row for each cause, and two good ones; returns cause and key by source of row."""
    write_tars(folder / "wds", 1, 2)
    from webdataset import TarWriter

    bomb = picture(0, kind="PNG")
    header = b"IHDR" + 2 * (20_000).to_bytes(4, "big") + bomb[24:29]  # says that it is 20,000 pixels wide and high
    bomb = bomb[:12] + header + zlib.crc32(header).to_bytes(4, "big") + bomb[33:]
    with TarWriter(str(folder / "wds" / "00001.tar")) as writer:
        writer.write({"__key__": "a", "jpg": picture(1)})
        writer.write({"__key__": "b", "txt": "no image"})
        writer.write({"__key__": "c", "jpg": picture(1)[:400], "txt": "cut"})
        writer.write({"__key__": "d", "jpg": b"<html>", "txt": "a page"})
        writer.write({"__key__": "e", "png": bomb, "txt": "huge"})
        writer.write({"__key__": "f", "jpg": picture(1), "txt": "  "})
        writer.write({"__key__": "g", "jpg": picture(1), "txt": b"Gr\xfc\xdfe"})
        writer.write({"__key__": "h", "jpg": picture(1), "json": {"caption": None}})
    return {
        "00001.tar#a.jpg": ("incomplete_sample", "a"),
        "00001.tar#b": ("incomplete_sample", "b"),
        "00001.tar#c.jpg": ("truncated_image", "c"),
        "00001.tar#d.jpg": ("not_an_image", "d"),
        "00001.tar#e.png": ("too_large_image", "e"),
        "00001.tar#f.jpg": ("empty_caption", "f"),
        "00001.tar#g.jpg": ("not_text", "g"),
        "00001.tar#h.jpg": ("null_caption", "h"),
    }


@pytest.mark.usefixtures("ray_cluster")
def test_every_refused_row_is_named_with_its_cause(tmp_path: Path) -> None:
    expected = write_every_mistake(tmp_path)
    summary = run(tmp_path / "wds", tmp_path / "out")
    found = rejects(tmp_path / "out")
    assert {row["source"]: (row["cause"], row["key"]) for row in found} == expected
    assert all(row["message"] for row in found)
    assert (summary.rows_read, summary.rows_written, sum(summary.rejects.values())) == (10, 2, 8)

    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "1.jpg").write_bytes(picture(1))
    rows = ['{"path": "1.jpg", "caption": "a"}', '{"path": "2.jpg", "caption": "a"}', "{", '{"caption": "a"}']
    (tmp_path / "list" / "l.jsonl").write_text("\n".join([*rows, '{"path": "http://x/1.jpg", "caption": "a"}']))
    assert run(tmp_path / "list", tmp_path / "out2").rejects == {"missing_file": 2, "not_json": 1, "null_image": 1}
    assert [row["source"] for row in rejects(tmp_path / "out2")] == [f"l.jsonl#row {i}" for i in range(1, 5)]

    (tmp_path / "parquet").mkdir()
    table = pa.table({"key": ["x", "y", "z"], "jpg": [picture(1), None, picture(2)], "caption": ["a", "b", None]})
    table = table.append_column("status", pa.array(["failed_to_download", "success", "success"]))
    pq.write_table(table, tmp_path / "parquet" / "p.parquet")
    with pytest.raises(DataError, match=r"no row of .* is a usable pair .*_rejects\.parquet names each"):
        run(tmp_path / "parquet", tmp_path / "out3")
    assert [(row["key"], row["cause"], row["source"]) for row in rejects(tmp_path / "out3")] == [
        ("x", "status_not_success", "p.parquet#row 0"),
        ("y", "null_image", "p.parquet#row 1"),
        ("z", "null_caption", "p.parquet#row 2"),
    ]


@pytest.mark.usefixtures("ray_cluster")
def test_shuffle_is_a_permutation_fixed_by_its_seed(tars: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tars, tmp_path / name, shuffle=seed, row_group_rows=8, shard_mib=0.05)
    keys = {name: read(tmp_path / name).column("key").to_pylist() for name in "abc"}
    assert sorted(keys["a"]) == sorted(keys["c"]) == [f"{i:06d}" for i in range(100)]
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")
    assert keys["a"] != keys["c"]
    assert sum(int(key) == i for i, key in enumerate(keys["a"])) < 10  # a random permutation keeps one in place
    for row in read(tmp_path / "a").to_pylist():  # rows moved whole
        assert (row["caption"], row["image"]) == (f"caption {int(row['key'])}", picture(int(row["key"])))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("shuffle", [None, 5])
def test_of_twins_the_first_stays(tmp_path: Path, shuffle: int | None) -> None:
    write_tars(tmp_path / "tars", 3, 10, lambda i: picture(i % 12))
    summary = run(tmp_path / "tars", tmp_path / "out", deduplicate=True, shuffle=shuffle, row_group_rows=5)
    assert (summary.rows_read, summary.rows_written, summary.rejects) == (30, 12, {"duplicate": 18})
    assert sorted(read(tmp_path / "out").column("key").to_pylist()) == [f"{i:06d}" for i in range(12)]
    assert [row["key"] for row in rejects(tmp_path / "out")] == [f"{i:06d}" for i in range(12, 30)]


@pytest.mark.usefixtures("ray_cluster")
def test_only_larger_images_are_made_smaller(tmp_path: Path) -> None:
    def make(i: int) -> bytes:
        return picture(i, 300, 200 if i % 2 else 64)

    write_tars(tmp_path / "tars", 1, 6, make)
    assert run(tmp_path / "tars", tmp_path / "out", max_short_side=64).resized == 3
    for i, row in enumerate(read(tmp_path / "out").to_pylist()):
        image = Image.open(io.BytesIO(row["image"]))
        assert image.size == (row["width"], row["height"]) == ((96, 64) if i % 2 else (300, 64))
        assert (row["image"] == make(i)) == (i % 2 == 0)
        assert row["sha256"] == hashlib.sha256(make(i)).digest()  # of the image as it lay in the source
        if i % 2:
            expected = Image.open(io.BytesIO(make(i))).resize((96, 64), Image.Resampling.BICUBIC)
            difference = np.abs(np.asarray(image, np.int16) - np.asarray(expected, np.int16)).mean()
            assert difference < 4  # JPEG twice


@pytest.mark.usefixtures("ray_cluster")
def test_broken_files_are_named_or_skipped(tmp_path: Path) -> None:
    write_tars(tmp_path / "tars", 2, 5)
    cut = tmp_path / "tars" / "00001.tar"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:6000])
    with pytest.raises(DataError, match=r"00001\.tar: not a whole tar file"):
        run(tmp_path / "tars", tmp_path / "out")
    assert not list((tmp_path / "out").glob("shard-*"))
    summary = run(tmp_path / "tars", tmp_path / "out", skip_broken_files=True)  # goes on
    assert list(summary.broken_files) == ["00001.tar"]
    assert (summary.rows_read, summary.rows_written) == (5, 5)

    (tmp_path / "parquet").mkdir()
    table = pa.table({"image": [picture(i) for i in range(4)], "caption": list("abcd")})
    pq.write_table(table, tmp_path / "parquet" / "0.parquet")
    (tmp_path / "parquet" / "1.parquet").write_bytes((tmp_path / "parquet" / "0.parquet").read_bytes()[:-100])
    with pytest.raises(DataError, match=r"1\.parquet: not a readable Parquet file.*--skip-broken-files"):
        run(tmp_path / "parquet", tmp_path / "out2")
    assert list(run(tmp_path / "parquet", tmp_path / "out2", skip_broken_files=True).broken_files) == ["1.parquet"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_destination_of_another_origin_and_a_changed_source_are_refused(tars: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other" / "0.parquet")
    with pytest.raises(DataError, match=r"dest: .*/other holds Parquet of another origin"):
        run(tars, tmp_path / "other")
    with pytest.raises(DataError, match="lies within the source"):
        run(tars, tars / "out")

    write_tars(tmp_path / "tars", 2, 5)
    second = tmp_path / "tars" / "00001.tar"
    whole = second.read_bytes()
    second.write_bytes(whole[:6000])
    with pytest.raises(DataError, match="not a whole tar"):
        run(tmp_path / "tars", tmp_path / "out")
    second.write_bytes(whole)
    with pytest.raises(DataError, match=r"00001\.tar has [\d,]+ bytes, and it had 6,000 when the import to .* began"):
        run(tmp_path / "tars", tmp_path / "out")


@pytest.mark.usefixtures("ray_cluster")
def test_source_and_destination_on_s3(tars: Path, tmp_path: Path, s3: str) -> None:
    folder = locate("s3://bucket/import-source")
    for file in sorted(tars.iterdir()):
        (folder / file.name).write_bytes(file.read_bytes())
    run(tars, tmp_path / "local", row_group_rows=16, shard_mib=0.05)
    summary = run(
        "s3://bucket/import-source/{00000..00004}.tar", "s3://bucket/import-out", row_group_rows=16, shard_mib=0.05
    )
    assert summary.rows_written == 100
    written = {
        i.base_name: locate("s3://bucket/import-out") / i.base_name for i in locate("s3://bucket/import-out").list()
    }
    assert {"_manifest.parquet", "_import.json", "_rejects.parquet"} <= set(written)
    assert "_import" not in written
    shards = {n: hashlib.sha256(w.read_bytes()).hexdigest() for n, w in written.items() if n.startswith("shard-")}
    assert shards == shard_bytes(tmp_path / "local")

    (tmp_path / "list.csv").write_text(
        "".join(["path,caption\n", *(f"s3://bucket/pictures/{i}.jpg,{i}\n" for i in range(4))])
    )
    for i in range(4):
        (locate("s3://bucket/pictures") / f"{i}.jpg").write_bytes(picture(i))
    options = {"endpoint_url": s3, "region": "us-east-1"}
    assert run(tmp_path / "list.csv", tmp_path / "listed", storage_options=options).rows_written == 4
    with pytest.raises(ValueError, match="credentials do not belong"):
        run(tars, tmp_path / "never", storage_options={"secret": "x"})
