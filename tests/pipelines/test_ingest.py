"""Imports on Ray: what the usual tools write comes over whole, and survives kills, twins, giants and broken files."""

from __future__ import annotations

import csv
import functools
import hashlib
import http.server
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
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
from tests.pipelines.test_train import descendants

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


def train_two_steps(data: Path, overrides: list[str], name: str) -> None:
    from pipelines.recipe import load_recipe
    from pipelines.train import run as train

    mine = [f"data.url={data}", "train.steps=2", "optim.warmup_steps=0", "optim.global_batch_size=16"]
    summary = train(load_recipe("shapes", [*overrides, *mine, f"name={name}", "tracking.enabled=false"]), Console())
    assert (summary.status, summary.rows_seen, summary.invalid_rows) == ("finished", 32, {})


@pytest.mark.usefixtures("ray_cluster")
def test_webdataset_tars_import_without_an_option_and_train(tars: Path, tmp_path: Path, overrides: list[str]) -> None:
    summary = run(tars, tmp_path / "out")
    assert (summary.format, summary.files, summary.rows_read, summary.rows_written) == ("wds", 5, 100, 100)
    table = read(tmp_path / "out")
    assert table.column("key").to_pylist() == [f"{i:06d}" for i in range(100)]
    assert table.column("caption").to_pylist() == [f"caption {i}" for i in range(100)]
    assert table.column("image").to_pylist() == [picture(i) for i in range(100)]
    assert table.schema.field("image").type == pa.large_binary()
    assert (table["width"][0].as_py(), table["height"][0].as_py()) == (80, 50)
    assert rejects(tmp_path / "out") == []
    assert not (tmp_path / "out" / "_import").exists()
    train_two_steps(tmp_path / "out", overrides, "wds")

    before = (tmp_path / "out" / "_import.json").stat().st_mtime_ns
    assert run(tars, tmp_path / "out") == summary  # again: nothing is done
    assert (tmp_path / "out" / "_import.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"other options \(shuffle: None -> 3\)"):
        run(tars, tmp_path / "out", shuffle=3)

    some = run(f"{tars}/{{00001..00002}}.tar", tmp_path / "some", row_group_rows=16, shard_mib=0.02)
    files = [pq.ParquetFile(file) for file in sorted((tmp_path / "some").glob("shard-*.parquet"))]
    assert (some.rows_written, some.shards) == (40, len(files))
    assert [f.metadata.row_group(i).num_rows for f in files for i in range(f.num_row_groups)] == [16, 16, 8]
    assert len(files) > 1
    assert read(tmp_path / "some").column("key").to_pylist() == [f"{i:06d}" for i in range(20, 60)]


@pytest.fixture(scope="module")
def img2dataset_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the real img2dataset makes of 18 addresses, of which 17 has no file and 16 no picture, in three formats."""
    folder = tmp_path_factory.mktemp("img2dataset")
    (folder / "web").mkdir()
    for i in range(16):
        (folder / "web" / f"{i}.jpg").write_bytes(picture(i))
    (folder / "web" / "16.jpg").write_bytes(b"<html>not found</html>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder / "web")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with (folder / "urls.csv").open("w", newline="") as file:
        urls = [[f"http://127.0.0.1:{server.server_port}/{i}.jpg", f"caption {i}"] for i in range(18)]
        csv.writer(file).writerows([["url", "caption"], *urls])
    formats = ("files", "parquet", "webdataset")
    code = (
        "import sys; from img2dataset import download\n"
        "if __name__ == '__main__':\n"
        "    download(url_list='urls.csv', input_format='csv', caption_col='caption', output_format=sys.argv[1],\n"
        "             output_folder=sys.argv[1], processes_count=1, thread_count=4, resize_mode='no',\n"
        "             number_sample_per_shard=10)"
    )
    (folder / "download.py").write_text(code)
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    runs = [
        subprocess.Popen(
            [sys.executable, "download.py", name],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name in formats
    ]
    outputs = [process.communicate(timeout=180)[0] for process in runs]
    server.shutdown()
    assert all(process.returncode == 0 for process in runs), outputs
    return folder


@pytest.mark.usefixtures("ray_cluster")
def test_img2dataset_output_imports_without_an_option_and_trains(
    img2dataset_output: Path, tmp_path: Path, overrides: list[str]
) -> None:
    for folder, format in (("files", "files"), ("parquet", "parquet"), ("webdataset", "wds")):
        dest = tmp_path / folder
        summary = run(img2dataset_output / folder, dest)
        assert (summary.format, summary.rows_written) == (format, 16)
        # The failed downloads are rows of its Parquet alone: its tars and folders do not have them.
        assert summary.rejects == ({"status_not_success": 2} if format == "parquet" else {})
        table = read(dest)
        assert sorted(table.column("caption").to_pylist()) == sorted(f"caption {i}" for i in range(16))
        assert len(set(table.column("key").to_pylist())) == 16
        assert {(w, h) for w, h in zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)} == {
            (80, 50)
        }
    images = [set(read(tmp_path / folder).column("image").to_pylist()) for folder in ("files", "parquet", "webdataset")]
    assert images[0] == images[1] == images[2]
    train_two_steps(tmp_path / "parquet", overrides, "img2dataset")


@pytest.mark.usefixtures("ray_cluster")
def test_hugging_face_parquet_imports_without_an_option_and_trains(tmp_path: Path, overrides: list[str]) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    (tmp_path / "paths" / "images").mkdir(parents=True)
    (tmp_path / "bytes").mkdir()
    features = Features({"image": ImageFeature(), "text": Value("string")})
    captions = [f"caption {i}" for i in range(32)]
    for i in range(32):
        (tmp_path / "paths" / "images" / f"{i}.jpg").write_bytes(picture(i))
    values: dict[str, list[Any]] = {
        "bytes": [{"bytes": picture(i), "path": f"{i}.jpg"} for i in range(32)],
        "paths": [f"images/{i}.jpg" for i in range(32)],
    }
    for name, images in values.items():
        parquet = tmp_path / name / "train-00000-of-00001.parquet"
        Dataset.from_dict({"image": images, "text": captions}, features).to_parquet(parquet, batch_size=10)
        held = [image["bytes"] is not None for image in pq.read_table(parquet).column("image").to_pylist()]
        assert held == [name == "bytes"] * 32
        assert run(tmp_path / name, tmp_path / f"from_{name}").rows_written == 32
        imported = read(tmp_path / f"from_{name}")
        assert imported.column("image").to_pylist() == [picture(i) for i in range(32)]
        assert imported.column("caption").to_pylist() == captions
        assert imported.column("key").to_pylist() == [f"train-00000-of-00001-{i}" for i in range(32)]
    train_two_steps(tmp_path / "from_bytes", overrides, "huggingface")


@pytest.mark.usefixtures("ray_cluster")
def test_listings_of_files_and_lists_of_captions(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(6):
        (tmp_path / "images" / f"{i}.png").write_bytes(picture(i, kind="PNG"))
    (tmp_path / "a.csv").write_text("filepath,title\n" + "".join(f'images/{i}.png,"{i}, one\ntwo"\n' for i in range(6)))
    (tmp_path / "a.tsv").write_text(
        "id\tpath\tcaption\n" + "".join(f"k{i}\t{tmp_path}/images/{i}.png\t{i}\n" for i in range(6))
    )
    lines = [{"file_name": f"images/{i}.png", "text": [f"{i}", " ", "also"] if i % 2 else f"{i}"} for i in range(6)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    expected = {
        "a.csv": ([f"a-{i}" for i in range(6)], [f"{i}, one\ntwo" for i in range(6)]),
        "a.tsv": ([f"k{i}" for i in range(6)], [f"{i}" for i in range(6)]),
    }
    for name, (keys, captions) in expected.items():
        assert run(tmp_path / name, tmp_path / f"out-{name}").rejects == {}
        table = read(tmp_path / f"out-{name}")
        assert (table.column("key").to_pylist(), table.column("caption").to_pylist()) == (keys, captions)
        assert table.column("image").to_pylist() == [picture(i, kind="PNG") for i in range(6)]
    assert run(tmp_path / "a.jsonl", tmp_path / "lists").rows_written == 6
    table = read(tmp_path / "lists")
    assert table.schema.field("caption").type == pa.list_(pa.string())
    assert table.column("caption").to_pylist() == [[f"{i}", "also"] if i % 2 else [f"{i}"] for i in range(6)]


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


def start(source: Path, dest: Path) -> subprocess.Popen[str]:
    """``clippy data import`` as a user starts it, with a Ray of its own."""
    options = ["--shuffle", "3", "--deduplicate", "--row-group-rows", "8", "--shard-mib", "0.25"]
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "data", "import", str(source), str(dest), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_when(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """SIGKILL to the process and all below it."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for pid in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty tars of 25 pairs, one image in ten a twin, one a broken one."""

    def make(i: int) -> bytes:
        whole = picture(i - 1 if i % 10 == 4 else i, 480, 360)
        return whole[:900] if i % 10 == 7 else whole

    folder = tmp_path_factory.mktemp("larger") / "source"
    write_tars(folder, 20, 25, make)
    return folder


@pytest.mark.usefixtures("ray_cluster")
def test_killed_at_random_and_started_again_equals_never_killed(larger: Path, tmp_path: Path) -> None:
    undisturbed, dest = tmp_path / "undisturbed", tmp_path / "out"
    options: dict[str, Any] = {"shuffle": 3, "deduplicate": True, "row_group_rows": 8, "shard_mib": 0.25}
    expected = run(larger, undisturbed, **options)
    assert (expected.rows_read, expected.rejects) == (500, {"truncated_image": 50, "duplicate": 50})
    pattern, most = random.choice([("_import/part-*.json", 19), ("shard-*.parquet", expected.shards - 2)])
    enough = random.randint(1, most)
    kill_when(start(larger, dest), lambda: len(list(dest.glob(pattern))) >= enough)
    assert (dest / "_import" / "import.json").exists()
    assert not (dest / "_import.json").exists()
    there = {file.name: file.stat().st_mtime_ns for file in dest.glob("shard-*.parquet")}
    staged = len(list(dest.glob("_import/part-*.json")))

    log = io.StringIO()
    summary = import_dataset(ImportConfig(source=str(larger), dest=str(dest), **options), Console(log))
    assert f"going on: {staged} of 20 parts are staged already" in log.getvalue()
    for name in ("rows_read", "rows_written", "rejects", "shards", "bytes", "manifest_digest"):
        assert getattr(summary, name) == getattr(expected, name)
    assert shard_bytes(dest) == shard_bytes(undisturbed)
    assert rejects(dest) == rejects(undisturbed)
    assert {name: (dest / name).stat().st_mtime_ns for name in there} == there  # what was whole stays
    keys = read(dest).column("key").to_pylist() + [row["key"] for row in rejects(dest)]
    assert sorted(keys) == [f"{i:06d}" for i in range(500)]
    assert sorted(file.name for file in dest.iterdir() if not file.name.startswith("shard-")) == [
        "_import.json",
        "_manifest.parquet",
        "_rejects.parquet",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "out"], "nowhere does not exist; name a folder"),
        (["{3..1}.tar", "out"], "counts down; write {1..3}"),
        (
            ["x", "out", "--row-group-rows", "0"],
            "row_group_rows (from the command line): must be greater than 0 (got 0)",
        ),
        (["x", "out", "--storage-option", "secret=1"], "credentials do not belong"),
        (["x", "out", "--dest-storage-option", "anon"], "must have the form"),
        (["s3://", "out"], "names no bucket"),
    ],
)
def test_mistakes_are_one_sentence(
    clippy_command: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], sentence: str
) -> None:
    result = clippy_command("data", "import", *arguments)
    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("out").exists()


def test_the_command_prints_its_summary_as_json(
    tars: Path, tmp_path: Path, clippy_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    arguments = ("data", "import", f"{tars}/00000.tar", str(tmp_path / "out"), "--max-short-side", "32")
    first = clippy_command(*arguments, "--json")
    summary = json.loads(first.stdout)
    assert (summary["rows_read"], summary["rows_written"], summary["resized"]) == (20, 20, 20), first.stderr
    assert "images/s" in first.stderr
    again = clippy_command(*arguments)
    assert "imported already" in again.stderr
    assert f"manifest_digest  {summary['manifest_digest']}" in again.stdout
