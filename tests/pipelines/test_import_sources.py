"""What an import reads, without Ray: names, tars, columns, captions, and the plan of shards."""

from __future__ import annotations

import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.columns import DataError
from pipelines.console import Console
from pipelines.ingest.config import Format, ImportConfig
from pipelines.ingest.fetch import fetch_files
from pipelines.ingest.images import check_image
from pipelines.ingest.plan import find_duplicates, plan_shards
from pipelines.ingest.run import import_dataset
from pipelines.ingest.sources import expand_braces, list_source
from pipelines.ingest.stage import StagedPart, read_captions
from pipelines.ingest.state import held
from pipelines.ingest.tables import iterate_records, table_columns
from pipelines.ingest.tar import tar_rows
from pipelines.storage import locate


def config(source: Path | str = "source", **fields: Any) -> ImportConfig:
    return ImportConfig(source=str(source), dest="dest", **fields)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("plain.tar", ["plain.tar"]),
        ("{008..011}.tar", ["008.tar", "009.tar", "010.tar", "011.tar"]),
        ("s3://b/{0..2}/x", ["s3://b/0/x", "s3://b/1/x", "s3://b/2/x"]),
        ("{a,b}/{1..2}.tar", ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]),
        ("{00000..00000}.tar", ["00000.tar"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    "pattern", ["{1..}.tar", "{5..1}.tar", "{{a,b}}", "a{b", "{0..99999999}.tar", "{0..999999}{1..2}"]
)
def test_wrong_braces_are_named(pattern: str) -> None:
    with pytest.raises(DataError, match="source: "):
        expand_braces(pattern)


def write_tar(
    path: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT, mode: Literal["w", "w:gz"] = "w"
) -> None:
    with tarfile.open(path, mode, format=format) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5  # a fraction makes an extended header, as webdataset writes
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_samples_of_a_tar(tmp_path: Path, format: int) -> None:
    long = "f" * 80 + "/" + "ü" * 90
    write_tar(
        tmp_path / "0.tar",
        [
            ("a/1.jpg", b"one"),
            ("a/1.txt", "eins ß".encode()),
            ("a/1.npy", b"x" * 1000),
            ("a/2.PNG", b"two"),
            ("a/2.json", b'{"caption": ["x", "y"], "uid": 7}'),
            ("._a.jpg", b"of another system"),
            ("Makefile", b"no sample"),
            (f"{long}.webp", b"three"),
            (f"{long}.txt", b"drei"),
            ("4.jpg", b"no caption"),
            ("5.txt", b"no image"),
            ("6.left.jpg", b"six"),
            ("6.txt", b"sechs"),
            ("7.jpg", b"seven"),
            ("7.txt", b"sieben"),
            ("7.jpg", b"seven again"),
            ("7.txt", b"nochmal"),
        ],
        format,
    )
    rows = list(tar_rows(locate(str(tmp_path / "0.tar")), "0.tar", config(key_column="uid")))
    assert [(row.key, row.image, row.caption) for row in rows if row.cause is None] == [
        ("a/1", b"one", "eins ß".encode()),
        ("7", b"two", ["x", "y"]),
        (long, b"three", b"drei"),
        ("6", b"six", b"sechs"),
        ("7", b"seven", b"sieben"),
        ("7", b"seven again", b"nochmal"),
    ]
    refused = [row for row in rows if row.cause is not None]
    assert [(row.source, row.cause) for row in refused] == [
        ("0.tar#4.jpg", "incomplete_sample"),
        ("0.tar#5", "incomplete_sample"),
    ]
    assert "has no caption" in refused[0].message
    assert "has no image" in refused[1].message


def test_members_of_a_tar_can_be_told(tmp_path: Path) -> None:
    members = [("1.jpg", b"a"), ("1.small.jpg", b"b"), ("1.txt", b"c"), ("1.alt", b"d"), ("1.json", b'{"long": "e"}')]
    write_tar(tmp_path / "0.tar", members)
    location = locate(str(tmp_path / "0.tar"))
    (row,) = tar_rows(location, "0.tar", config(image_column="small.jpg", caption_column="alt"))
    assert (row.image, row.caption) == (b"b", b"d")
    (row,) = tar_rows(location, "0.tar", config(caption_column="long"))
    assert (row.image, row.caption) == (b"a", "e")


def test_a_tar_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [(f"{i}.{end}", b"x" * 700) for i in range(3) for end in ("jpg", "txt")])
    whole = (tmp_path / "0.tar").read_bytes()
    end_mark = -(-len(whole.rstrip(b"\0")) // 512) * 512
    for size in [*range(0, end_mark, 97), *range(0, end_mark, 512), end_mark]:
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut\.tar: not a whole tar file"):
            list(tar_rows(locate(str(tmp_path / "cut.tar")), "cut.tar", config()))
    for spoiled in (whole + whole, whole[:512] + b"?" + whole[513:], b"no tar at all, but long enough" * 40):
        (tmp_path / "cut.tar").write_bytes(spoiled)
        with pytest.raises(DataError, match=r"cut\.tar: not a whole tar file"):
            list(tar_rows(locate(str(tmp_path / "cut.tar")), "cut.tar", config()))


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (
            {"jpg": [b""], "caption": ["a"], "txt": ["b"], "key": ["k"], "status": ["success"]},
            ("jpg", "caption", "key"),
        ),
        ({"photo": [{"bytes": b"", "path": "x"}], "text": ["a"]}, ("photo", "text", None)),
        ({"image": [b""], "TEXT": ["a"], "URL": ["http://x"], "id": [3]}, ("image", "TEXT", "id")),
        ({"image": [b""], "captions": [["a", "b"]]}, ("image", "captions", None)),
        ({"image_path": ["a.jpg"], "title": ["a"], "uid": ["u"]}, ("image_path", "title", "uid")),
        ({"url": ["images/a.jpg"], "caption": ["a"]}, ("url", "caption", None)),
    ],
)
def test_columns_of_parquet_are_found_by_type_and_name(
    tmp_path: Path, table: dict[str, list[Any]], found: tuple[str, str, str | None]
) -> None:
    pq.write_table(pa.table(table), tmp_path / "0.parquet")
    columns = table_columns(config(), locate(str(tmp_path / "0.parquet")), "parquet")
    assert (columns.image, columns.caption, columns.key) == found


