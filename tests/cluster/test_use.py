"""``clippy classify``, ``segment`` and ``group`` on a user's pictures: results, files, and every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clippy import pictures
from clippy.model import CLIPpy
from cluster.cli import main
from tests.clippy.test_model import build, config
from tests.clippy.test_pictures import noise

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder; its weights are random."""
    folder = tmp_path_factory.mktemp("model")
    build(config()).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three pictures and what else may lie there; the current folder is the one around it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(noise(60, 90, seed=1)).save(folder / "b.jpg", quality=95)
    Image.fromarray(noise(70, 40, seed=2)).save(folder / "a.png")
    Image.fromarray(noise(40, 40, seed=3)).save(folder / "B.webp")
    Image.fromarray(noise(40, 40, seed=4)).save(folder / "more" / "b.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("nor this")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process and read its JSON."""

    def command(*arguments: object) -> Any:
        assert main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return command


@pytest.fixture
def server(photos: Path) -> Iterator[str]:
    """The photos over HTTP."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(photos))
    handler.func.log_message = lambda *_: None  # type: ignore[method-assign]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_classify_tells_the_best_labels(run: Run, model: Path, photos: Path) -> None:
    result = run("classify", model, "photos", "--labels", "dax, wug,sand", "--top", 2, "--templates", "{}", "a {}")
    assert result["model"] == str(model)
    assert [answer["image"] for answer in result["images"]] == ["photos/B.webp", "photos/a.png", "photos/b.jpg"]
    loaded = CLIPpy.from_pretrained(model)
    for answer in result["images"]:
        wanted = pictures.classify_picture(loaded, answer["image"], ["dax", "wug", "sand"], ["{}", "a {}"])
        assert answer["labels"] == [pytest.approx(guess.__dict__) for guess in wanted[:2]]


def test_segment_writes_masks_and_pictures(run: Run, model: Path, photos: Path) -> None:
    result = run("segment", model, "photos/b.jpg", photos, "--labels", "dax,wug", "--background", "sand", "--out", "o")
    assert (result["labels"], result["background"]) == (["dax", "wug"], ["sand"])
    assert [answer["mask"] for answer in result["images"]] == [
        "o/b-mask.png",
        "o/B-2-mask.png",
        "o/a-mask.png",
        "o/b-3-mask.png",
    ]
    loaded = CLIPpy.from_pretrained(model)
    for answer in result["images"]:
        wanted = pictures.segment_picture(loaded, answer["image"], ["dax", "wug"], ["sand"])
        mask = Image.open(answer["mask"])
        assert (mask.mode, mask.size) == ("P", (answer["width"], answer["height"]))
        assert np.array_equal(np.asarray(mask), wanted.ids)
        assert answer["shares"] == [share.__dict__ for share in wanted.shares()]
        assert Image.open(answer["picture"]).size == wanted.drawing().size
    assert len(list(Path("o").iterdir())) == 8  # nothing temporary is left


def test_one_picture_and_a_file_name(run: Run, model: Path, photos: Path) -> None:
    (answer,) = run("segment", model, "photos/a.png", "--labels", "dax,wug", "--out", "new/mask.png")["images"]
    assert (answer["mask"], answer["picture"]) == ("new/mask.png", "new/mask-legend.png")
    assert Image.open("new/mask.png").size == (40, 70)
    assert sorted(path.name for path in Path("new").iterdir()) == ["mask-legend.png", "mask.png"]
    first = Path("new/mask.png").read_bytes()
    run("segment", model, "photos/a.png", "--labels", "dax,wug", "--out", "new/mask.png", "--size", "64")
    assert Path("new/mask.png").read_bytes() != first


def test_names_of_results_never_meet(run: Run, model: Path, photos: Path) -> None:
    """'b-mask' is the mask of 'b' and the drawing of 'b-mask'."""
    (photos / "a.png").rename(photos / "b-mask.png")
    (photos / "B.webp").rename(photos / "b-2.webp")
    (photos / "more" / "b.png").rename(photos / "b.png")
    answers = run("segment", model, "photos", "--labels", "dax,wug", "--out", "o")["images"]
    files = [answer[kind].lower() for answer in answers for kind in ("mask", "picture")]
    assert len(files) == len(set(files)) == len(list(Path("o").iterdir())) == 8


def test_group_without_words(run: Run, model: Path, photos: Path) -> None:
    result = run("group", model, "photos/[ab].*", "--groups", 4, "--size", 64)
    assert (result["groups"], result["size"]) == (4, 64)
    for answer in result["images"]:
        mask = np.asarray(Image.open(answer["mask"]))
        assert mask.shape == (answer["height"], answer["width"])
        assert answer["shares"][0]["name"] == "group 1"
        assert {share["id"] for share in answer["shares"]} == set(np.unique(mask)) <= {1, 2, 3, 4}
    assert [answer["picture"] for answer in result["images"]] == ["groups/a.png", "groups/b.png"]


def test_people_read_sentences(
    clippy_command: Run, model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(model), "photos/a.png", "--labels", "dax,wug"]) == 0
    title, first, second = capsys.readouterr().out.splitlines()
    assert title == "photos/a.png"
    assert "%  cosine " in first
    segmented = clippy_command("segment", str(model), "photos", "--labels", "dax,wug", "--out", "o")
    assert segmented.returncode == 0, segmented.stderr
    assert "photos/a.png  40 x 70\n  o/a-mask.png\n  o/a.png\n" in segmented.stdout
    assert "pictures 3/3" in segmented.stderr


def test_labels_of_a_file(run: Run, model: Path, photos: Path) -> None:
    Path("labels.txt").write_text("dax\n\nwug, the other\n")
    (answer,) = run("classify", model, "photos/a.png", "--labels", "@labels.txt")["images"]
    assert sorted(guess["label"] for guess in answer["labels"]) == ["dax", "wug, the other"]


def test_pictures_over_http(run: Run, model: Path, photos: Path, server: str) -> None:
    (photos / "c d é.png").write_bytes((photos / "a.png").read_bytes())
    url = f"{server}/c d é.png"
    local, remote = run("segment", model, "photos/a.png", url, "--labels", "dax,wug", "--out", "o")["images"]
    assert (remote["image"], remote["mask"]) == (url, "o/c d é-mask.png")
    assert remote["shares"] == local["shares"]


def test_pictures_and_results_on_s3(run: Run, model: Path, photos: Path, s3: str) -> None:
    from pipelines.storage import locate

    for name in ("a.png", "b.jpg"):
        locate(f"s3://bucket/photos/{name}").write_bytes((photos / name).read_bytes())
    for argument in ("s3://bucket/photos", "s3://bucket/photos/*.*"):
        result = run("segment", model, argument, "--labels", "dax,wug", "--out", "s3://bucket/results")
        names = [answer["image"] for answer in result["images"]]
        assert names == ["s3://bucket/photos/a.png", "s3://bucket/photos/b.jpg"]
    here = run("segment", model, "photos/a.png", "--labels", "dax,wug", "--out", "o")["images"][0]
    assert locate("s3://bucket/results/a-mask.png").read_bytes() == Path(here["mask"]).read_bytes()


def test_the_model_of_a_run_is_its_last_checkpoint(run: Run, model: Path, photos: Path) -> None:
    from pipelines.recipe import load_recipe

    recipe = load_recipe("shapes", []).to_yaml()
    for step in (4, 8):
        checkpoint = Path(f"run/checkpoints/step-{step:08d}")
        build(config()).save_pretrained(checkpoint)
        (checkpoint / "state.json").write_text(json.dumps({"step": step}))
        (checkpoint / "recipe.yaml").write_text(recipe)
    Path("run/recipe.yaml").write_text(recipe)
    wanted = run("classify", model, "photos/a.png", "--labels", "dax,wug")["images"]
    for place, step in (("run", 8), ("run/checkpoints/step-00000004", 4)):
        result = run("classify", place, "photos/a.png", "--labels", "dax,wug")
        assert result["model"] == f"run/checkpoints/step-{step:08d}"
        assert result["images"] == wanted


ONE = ["photos/a.png"]


@pytest.mark.parametrize(
    ("verb", "arguments", "sentence"),
    [
        ("classify", ["photos/notes.txt"], "IMAGE: photos/notes.txt: no picture that can be used"),
        ("classify", ["photos/a.png", "photos/cut.jpg"], "IMAGE: photos/cut.jpg: no picture that can be used"),
        ("classify", ["photos/c.png"], "IMAGE: photos/c.png: there is no such file or folder"),
        ("segment", ["empty"], "IMAGE: empty: this folder has no picture; it would end with .bmp, .gif"),
        ("segment", ["photos/*.tif"], "IMAGE: photos/*.tif: no file matches this pattern"),
        ("classify", ["http://127.0.0.1:9/a.png"], "IMAGE: http://127.0.0.1:9/a.png: cannot be fetched"),
        ("classify", ["http://[bad/a.png"], "IMAGE: http://[bad/a.png: cannot be fetched"),
        ("classify", ["{server}/c.png"], "/c.png: the server answers 404 File not found; check the URL"),
        ("classify", ["{server}/notes.txt"], "/notes.txt: no picture that can be used"),
        ("classify", ["{server}/"], "no picture that can be used"),
        ("classify", [*ONE, "--labels", ""], "--labels: must hold at least one text (got none)"),
        ("segment", [*ONE, "--labels", "dax,,wug"], "--labels: number 2 of 3 is blank"),
        ("segment", [*ONE, "--labels", "dax,wug,dax"], "--labels: 'dax' comes more than once"),
        ("segment", [*ONE, "--labels", "@none.txt"], "--labels: none.txt: cannot be read as a list of words"),
        ("segment", [*ONE, "--labels", "@photos/a.png"], "--labels: photos/a.png: cannot be read as a list of words"),
        ("segment", [*ONE, "--background", "dax"], "--background: 'dax' is also among --labels"),
        ("segment", [*ONE, "--templates", "a photo"], "--templates: 'a photo' has no {} where the word goes"),
        ("classify", [*ONE, "--top", "0"], "--top: must be at least 1 (got 0)"),
        ("group", [*ONE, "--groups", "0"], "--groups: must be an even number from 2 to 64"),
        ("group", [*ONE, "--groups", "7"], "--groups: must be an even number from 2 to 64"),
        ("segment", [*ONE, "--size", "4"], "--size: must be from 8, one patch of this model, to 2048 pixels (got 4)"),
        ("segment", ["photos", "--out", "m.png"], "--out: m.png is one file, and there are 3 pictures; name a folder"),
        ("segment", [*ONE, "--out", "m.jpg"], "--out: m.jpg: a mask is a PNG"),
        ("segment", [*ONE, "--out", "photos"], "--out: photos/a.png is one of the pictures and would be lost"),
        ("group", [*ONE, "--out", "photos/a.png"], "--out: photos/a.png is one of the pictures and would be lost"),
        ("segment", [*ONE, "--out", "photos/notes.txt"], "photos/notes.txt is no folder; name another place"),
        ("segment", [*ONE, "--out", "/proc/none"], "--out: "),
        ("segment", [*ONE, "--out", "taken"], "--out: taken/a-mask.png is a folder, where a result has to go"),
    ],
)
def test_mistakes_are_one_sentence(
    model: Path,
    photos: Path,
    server: str,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    arguments: list[str],
    sentence: str,
) -> None:
    Path("empty").mkdir()
    Path("taken/a-mask.png").mkdir(parents=True)
    (photos / "cut.jpg").write_bytes((photos / "b.jpg").read_bytes()[:700])
    if "photos" in arguments:
        (photos / "cut.jpg").unlink()
    before = sorted(path for path in photos.parent.rglob("*"))
    arguments = [argument.replace("{server}", server) for argument in arguments]
    if verb != "group" and "--labels" not in arguments:
        arguments += ["--labels", "dax,wug"]
    assert main([verb, str(model), *arguments]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.startswith("clippy: ") or "pictures checked" in printed.err
    assert printed.err.count("clippy: ") == 1
    assert printed.out == ""
    assert sorted(path for path in photos.parent.rglob("*")) == before


@pytest.mark.parametrize(("place", "sentence"), [("none", "none: neither a run"), ("photos", "photos: neither a run")])
def test_a_model_that_is_none(photos: Path, capsys: pytest.CaptureFixture[str], place: str, sentence: str) -> None:
    assert main(["group", place, "photos"]) == 2
    assert sentence in capsys.readouterr().err
    assert main(["group", "photos/a.png", "photos"]) == 2
    assert "photos/a.png" in capsys.readouterr().err


def test_a_server_may_not_send_without_end(
    model: Path, photos: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.pictures.MAX_BYTES", 100)
    assert main(["classify", str(model), f"{server}/a.png", "--labels", "dax"]) == 2
    assert "larger than a picture may be, 100 bytes" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys\nfrom cluster.cli import main\ntry: main(['segment', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'ray', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_pictures_are_those_of_the_images_module() -> None:
    """What a folder offers can be decoded here."""
    from pipelines.pictures import SUFFIXES

    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in SUFFIXES} <= set(Image.OPEN)
