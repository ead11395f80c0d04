"""``clippy classify``, ``segment`` and ``group``: a trained model on a user's own pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clippy.readout import GroupOptions, SegmentOptions
from clippy.words import TEMPLATES, check_words
from cluster.verbs import MODEL_HELP, add_json, print_result, read_words, verb

if TYPE_CHECKING:
    from clippy.load import AnyModel
    from clippy.segmentation import Segmentation
    from pipelines.pictures import NamedPicture
    from pipelines.targets import FoundModel

_SHOWN_SHARES = 8


def add_use_verbs(verbs: Any) -> None:
    """Declare the three commands."""
    command = verb(verbs, "classify", _classify, "name pictures by free words, with probabilities")
    add_inputs(command)
    _add_labels(command, "comma-separated, or @FILE with one a line")
    command.add_argument("--top", type=int, default=5, metavar="N", help="labels to show, the best first (default: 5)")
    add_json(command)
    command = verb(verbs, "segment", _segment, "name every pixel of pictures by free words")
    add_inputs(command)
    _add_labels(command, "comma-separated, or @FILE with one a line; their ids in masks are 1, 2, 3, ...")
    command.add_argument(
        "--background", metavar="WORDS", help="further words, whose pixels become id 0, e.g. sky,wall; or @FILE"
    )
    command.add_argument(
        "--background-threshold",
        type=float,
        metavar="P",
        help="pixels whose best word is less probable than P become id 0: the softmax, over all labels and background "
        "words, of cosine times the model's inverse temperature",
    )
    command.add_argument(
        "--readout",
        choices=["patches", "maskclip"],
        default="patches",
        help="maskclip switches the last attention layer off, for a CLIP above all (default: patches)",
    )
    command.add_argument(
        "--prompt-denoising",
        type=float,
        metavar="P",
        help="leave out words that are nowhere in a picture as probable as P (MaskCLIP: 0.5)",
    )
    command.add_argument(
        "--key-smoothing",
        type=float,
        metavar="P",
        help="with --readout maskclip: patches less sure than P take the vote of patches with like keys (MaskCLIP: 1)",
    )
    _add_outputs(command, "segments")
    command = verb(verbs, "group", _group, "group the pixels of pictures without words; the largest group is 1")
    add_inputs(command)
    command.add_argument(
        "--groups", type=int, metavar="N", help="groups at most, an even number from 2 to 64 (default: 8)"
    )
    command.add_argument(
        "--readout",
        choices=["patches", "attention"],
        default="patches",
        help="attention: one group for each head of the last attention layer, what its class token looks at (DINO); "
        "the rest is id 0 (default: patches)",
    )
    _add_outputs(command, "groups")


def add_inputs(command: Any) -> None:
    """MODEL and IMAGE of every command that uses a model."""
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    command.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="file, folder, glob in quotes, http(s):// or s3:// URL; in folders, all pictures but those of subfolders",
    )


def _add_labels(command: Any, form: str) -> None:
    command.add_argument("--labels", required=True, metavar="WORDS", help=form)
    command.add_argument(
        "--templates",
        nargs="+",
        metavar="TEXT",
        default=list(TEMPLATES),
        help=f"what each word is put into, averaged over all (default: {TEMPLATES[0]!r})",
    )


def _add_outputs(command: Any, folder: str) -> None:
    command.add_argument(
        "--out",
        default=folder,
        metavar="PATH",
        help="folder or URL for NAME-mask.png and NAME.png; for one picture also the mask's own name, MASK.png, "
        f"with MASK-legend.png beside it (default: {folder})",
    )
    command.add_argument(
        "--size", type=int, metavar="PIXELS", help="short side that the model sees (default: as it was trained)"
    )
    command.add_argument(
        "--window",
        type=int,
        metavar="PIXELS",
        help="let the model see squares of this side one by one, and average where they overlap (default: the whole)",
    )
    command.add_argument(
        "--stride", type=int, metavar="PIXELS", help="from one window to the next (default: half a window)"
    )
    command.add_argument(
        "--refine", action="store_true", help="move edges to where colours change (PAMR); takes seconds a picture"
    )
    add_json(command)


def _classify(options: argparse.Namespace) -> None:
    labels = read_words("--labels", options.labels)
    check_words(labels, templates=options.templates, prefix="--")
    if options.top < 1:
        raise ValueError(f"--top: must be at least 1 (got {options.top})")
    found = _find(options.model)
    from clippy.pictures import classify_picture, embed_words
    from pipelines.console import Console
    from pipelines.pictures import collect_pictures

    console, answers = Console(), []
    with collect_pictures(options.images, console) as pictures:
        model = load_on_device(found)
        words = embed_words(model, labels, templates=options.templates)
        for number, picture in enumerate(pictures, 1):
            best = classify_picture(model, picture.read(), words)[: options.top]
            answers.append({"image": picture.name, "labels": [guess.__dict__ for guess in best]})
            if len(pictures) > 1:
                console.count("pictures", number, len(pictures))
    console.clear()
    result = {"model": found.name, "templates": options.templates, "images": answers}
    print_result(result, options.json, "\n".join(map(_classified, answers)))


def _segment(options: argparse.Namespace) -> None:
    labels, background = read_words("--labels", options.labels), read_words("--background", options.background)
    check_words(labels, background, options.templates, prefix="--")
    chosen = SegmentOptions(
        **_view(options),
        readout=options.readout,
        background_threshold=options.background_threshold,
        prompt_denoising=options.prompt_denoising,
        key_smoothing=options.key_smoothing,
    )
    chosen.check_words(len(labels) + len(background), "--")

    def prepare(model: AnyModel) -> Callable[[bytes], Segmentation]:
        from clippy.pictures import embed_words, segment_picture

        words = embed_words(model, labels, background, options.templates)
        return lambda data: segment_picture(model, data, words, options=chosen)

    about = {"labels": labels, "background": background, "templates": options.templates}
    _write_segmentations(options, about, chosen, prepare)


def _group(options: argparse.Namespace) -> None:
    if options.groups is not None and options.readout == "attention":
        raise ValueError(
            "--groups: with --readout attention the heads of the model's last layer are the groups; leave it out"
        )
    groups = {} if options.groups is None else {"groups": options.groups}
    chosen = GroupOptions(**_view(options), **groups, readout=options.readout)
    chosen.check("--")

    def prepare(model: AnyModel) -> Callable[[bytes], Segmentation]:
        from clippy.pictures import group_picture

        return lambda data: group_picture(model, data, chosen)

    about = {"groups": None} if options.readout == "attention" else {}
    _write_segmentations(options, about, chosen, prepare)


def _view(options: argparse.Namespace) -> dict[str, Any]:
    return {"size": options.size, "window": options.window, "stride": options.stride, "refine": options.refine}


def _write_segmentations(
    options: argparse.Namespace,
    about: dict[str, Any],
    chosen: SegmentOptions | GroupOptions,
    prepare: Callable[[AnyModel], Callable[[bytes], Segmentation]],
) -> None:
    """Check all there is to check, then segment and write picture by picture."""
    found = _find(options.model)
    from clippy.scoring import check_options
    from pipelines.console import Console
    from pipelines.pictures import collect_pictures
    from pipelines.segmentation_files import plan_files

    console, answers = Console(), []
    with collect_pictures(options.images, console) as pictures:
        files = plan_files(pictures, options.out)
        model = load_on_device(found)
        check_options(model, chosen, "--")
        segment = prepare(model)
        for number, (picture, place) in enumerate(zip(pictures, files, strict=True), 1):
            segmentation = segment(picture.read())
            place.write(segmentation)
            answers.append(_answer(picture, segmentation, place.mask.url, place.drawing.url))
            if len(pictures) > 1:
                console.count("pictures", number, len(pictures))
    console.clear()
    result = {"model": found.name, **asdict(chosen), **about, "images": answers}
    print_result(result, options.json, "\n".join(map(_segmented, answers)))


def _answer(picture: NamedPicture, segmentation: Segmentation, mask: str, drawing: str) -> dict[str, Any]:
    height, width = segmentation.ids.shape
    shares = [share.__dict__ for share in segmentation.shares()]
    return {
        "image": picture.name,
        "width": width,
        "height": height,
        "mask": mask,
        "picture": drawing,
        "shares": shares,
    }


def _find(path: str) -> FoundModel:
    from pipelines.targets import find_model

    return find_model(path)


def load_on_device(found: FoundModel) -> AnyModel:
    """The model, on a GPU if this machine has one."""
    import torch

    model = found.load()
    return model.cuda() if torch.cuda.is_available() else model


def _classified(answer: dict[str, Any]) -> str:
    guesses: Sequence[dict[str, Any]] = answer["labels"]
    width = max(len(guess["label"]) for guess in guesses)
    rows = [f"  {g['label']:<{width}}  {g['probability']:7.2%}  cosine {g['cosine']:+.3f}" for g in guesses]
    return "\n".join([answer["image"], *rows])


def _segmented(answer: dict[str, Any]) -> str:
    shares = [f"{share['name']} {share['share']:.1%}" for share in answer["shares"][:_SHOWN_SHARES]]
    rest = len(answer["shares"]) - len(shares)
    if rest:
        shares.append(f"{rest} more")
    title = f"{answer['image']}  {answer['width']} x {answer['height']}"
    return f"{title}\n  {answer['mask']}\n  {answer['picture']}\n  {', '.join(shares)}"
