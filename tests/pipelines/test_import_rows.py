"""Single rows of an import, without Ray: one that is no pair is refused with its cause, and takes no other with it."""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.columns import DataError
from pipelines.ingest.config import ImportConfig
from pipelines.ingest.fetch import open_location
from pipelines.ingest.stage import part_name, stage_part
from pipelines.ingest.state import open_job
from pipelines.storage import locate
from tests.pipelines.test_import_sources import write_tar


def png(shade: int = 0, width: int = 8, height: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (width, height), shade).save(stream, "PNG")
    return stream.getvalue()


def stage(source: Path, **fields: Any) -> tuple[list[tuple[str, list[str]]], list[tuple[str, str]]]:
    """Key and captions of each row that an import of the source keeps, and key and cause of each it refuses."""
    dest = source.with_name(f"{source.name}-imported")
    config = ImportConfig(source=str(source), dest=str(dest), **fields)
    job, parts, _ = open_job(config, locate(str(dest)), lambda *_: None)
    kept: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for part in parts:
        staged = stage_part(job.config, job.source, job.staging, part)
        name = job.staging / part_name(part.index)
        kept += pq.read_table(f"{name.path}.parquet", columns=["key", "captions"]).to_pylist()
        refused += pq.read_table(f"{name.path}.rejects.parquet").to_pylist() if staged.rejects else []
    return [(row["key"], row["captions"]) for row in kept], [(row["key"], row["cause"]) for row in refused]


def write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for i in range(count):
        (folder / f"{i}.png").write_bytes(png(i))


def test_a_row_of_more_fields_than_the_header_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "source", 3)
    table = tmp_path / "source" / "a.csv"
    table.write_text("filepath,title\n0.png,a dog, running\n1.png,two,\n2.png,three\n")
    assert stage(table) == ([("a-1", ["two"]), ("a-2", ["three"])], [("a-0", "surplus_fields")])


def test_captions_of_json_lines_that_are_no_text_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "source", 7)
    captions = ['"a"', '[{"raw": "a dog"}]', '{"raw": "a dog"}', "NaN", '["b", NaN, null]', "null", "[]"]
    lines = [f'{{"file_name": "{i}.png", "caption": {caption}}}\n' for i, caption in enumerate(captions)]
    (tmp_path / "source" / "a.jsonl").write_text("".join(lines))
    kept, refused = stage(tmp_path / "source" / "a.jsonl")
    assert kept == [("a-0", ["a"]), ("a-4", ["b"])]
    causes = ["not_text", "not_text", "null_caption", "null_caption", "empty_caption"]
    assert refused == list(zip([f"a-{i}" for i in (1, 2, 3, 5, 6)], causes, strict=True))


def test_a_path_that_can_name_no_file_is_a_missing_file(tmp_path: Path) -> None:
    write_images(tmp_path / "source", 1)
    paths = ["0.png", "9" * 400, "odd://bucket/0.png", "s3://", ".", "0.png/1.png"]
    lines = [f'{{"file_name": "{path}", "caption": "a"}}\n' for path in paths]
    (tmp_path / "source" / "a.jsonl").write_text("".join(lines))
    kept, refused = stage(tmp_path / "source" / "a.jsonl")
    assert kept == [("a-0", ["a"])]
    assert refused == [(f"a-{i}", "missing_file") for i in range(1, len(paths))]


def test_paths_of_parquet_may_be_numbers(tmp_path: Path) -> None:
    write_images(tmp_path / "source", 1)
    (tmp_path / "source" / "7").write_bytes(png())
    pq.write_table(pa.table({"image": [7, None, 8], "caption": ["a", "b", "c"]}), tmp_path / "source" / "a.parquet")
    refused = [("a-1", "null_image"), ("a-2", "missing_file")]
    assert stage(tmp_path / "source" / "a.parquet") == ([("a-0", ["a"])], refused)


@pytest.mark.parametrize("empty", [("a.jsonl", ""), ("a.jsonl", "\r\n\n"), ("a.csv", "filepath,title\n")])
def test_a_listing_without_a_row_is_passed_over(tmp_path: Path, empty: tuple[str, str]) -> None:
    write_images(tmp_path / "source", 1)
    (tmp_path / "source" / empty[0]).write_text(empty[1])
    full = '{"file_name": "0.png", "caption": "a"}\r\n' if "jsonl" in empty[0] else "filepath,title\n0.png,a\n"
    (tmp_path / "source" / empty[0].replace("a.", "b.")).write_text(full)
    assert stage(tmp_path / "source") == ([("b-0", ["a"])], [])
    assert stage(tmp_path / "source" / empty[0]) == ([], [])


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_broken_file_can_be_skipped_where_it_is_the_first(tmp_path: Path, ending: str) -> None:
    write_images(tmp_path / "source", 1)
    (tmp_path / "source" / f"a.{ending}").write_bytes(b"\xff no table")
    if ending == "parquet":
        pq.write_table(pa.table({"image": [png()], "caption": ["a"]}), tmp_path / "source" / "b.parquet")
    else:
        (tmp_path / "source" / "b.csv").write_text("filepath,title\n0.png,a\n")
    with pytest.raises(DataError, match=rf"a\.{ending}: .*--skip-broken-files leaves such files out"):
        stage(tmp_path / "source")
    assert stage(tmp_path / "source", skip_broken_files=True) == ([("b-0", ["a"])], [])


