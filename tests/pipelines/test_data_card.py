"""What an inspection shows: a page that holds any caption as text, a contact sheet, and the command's output."""

from __future__ import annotations

import html.parser
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.inspection.data_card import write_data_card
from pipelines.inspection.text import as_text
from tests.cluster.test_cli import Command
from tests.pipelines.test_inspect_data import inspect, rows, write


def noise(size: int, seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


class Page(html.parser.HTMLParser):
    """Every tag and its attributes, the text, and the pictures."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></title><iframe src=http://evil>",
    "花园里的一朵红花",
    "صورة لمعبد قديم",
    "word " * 2000,
    "x" * 10_000,
    "\x1b[31m red \x00",
]


def test_data_card_holds_any_caption_as_text(tmp_path: Path) -> None:
    number = 70
    captions: list[object] = [HOSTILE[i % len(HOSTILE)] for i in range(number)]
    keys: list[object] = [f"<b>{i}</b>" for i in range(number)]
    images: list[object] = [noise(300, i) for i in range(number - 1)]
    write(tmp_path / "<i>data", "a.parquet", rows(number, jpg=[*images, b"broken"], caption=captions, key=keys), 100)
    found = inspect(tmp_path / "<i>data", image_size=224, thumbnails=True)
    card = write_data_card(found, str(tmp_path / "card.html"))
    content = Path(card).read_text(encoding="utf-8")
    assert len(content.encode()) < 3_000_000
    page = Page(content)
    assert not page.tags & {"script", "iframe", "b0", "i", "object", "link"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert len(page.sources) > 30
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    for caption in HOSTILE[:6]:
        assert caption in page.text
    assert not any(len(text) > 1500 for text in page.text if "--ground" not in text)
    text = as_text(found)
    assert "\x1b" not in text
    assert max(map(len, text.split("\nAdvice")[0].splitlines())) <= 100


def test_contact_sheet_is_evenly_spaced_and_always_the_same(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", rows(100))
    cards = []
    for name in ("1.html", "2.html"):
        write_data_card(inspect(tmp_path, thumbnails=True), str(tmp_path / name))
        cards.append(Page((tmp_path / name).read_text(encoding="utf-8")))
    assert len(cards[0].sources) == 48
    assert cards[0].sources == cards[1].sources
    shown = [int(text.split()[-1]) for text in cards[0].text if text.startswith("picture number")]
    assert shown == [i * 100 // 48 for i in range(48)]


def test_command_prints_text_or_json_and_writes_the_card(clippy_command: Command, shapes: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.html"
    result = clippy_command("data", "inspect", f"{shapes}/train", "--html", str(card), "--sample-rows", "40", "--json")
    assert result.returncode == 0
    values = json.loads(result.stdout)
    assert values["html"] == str(card)
    assert (values["sample"]["rows"], values["sample"]["image_size"]) == (40, 224)
    assert "images_too_small" in [advice["name"] for advice in values["advice"]]
    assert "<h2>Contact sheet</h2>" in card.read_text()
    text = clippy_command("data", "inspect", f"{shapes}/train", "--sample-rows", "40", "--image-size", "64")
    assert "usable rows" in text.stdout
    assert "Short side, pixels" in text.stdout