def test_columns_that_are_missing_are_named(tmp_path: Path) -> None:
    def find(table: dict[str, list[Any]], **told: str) -> None:
        pq.write_table(pa.table(table), tmp_path / "0.parquet")
        table_columns(config(**told), locate(str(tmp_path / "0.parquet")), "parquet")

    with pytest.raises(DataError, match=r"0\.parquet: has no column of images .* --image-column"):
        find({"number": [1.5], "caption": ["a"]})
    with pytest.raises(DataError, match="'url' holds web addresses; download them first"):
        find({"url": ["https://x/1.jpg"], "caption": ["a"]})
    with pytest.raises(
        DataError, match=r"has no column caption \(.*it has image, words; name it with --caption-column"
    ):
        find({"image": [b""], "words": ["a"]})
    with pytest.raises(DataError, match="has no column 'alt'"):
        find({"image": [b""], "caption": ["a"]}, caption_column="alt")
    with pytest.raises(DataError, match="has no column 'pic' of images or paths"):
        find({"image": [b""], "caption": ["a"]}, image_column="pic")


def test_csv_tsv_and_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufeffFilePath,Caption\n1.jpg,"two\nlines, one comma"\n\n2.jpg\n')
    (tmp_path / "b.csv").write_text("filepath\ttitle\n1.jpg\ta, b\n")  # as open_clip reads by default
    (tmp_path / "c.jsonl").write_text('{"file_name": "1.jpg"}\n\n{"text": ["a", "b"]}\nbroken\n[1]\n')
    a, b, c = (locate(str(tmp_path / name)) for name in ("a.csv", "b.csv", "c.jsonl"))
    assert list(iterate_records(a, "csv")) == [
        (0, {"FilePath": "1.jpg", "Caption": "two\nlines, one comma"}),
        (1, {"FilePath": "2.jpg"}),
    ]
    assert list(iterate_records(b, "csv")) == [(0, {"filepath": "1.jpg", "title": "a, b"})]
    assert [record for _, record in iterate_records(c, "jsonl")] == [
        {"file_name": "1.jpg"},
        {"text": ["a", "b"]},
        None,
        None,
    ]
    assert table_columns(config(), a, "csv").caption == "Caption"
    assert table_columns(config(), c, "jsonl").image == "file_name"
    (tmp_path / "latin.csv").write_bytes("filepath,title\n1.jpg,Gr\xfc\xdfe\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv: not text in UTF-8"):
        list(iterate_records(locate(str(tmp_path / "latin.csv")), "csv"))


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_stray_quotation_mark_takes_no_row_with_it(tmp_path: Path, ending: Format) -> None:
    mark = "," if ending == "csv" else "\t"
    table = locate(str(tmp_path / f"a.{ending}"))

    def read(*rows: str) -> list[Any]:
        lines = ["filepath|title", *(f"{i}.jpg|{row}" for i, row in enumerate(rows))]
        Path(table.path).write_text("\n".join(lines).replace("|", mark) + "\n")
        return [record["title"] for _, record in iterate_records(table, ending) if record is not None]

    assert read('"so" he said', "a", '"of ""two""\nlines"', 'b "c"') == ["so he said", "a", 'of "two"\nlines', 'b "c"']
    for rows in (["a", '"open', "b", "c"], ["a", '"open', 'the "big" dog', "c"]):
        with pytest.raises(
            DataError, match=rf"a\.{ending}: cannot be read: line 3 begins a field with a quotation mark"
        ):
            read(*rows)


