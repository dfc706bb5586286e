"""COCO annotations of any folder: both files, made one numbering and one list of classes.

Ids restart in each file of a user, and zero is among them, which pycocotools takes for "unmatched"
(a perfect prediction then gets less than 100). So images, annotations and categories are numbered
from 1, and every entry keeps the id that its user knows as ``original_id``.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.dense import FOLDER_SPLITS
from benchmarks.detection.coco_files import LISTS, Notes, check, listed, normalise, read
from benchmarks.detection.settings import CocoFolder
from manifold.errors import Faults, UserError
from manifold.image_files import ImageCheck
from manifold.settings import suggest

Content = dict[str, Any]  # of a file of annotations


def read_folder(
    folder: CocoFolder, masks: bool, verify: bool
) -> tuple[dict[str, Content], list[str]]:
    """Read and check the annotations of both splits.

    Args:
        masks: whether segmentations are used; without, they are left out.
        verify: decode every image.

    Returns:
        The content of each file: numbered from 1, without the annotations that are ignored, both
        with the same categories in the same order, with ``area`` and ``iscrowd`` where they were
        lacking; and a line for each thing that is read otherwise than it is written.

    Raises:
        UserError: names the file, the entries and what to do.
    """
    contents, notes, seen, faults = {}, [], ImageCheck() if verify else None, Faults()
    for split in FOLDER_SPLITS:
        if seen is not None:
            seen.part = split
        with faults.collected():
            contents[split] = _read_split(folder, split, masks, seen, notes)
    faults.raise_any()
    if seen is not None:
        notes += [*seen.refuse_dim(), *seen.words()]
    classes = _classes(folder, contents, notes)
    for split in FOLDER_SPLITS:
        contents[split] = _renumbered(contents[split], classes)
    return contents, notes


def _read_split(
    folder: CocoFolder, split: str, masks: bool, seen: ImageCheck | None, notes: list[str]
) -> Content:
    """A split's file, checked; ``notes`` takes what is to be told about it."""
    path, images = (Path(getattr(folder, f"{split}_{kind}")) for kind in ("annotations", "images"))
    content, found = read(path), Notes(path)
    originals = {key: [entry.get("id") for entry in content[key]] for key in LISTS}
    normalise(content, images, found)
    for key in LISTS:
        for entry, original in zip(content[key], originals[key], strict=True):
            entry["original_id"] = original
    _leave_out_ignored(content, folder, split, found)
    _leave_out_namesakes(content, found)
    check(content, found, images, split, masks, seen)
    notes += found.lines()
    return content


def _leave_out_ignored(content: Content, folder: CocoFolder, split: str, notes: Notes) -> None:
    """Take the annotations away that are known to be broken.

    Raises:
        UserError: there is no annotation of an id.
    """
    ignored = set(getattr(folder.ignored, split))
    ids = [entry.get("id") for entry in content["annotations"]]
    unknown = sorted(ignored - {number for number in ids if type(number) is int})
    if unknown:
        raise UserError(
            f"detection.data.folder.ignored.{split}: no annotation of "
            f"{getattr(folder, f'{split}_annotations')} has the id {listed(unknown)}"
        )
    kept = []
    for entry, number in zip(content["annotations"], ids, strict=True):
        if type(number) is int and number in ignored:
            notes.add("annotation(s) left out, as detection.data.folder.ignored asks", number)
        else:
            kept.append(entry)
    content["annotations"] = kept
    if not content["annotations"]:
        raise UserError(
            f"detection.data.folder.ignored.{split} leaves no annotation of "
            f"{getattr(folder, f'{split}_annotations')}"
        )


def _leave_out_namesakes(content: Content, notes: Notes) -> None:
    """Take away a root of the categories that has a class's name, as Roboflow may write."""
    annotated = {entry.get("category_id") for entry in content["annotations"]}
    names = Counter(str(entry.get("name")) for entry in content["categories"])
    kept = []
    for entry in content["categories"]:
        if (
            str(entry.get("supercategory")).lower() == "none"
            and entry.get("id") not in annotated
            and names[str(entry.get("name"))] > 1
        ):
            names[str(entry.get("name"))] -= 1
            notes.add(
                "root(s) of the categories, left out for the class of that name", entry["name"]
            )
        else:
            kept.append(entry)
    content["categories"] = kept


# ---- classes ---------------------------------------------------------------------------------


