"""``clippy search``: pictures, or what is in them, ranked by phrases."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from clippy.words import check_texts
from cluster.use import add_inputs, load_on_device
from cluster.verbs import add_json, print_result, verb

if TYPE_CHECKING:
    from clippy.search import Hit

_TOP = 10


def add_search_verb(verbs: Any) -> None:
    """Declare the command."""
    command = verb(verbs, "search", _search, "rank pictures, or regions of them, by how well a phrase fits")
    add_inputs(command)
    command.add_argument(
        "--phrase",
        dest="phrases",
        action="append",
        required=True,
        metavar="TEXT",
        help="what to look for, as a caption would say it, e.g. 'a photo of a dog on grass'; can be given again",
    )
    command.add_argument(
        "--regions",
        nargs="?",
        const="groups",
        choices=["groups", "windows"],
        help="rank regions: groups of patches found without words (the default), or windows, squares on a grid",
    )
    command.add_argument("--top", type=int, default=_TOP, metavar="N", help=f"hits for each phrase (default: {_TOP})")
    command.add_argument(
        "--size", type=int, metavar="PIXELS", help="short side that the model sees (default: as it was trained)"
    )
    command.add_argument("--out", metavar="FOLDER", help="folder or URL for a contact sheet of each phrase, PHRASE.png")
    add_json(command)


def _search(options: argparse.Namespace) -> None:
    check_texts("--phrase", options.phrases)
    if options.top < 1:
        raise ValueError(f"--top: must be at least 1 (got {options.top})")
    from pipelines.targets import find_model

    found = find_model(options.model)
    from clippy.readout import View
    from clippy.search import Search, contact_sheet
    from pipelines.console import Console
    from pipelines.pictures import collect_pictures
    from pipelines.segmentation_files import write_picture
    from pipelines.sheet_files import plan_sheets

    console = Console()
    with collect_pictures(options.images, console) as pictures:
        sheets = plan_sheets(options.phrases, pictures, options.out) if options.out else []
        model = load_on_device(found)
        view = View(size=options.size)
        view.check_model(model.image_size, model.patch_size, model.takes_one_size, "--")
        search = Search(model, options.phrases, options.regions, options.top, options.size)
        for number, picture in enumerate(pictures, 1):
            search.look(picture.name, picture.read())
            if len(pictures) > 1:
                console.count("pictures", number, len(pictures))
        console.clear()
        by_name = {picture.name: picture for picture in pictures}
        for sheet, phrase, hits in zip(sheets, options.phrases, search.hits(), strict=False):
            write_picture(sheet, contact_sheet(phrase, hits, lambda name: by_name[name].read()))
    urls = [sheet.url for sheet in sheets] if sheets else [None] * len(options.phrases)
    answers = [
        {"phrase": phrase, "sheet": url, "hits": [_hit(hit) for hit in hits]}
        for phrase, url, hits in zip(options.phrases, urls, search.hits(), strict=True)
    ]
    result = {"model": found.name, "regions": options.regions, "size": options.size, "phrases": answers}
    print_result(result, options.json, "\n".join(map(_found, answers)))


def _hit(hit: Hit) -> dict[str, Any]:
    return {"image": hit.name, "cosine": hit.cosine, "box": hit.box}


def _found(answer: dict[str, Any]) -> str:
    lines = [answer["phrase"]]
    for place, hit in enumerate(answer["hits"], 1):
        box = "" if hit["box"] is None else "  [{:.0f}, {:.0f}, {:.0f}, {:.0f}]".format(*hit["box"])
        lines.append(f"  {place:>3}  {hit['cosine']:+.3f}  {hit['image']}{box}")
    return "\n".join([*lines, *([f"  {answer['sheet']}"] if answer["sheet"] else [])])
