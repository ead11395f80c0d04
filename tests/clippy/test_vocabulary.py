"""Class lists and prompts: what is known of each benchmark, and that names, ids and synsets hang together."""

import importlib.util
import json
import runpy
from pathlib import Path

import pytest

from clippy.hierarchy import wordnet
from clippy.vocabularies.make_hypernyms import hypernym_nodes, main
from clippy.vocabulary import class_list, class_list_names, hypernym_map, prompt_templates
from clippy.words import check_words, fill

# name -> classes, things, first, last, background
LISTS = {
    "ade20k": (150, 100, "wall", "flag", None),
    "cityscapes19": (19, 8, "road", "bicycle", None),
    "cityscapes27": (27, 10, "road", "bicycle", None),
    "coco-instances": (80, 80, "person", "toothbrush", None),
    "coco-object": (81, 80, "background", "toothbrush", 0),
    "coco-panoptic": (133, 80, "person", "rug", None),
    "coco-stuff": (171, 80, "person", "wood", None),
    "context59": (59, 31, "airplane", "wood", None),
    "context60": (60, 31, "background", "wood", 0),
    "imagenet": (1000, 1000, "tench", "toilet paper", None),
    "voc": (21, 20, "background", "television monitor", 0),
    "voc20": (20, 20, "aeroplane", "television monitor", None),
    "waterbirds": (2, 2, "landbird", "waterbird", None),
}


def test_all_lists_are_known_here() -> None:
    assert class_list_names() == tuple(sorted(LISTS))


@pytest.mark.parametrize("name", LISTS)
def test_list_is_as_its_benchmark(name: str) -> None:
    classes = class_list(name)
    count, things, first, last, background = LISTS[name]
    assert len(classes) == len(classes.kinds) == len(classes.hypernyms) == count
    assert classes.kinds.count("thing") == things
    assert (classes.names[0], classes.names[-1], classes.background) == (first, last, background)
    assert [number for number, kind in enumerate(classes.kinds) if kind == "background"] == (
        [] if background is None else [background]
    )
    twice = {"missile", "sunglasses"} if name == "imagenet" else set()
    assert {word for word in classes.names if classes.names.count(word) > 1} == twice
    assert all(word == word.strip() and word for word in classes.names)
    assert len(classes.source) > 40
    for numbers in (classes.ids, classes.folders):
        assert numbers is None or len(set(numbers)) == len(numbers) == count


@pytest.mark.parametrize("name", LISTS)
def test_synsets_are_nodes_and_background_is_the_root(name: str) -> None:
    classes, hierarchy = class_list(name), wordnet()
    for kind, node in zip(classes.kinds, classes.hypernyms, strict=True):
        assert (hierarchy.depth(node) == 0) == (kind == "background")


def test_voc_words_are_those_of_the_released_evaluation() -> None:
    voc, context = class_list("voc"), class_list("context59")
    assert voc.names[11] == "table"
    assert len(voc.extra_words) == 39
    assert voc.extra_words[0] == "bag"
    assert voc.extra_words[-1] == "wood"
    check_words(voc.names, voc.extra_words, prompt_templates("released"))
    # The further words are the classes of PASCAL-Context that VOC does not have.
    renamed = {"aeroplane": "airplane", "television monitor": "tv monitor"}
    ours = {renamed.get(word, word) for word in (*voc.names[1:], *voc.extra_words)}
    assert ours == set(context.names)
    assert class_list("voc20").names == voc.names[1:]
    assert class_list("context60").names[1:] == context.names


