"""What the usual tools write imports whole and without an option, and trains."""

from __future__ import annotations

import csv
import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.columns import DataError
from pipelines.console import Console
from pipelines.prepare import prepare
from pipelines.recipe import load_recipe
from tests.pipelines.test_ingest import picture, read, rejects, run, tars
from tests.pipelines.test_loop import Recorder, new_state, train

__all__ = ["tars"]
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def train_two_steps(data: Path, overrides: list[str]) -> None:
    """In this process: what was imported is read and decoded by the code that Ray's workers run."""
    mine = [f"data.url={data}", "train.steps=2", "optim.warmup_steps=0", "optim.global_batch_size=16"]
    job = prepare(load_recipe("shapes", [*overrides, *mine, "scaling.num_workers=1"]), Console())
    state = new_state(job)
    assert train(job, state, Recorder(job))
    assert state.rows[0] == state.rows.sum() == 32


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
    train_two_steps(tmp_path / "out", overrides)

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
    train_two_steps(tmp_path / "parquet", overrides)


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
    train_two_steps(tmp_path / "from_bytes", overrides)


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


@pytest.mark.parametrize("status", [[200] * 4, [True] * 4])
def test_a_status_that_is_no_text_refuses_no_row(tmp_path: Path, status: list[object]) -> None:
    images = [picture(i) for i in range(4)]
    pq.write_table(pa.table({"image": images, "caption": ["a"] * 4, "status": status}), tmp_path / "a.parquet")
    for i, image in enumerate(images):
        (tmp_path / f"{i}.jpg").write_bytes(image)
    lines = [{"file_name": f"{i}.jpg", "caption": "a", "status": status[i]} for i in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("a.parquet", "a.jsonl"):
        summary = run(tmp_path / name, tmp_path / f"out-{name}")
        assert (summary.rows_written, summary.rejects) == (4, {})