def _classes(folder: CocoFolder, contents: dict[str, Content], notes: list[str]) -> list[str]:
    """The names of the classes, in the order of the training file.

    Classes are told apart by their names: ids are a file's own, and so is their order.

    Raises:
        UserError: the test file has annotations of a class that training does not know; or one of
            the files has none of single objects.
    """
    names = {
        split: {entry["id"]: entry["name"] for entry in contents[split]["categories"]}
        for split in FOLDER_SPLITS
    }
    counts = {
        split: Counter(names[split][e["category_id"]] for e in contents[split]["annotations"])
        for split in FOLDER_SPLITS
    }
    annotated = set(counts["train"]) | set(counts["test"])
    roots = {
        name for split in FOLDER_SPLITS for name in _roots(contents[split]) if name not in annotated
    }
    if roots:
        notes.append(
            f"{folder.train_annotations}: {listed(sorted(roots))} is left out: the root of the "
            "categories (supercategory 'none'), which no annotation has"
        )
    classes = [name for name in names["train"].values() if name not in roots]
    unknown = [name for name in names["test"].values() if name not in {*classes, *roots}]
    if learnt := [name for name in unknown if name in annotated]:
        raise UserError(_on_unknown(folder, names, learnt, classes))
    if unknown:
        notes.append(
            f"{folder.test_annotations}: {listed(unknown)} is left out: {folder.train_annotations} "
            "does not have it, and no annotation"
        )
    ids = [{name: number for number, name in names[split].items()} for split in FOLDER_SPLITS]
    if moved := [name for name in classes if name in ids[1] and ids[0][name] != ids[1][name]]:
        notes.append(
            f"{folder.test_annotations}: {len(moved)} categories have other ids than in "
            f"{folder.train_annotations}, as {moved[0]!r}; they are matched by their names"
        )
    for split in FOLDER_SPLITS:
        path = getattr(folder, f"{split}_annotations")
        own = {names[split][e["category_id"]] for e in contents[split]["annotations"] if _is_one(e)}
        if not own:
            raise UserError(
                f"{path}: every annotation is of a crowd (iscrowd 1), which no detector learns and "
                "no AP counts; write iscrowd 0 where a box is around one object"
            )
        if empty := [name for name in classes if name not in own]:
            notes.append(
                f"{path}: no annotation of {listed(empty)}: "
                + {"train": "no detector learns it", "test": "no AP is of it"}[split]
            )
    return classes


def _is_one(annotation: dict[str, Any]) -> bool:
    """Whether an annotation is of one object, and not of a crowd."""
    return not annotation["iscrowd"]


def _roots(content: Content) -> list[str]:
    """The names of categories that only group others, as Roboflow writes one."""
    parents = {entry.get("supercategory") for entry in content["categories"]}
    return [
        entry["name"]
        for entry in content["categories"]
        if str(entry.get("supercategory")).lower() == "none"
        and (entry["id"] == 0 or entry["name"] in parents)
    ]


def _on_unknown(
    folder: CocoFolder, names: dict[str, dict[int, str]], unknown: list[str], classes: list[str]
) -> str:
    ids = {name: number for number, name in names["test"].items()}
    first = unknown[0]
    in_training = names["train"].get(ids[first])
    same_id = f" There, id {ids[first]} is {in_training!r}." if in_training else ""
    return (
        f"{folder.test_annotations}: its annotations are of "
        f"{listed([f'{ids[name]} {name!r}' for name in unknown])}, and {folder.train_annotations} "
        f"has no category of that name.{suggest(first, classes)}{same_id} Give both files the same "
        f"names; training has {listed(classes)}"
    )


# ---- numbers ---------------------------------------------------------------------------------


def _renumbered(content: Content, classes: list[str]) -> Content:
    """The content with ids from 1 on, and the categories that ``classes`` names."""
    own = {entry["name"]: entry for entry in content["categories"]}
    categories = [
        {**own.get(name, {"original_id": None}), "id": number, "name": name}
        for number, name in enumerate(classes, start=1)
    ]
    number_of = {name: number for number, name in enumerate(classes, start=1)}
    category_ids = {
        entry["id"]: number_of[entry["name"]]
        for entry in content["categories"]
        if entry["name"] in number_of
    }
    image_ids = {entry["id"]: number for number, entry in enumerate(content["images"], start=1)}
    return {
        **content,
        "images": [{**entry, "id": image_ids[entry["id"]]} for entry in content["images"]],
        "annotations": [
            {
                **entry,
                "id": number,
                "image_id": image_ids[entry["image_id"]],
                "category_id": category_ids[entry["category_id"]],
            }
            for number, entry in enumerate(content["annotations"], start=1)
        ],
        "categories": categories,
    }