def test_ids_of_the_files() -> None:
    panoptic, stuff = class_list("coco-panoptic"), class_list("coco-stuff")
    instances, objects = class_list("coco-instances"), class_list("coco-object")
    assert instances.ids is not None
    assert panoptic.ids is not None
    assert stuff.ids is not None
    assert objects.ids == (0, *instances.ids)
    assert panoptic.ids[:80] == stuff.ids[:80] == instances.ids
    assert panoptic.names[:80] == stuff.names[:80] == instances.names == objects.names[1:]
    missing = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}  # categories of COCO that were never annotated
    assert set(instances.ids) == set(range(1, 91)) - missing
    assert stuff.ids[80:] == tuple(range(92, 183))
    assert panoptic.ids[80:83] == (92, 93, 95)
    assert panoptic.ids[-1] == 200
    assert class_list("cityscapes27").ids == tuple(range(7, 34))
    train = class_list("cityscapes19")
    assert train.ids == (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    names = dict(zip(class_list("cityscapes27").ids or (), class_list("cityscapes27").names, strict=True))
    assert train.names == tuple(names[number] for number in train.ids)
    for name, count in (("ade20k", 150), ("voc20", 20), ("context59", 59)):
        assert class_list(name).ids == tuple(range(1, count + 1))


def test_names_in_other_lists_mean_the_same() -> None:
    # ADE20K's words are synsets of its own; a table of VOC is a dining table; ImageNet has kinds of its own.
    lists = [class_list(name) for name in LISTS if name not in ("imagenet", "ade20k")]
    meaning: dict[str, str] = {}
    for classes in lists:
        for word, node in zip(classes.names, classes.hypernyms, strict=True):
            if word != "table":
                assert meaning.setdefault(word, node) == node, word


def test_imagenet_folders_are_its_synsets_and_sorted() -> None:
    imagenet, nodes = class_list("imagenet"), hypernym_map()["nodes"]
    assert imagenet.folders is not None
    assert imagenet.folders == tuple(sorted(imagenet.folders))
    assert (imagenet.folders[0], imagenet.folders[-1]) == ("n01440764", "n15075141")
    assert imagenet.folders == tuple(nodes[node]["wnid"] for node in imagenet.hypernyms)
    word = dict(zip(imagenet.names, imagenet.hypernyms, strict=True))
    hierarchy = wordnet()
    assert "bird.n.01" in hierarchy.ancestors(word["crane bird"])
    assert "lifting_device.n.01" in hierarchy.ancestors(word["construction crane"])


def installed(package: str, file: str) -> Path:
    """A file of a package that takes seconds to import."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    return Path(*spec.submodule_search_locations or ()) / file


def test_imagenet_and_openais_prompts_are_those_of_open_clip_and_timm() -> None:
    openai = runpy.run_path(str(installed("open_clip", "zero_shot_metadata.py")))
    imagenet = class_list("imagenet")
    assert list(imagenet.names) == list(openai["IMAGENET_CLASSNAMES"])
    assert list(imagenet.folders or ()) == installed("timm", "data/_info/imagenet_synsets.txt").read_text().split()
    for name, published in (("openai", "OPENAI_IMAGENET_TEMPLATES"), ("clip7", "SIMPLE_IMAGENET_TEMPLATES")):
        assert [fill(ours, "cat") for ours in prompt_templates(name)] == [theirs("cat") for theirs in openai[published]]


def test_words_of_waterbirds_are_apart() -> None:
    birds = class_list("waterbirds")
    check_words(birds.names, birds.extra_words)
    assert "background" in birds.extra_words


@pytest.mark.parametrize(
    ("name", "count"), [("simple", 1), ("released", 1), ("openai", 80), ("clip7", 7), ("tcl", 9), ("maskclip", 85)]
)
def test_prompts(name: str, count: int) -> None:
    templates = prompt_templates(name)
    assert len(set(templates)) == len(templates) == count
    check_words(["cat"], templates=templates)


def test_prompts_contain_one_another() -> None:
    assert prompt_templates("maskclip")[:80] == prompt_templates("openai")
    assert set(prompt_templates("clip7")) < set(prompt_templates("openai"))
    assert prompt_templates("tcl")[-2:] == ("a photo of many {}.", "a photo of {}s.")


@pytest.mark.parametrize(
    ("word", "caption"),
    [
        ("aeroplane", "a photo of an aeroplane"),
        ("Orange", "a photo of an Orange"),
        ("cat", "a photo of a cat"),
        ("hourglass", "a photo of a hourglass"),
        ("{a} {}", "a photo of a {a} {}"),
    ],
)
def test_article_goes_by_the_first_letter(word: str, caption: str) -> None:
    assert fill(prompt_templates("released")[0], word) == caption


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no class list 'coco'; there are ade20k, "):
        class_list("coco")
    with pytest.raises(ValueError, match="no class list 'templates'"):
        class_list("templates")
    with pytest.raises(ValueError, match="no prompts 'clip'; there are simple, "):
        prompt_templates("clip")
    with pytest.raises(ValueError, match=r"has no \{\} where the word goes"):
        fill("a photo", "cat")


# A WordNet of five synsets in the format of man wndb: two words for the dog, two parents, an instance, a second sense.
DATA = """  1 licence
00000001 03 n 01 entity 0 000 | all there is
00000002 03 n 01 animal 0 001 @ 00000001 n 0000 | it moves
00000003 03 n 01 house_pet 0 001 @ 00000001 n 0000 | "at home"
00000004 03 n 02 Dog 0 hound 1 003 @ 00000002 n 0000 @ 00000003 n 0000 #m 00000001 n 0000 | barks @ 00000009
00000005 03 n 01 dog 1 001 @i 00000001 n 0000 | a cad
"""
INDEX = """  1 licence
animal n 1 1 @ 1 0 00000002
dog n 2 1 @ 2 1 00000005 00000004
entity n 1 0 1 0 00000001
hound n 1 1 @ 1 0 00000004
house_pet n 1 1 @ 1 0 00000003
"""


@pytest.fixture
def wordnet_folder(tmp_path: Path) -> Path:
    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    return tmp_path


def test_hypernyms_are_read_from_wordnets_files(wordnet_folder: Path) -> None:
    assert hypernym_nodes(wordnet_folder, ["dog.n.02"]) == {
        "animal.n.01": {"wnid": "n00000002", "word": "animal", "parents": ["entity.n.01"]},
        "dog.n.02": {"wnid": "n00000004", "word": "Dog", "parents": ["animal.n.01", "house_pet.n.01"]},
        "entity.n.01": {"wnid": "n00000001", "word": "entity", "parents": []},
        "house_pet.n.01": {"wnid": "n00000003", "word": "house pet", "parents": ["entity.n.01"]},
    }
    with pytest.raises(ValueError, match=r"has no cat\.n\.01"):
        hypernym_nodes(wordnet_folder, ["cat.n.01"])
    with pytest.raises(ValueError, match=r"3\.0"):
        main(wordnet_folder)


def test_hypernym_map_holds_the_lists_and_what_is_above_them() -> None:
    content = hypernym_map()
    nodes = content["nodes"]
    classes = {node for name in class_list_names() for node in class_list(name).hypernyms}
    assert classes <= nodes.keys()
    assert set().union(*(wordnet().ancestors(node) for node in classes)) == nodes.keys()
    assert "Princeton University" in content["licence"]
    assert json.dumps(list(nodes)) == json.dumps(sorted(nodes))