@pytest.mark.parametrize("ending", ["tar", "parquet", "csv"])
def test_an_outage_of_storage_breaks_no_file(
    tmp_path: Path, s3: str, storage_proxy: ModuleType, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    bucket = f"s3://bucket/outage-{ending}"
    (locate(bucket) / "0.png").write_bytes(png())
    file = tmp_path / f"a.{ending}"
    if ending == "csv":
        file.write_text("filepath,title\n0.png,a\n")
    elif ending == "parquet":
        pq.write_table(pa.table({"image": [png()], "caption": ["a"]}), file)
    else:
        write_tar(file, [("0.png", png()), ("0.txt", b"a")])
    (locate(bucket) / file.name).write_bytes(file.read_bytes())

    with storage_proxy.start_proxy(s3) as endpoint:
        config = ImportConfig(
            source=f"{bucket}/{file.name}",
            storage_options={"endpoint_url": endpoint, "region": "us-east-1"},
            dest=str(tmp_path / "out"),
            skip_broken_files=True,
        )
        job, parts, _ = open_job(config, locate(config.dest), lambda *_: None)
    monkeypatch.setattr("pipelines.ingest.stage._ATTEMPTS", 1)
    port = int(endpoint.rpartition(":")[2])
    refusing = storage_proxy.start_proxy(s3, fail_every=1, port=port)
    sentence = r"the object store does not hand it out: .*; once it does, the same command goes on"
    with nullcontext() if ending == "csv" else refusing, pytest.raises(DataError, match=sentence):
        stage_part(job.config, job.source, job.staging, parts[0])
    with storage_proxy.start_proxy(s3, port=port):
        assert stage_part(job.config, job.source, job.staging, parts[0]).rows == 1


@pytest.mark.parametrize("kind", ["text", "list"])
def test_captions_of_parquet_that_are_no_utf8_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "source").mkdir()
    latin = pa.array(["Grüße".encode("latin-1"), b"a"])
    texts: pa.Array = pa.StringArray.from_buffers(2, *latin.buffers()[1:])  # as writers that do not check leave it
    if kind == "list":
        texts = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), texts)
    pq.write_table(pa.table({"image": [png(), png(1)], "caption": texts}), tmp_path / "source/a.parquet")
    kept, refused = stage(tmp_path / "source")
    assert [captions for _, captions in kept] == [["a"]]
    assert [cause for _, cause in refused] == ["not_text"]


def test_columns_of_one_name_are_told(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    table = pa.Table.from_arrays([pa.array([png()]), pa.array(["a"]), pa.array(["b"])], ["image", "caption", "caption"])
    pq.write_table(table, tmp_path / "source" / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: has 2 columns of the name 'caption'; rename all but one"):
        stage(tmp_path / "source")


def test_json_of_endless_brackets_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "source", 2)
    (tmp_path / "source" / "0.json").write_text("[" * 100_000)
    (tmp_path / "source" / "1.txt").write_text("a")
    assert stage(tmp_path / "source") == ([("1", ["a"])], [("0", "incomplete_sample")])
    good = '{"file_name": "1.png", "caption": "a"}'
    (tmp_path / "source" / "a.jsonl").write_text("[" * 100_000 + f"\n{good}\n")
    assert stage(tmp_path / "source" / "a.jsonl") == ([("a-1", ["a"])], [("a-0", "not_json")])


def test_options_of_fsspec_within_options_open_a_place() -> None:
    options = {"client_kwargs": {"region_name": "x"}}
    place = open_location("memory://bucket/folder", options)
    assert place.path.endswith("bucket/folder")
    assert place.filesystem is open_location("memory://bucket/other", options).filesystem


@pytest.mark.parametrize("name", ["0.tar.gz", "0.TAR.GZ", "0.TGZ"])
def test_a_compressed_tar_is_read_whatever_the_case_of_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").mkdir()
    write_tar(tmp_path / "source" / name, [("1.png", png()), ("1.txt", b"a")], mode="w:gz")
    assert stage(tmp_path / "source") == ([("1", ["a"])], [])


def test_the_byte_order_mark_of_a_text_is_no_part_of_its_caption(tmp_path: Path) -> None:
    write_images(tmp_path / "source", 2)
    (tmp_path / "source" / "0.txt").write_bytes(b"\xef\xbb\xbfa")
    (tmp_path / "source" / "1.txt").write_bytes(b"\xef\xbb\xbf\r\n")
    assert stage(tmp_path / "source") == ([("0", ["a"])], [("1", "empty_caption")])
