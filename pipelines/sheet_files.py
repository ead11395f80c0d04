"""Where the contact sheet of each phrase goes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.pictures import NamedPicture
from pipelines.segmentation_files import require_places
from pipelines.storage import Location, locate

MAX_NAME = 60


def plan_sheets(phrases: Sequence[str], pictures: Sequence[NamedPicture], out: str) -> list[Location]:
    """A file for each phrase in the folder or URL ``out``: ``a-dog.png``, or with a number where that is taken.

    Raises ValueError for a place that cannot be written, and for one of the pictures.
    """
    folder = locate(out)
    names: list[str] = []
    for phrase in phrases:
        stem = re.sub(r"\W+", "-", phrase.casefold()).strip("-")[:MAX_NAME] or "phrase"
        name, number = f"{stem}.png", 1
        while name in names:
            number += 1
            name = f"{stem}-{number}.png"
        names.append(name)
    sheets = [folder / name for name in names]
    require_places(sheets, pictures)
    return sheets