def test_what_cannot_be_told_is_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source: .*nowhere does not exist"):
        list_source(config(tmp_path / "nowhere"))
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"00001\.tar and 1 more does not exist"):
        list_source(config(f"{tmp_path}/{{00000..00002}}.tar"))
    (tmp_path / "list.csv").write_text("filepath,title\n1.jpg,a\n")
    with pytest.raises(DataError, match="1 wds and 1 csv files; say which with --format wds"):
        list_source(config(tmp_path))
    assert list_source(config(tmp_path, format="csv")).files[0].name == "list.csv"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to import"):
        list_source(config(tmp_path / "empty"))


def test_a_strip_too_long_for_a_jpeg_keeps_its_bytes() -> None:
    stream = io.BytesIO()
    Image.new("L", (17, 80_000)).save(stream, "PNG")
    image = stream.getvalue()
    assert check_image(image, 16, 92, True) == (image, 17, 80_000)  # 16 x 75,294


def test_captions() -> None:
    assert read_captions("a") == ["a"]
    assert read_captions([" ", None, "b", "c"]) == ["b", "c"]
    assert read_captions("Grüße".encode()) == ["Grüße"]
    assert read_captions(7) == ["7"]
    assert read_captions(json.loads('"half \\ud83d"')) == ["half ?"]
    for caption, cause in ((None, "null_caption"), (" \n", "empty_caption"), ([], "empty_caption"), ({}, "not_text")):
        with pytest.raises(ValueError, match="caption") as error:
            read_captions(caption or caption)
        assert getattr(error.value, "cause") == cause  # noqa: B009
    with pytest.raises(ValueError, match="no UTF-8"):
        read_captions(b"\xff")


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=8),
    row_group_rows=st.integers(1, 12),
    shard_bytes=st.integers(1, 400),
    seed=st.none() | st.integers(0, 2**63 - 1),
    data=st.data(),
)
def test_the_plan_writes_each_kept_row_once_in_equal_groups(
    groups: list[list[int]], row_group_rows: int, shard_bytes: int, seed: int | None, data: st.DataObject
) -> None:
    staged = [StagedPart(i, sum(rows), rows, 10 * sum(rows), {}, False, 0) for i, rows in enumerate(groups)]
    left_out = [np.array(data.draw(st.lists(st.booleans(), min_size=p.rows, max_size=p.rows)), bool) for p in staged]
    plan = plan_shards(staged, left_out, row_group_rows, shard_bytes, seed)
    kept = {
        (part.index, group): int((~left_out[part.index][start : start + rows]).sum())
        for part in staged
        for group, (rows, start) in enumerate(zip(part.groups, np.cumsum([0, *part.groups]), strict=False))
    }
    seen = []
    for shard in range(plan.shards):
        rows = [
            (part, group, row)
            for part, group, first, count in zip(*(array.tolist() for array in plan.chunks(shard)), strict=True)
            for row in range(first, first + count)
        ]
        assert len(rows) == plan.bounds[shard + 1] - plan.bounds[shard] > 0
        assert shard == plan.shards - 1 or len(rows) % row_group_rows == 0
        assert 10 * len(rows) <= max(
            shard_bytes, 10 * row_group_rows
        )  # ten bytes a row: a group at least, no group too many
        seen += rows
    everything = [(*place, row) for place, count in kept.items() for row in range(count)]
    assert seen == everything if seed is None else sorted(seen) == everything


@given(st.lists(st.lists(st.integers(0, 3), max_size=8), max_size=5))
def test_of_equal_hashes_the_first_in_source_order_stays(parts: list[list[int]]) -> None:
    hashes = [np.array([(value, value // 2) for value in part], np.uint64).reshape(-1, 2) for part in parts]
    positions = [np.arange(len(part))[::-1].copy() for part in parts]  # staged in another order than read
    seen: set[int] = set()
    for part, left_out in zip(parts, find_duplicates(hashes, positions), strict=True):
        for value, is_left_out in list(zip(part, left_out.tolist(), strict=True))[::-1]:
            assert is_left_out == (value in seen)
            seen.add(value)


def test_a_file_named_twice_is_read_once_and_one_named_is_never_hidden(tmp_path: Path) -> None:
    for name in ("a/0.tar", "a/_1.tar", "_b/2.tar", "_b/.3/4.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def names(source: str, **told: Any) -> list[str]:
        return [file.name for file in list_source(config(f"{tmp_path}/{source}", **told)).files]

    assert names("a") == ["0.tar"]
    assert names("{a,a/0.tar,a}") == ["a/0.tar"]
    assert names("a/_1.tar") == names("a/_1.tar", format="wds") == ["_1.tar"]
    assert names("{a,_b}") == ["_b/2.tar", "a/0.tar"]


def test_a_name_that_is_no_utf8_is_shown(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfc\xdfe.jpg"))).write_bytes(b"")
    with pytest.raises(DataError, match=r"a file whose name is no UTF-8, b'.*gr\\xfc\\xdfe.jpg'; rename it"):
        list_source(config(tmp_path))


def test_paths_with_dots_are_found_on_an_object_store_too() -> None:
    folder = locate("memory://bucket/list")
    (locate("memory://bucket/images") / "1.jpg").write_bytes(b"one")
    (folder / "2.jpg").write_bytes(b"two")
    with ThreadPoolExecutor(2) as pool:
        found = fetch_files(["../images/1.jpg", "./2.jpg", "a/../2.jpg", "2.jpg"], [folder.url], {}, pool)
    assert found == [b"one", b"two", b"two", b"two"]


def test_one_command_at_a_time_imports_into_a_folder(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(b"")
    told, dest = config(tmp_path / "00000.tar").model_copy(update={"dest": str(tmp_path / "out")}), tmp_path / "out"
    with held(locate(str(dest))):
        with pytest.raises(DataError, match=r"out: another command is importing into this folder"):
            import_dataset(told, Console(io.StringIO()))
        assert list(dest.iterdir()) == []
    assert not dest.exists()  # nothing came of it
    dest.mkdir()
    for _ in range(2):
        with held(locate(str(dest))):
            pass
    assert dest.exists()
