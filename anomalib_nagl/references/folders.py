"""Reference images in plain folders: which file is what, and what is wrong with the rest."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anomalib_nagl.references.images import is_image_file, read_header
from anomalib_nagl.references.problem import Problem
from anomalib_nagl.references.sample import Sample

__all__ = ["LAYOUT", "UNNAMED_DEFECT", "Problem", "ReferenceFiles", "scan"]
logger = logging.getLogger(__name__)
# One layout; each folder has two spellings.
NORMAL_NAMES, ABNORMAL_NAMES = ("good", "normal"), ("defects", "abnormal")
MASK_NAMES = ("masks", "ground_truth")
LAYOUT = (
    "good/ (or normal/) with good images, defects/ or defects/TYPE/ (or abnormal/...) with defective ones, and masks/ "
    "or masks/TYPE/ with masks named like their images (masks may be missing, or lie beside the images as "
    "NAME_mask.png)"
)
UNNAMED_DEFECT = "defect"  # type of abnormal images that lie in no folder of a type
_SEPARATORS = "_-. "
_SHOWN = 5  # problems listed in an error


@dataclass(frozen=True)
class ReferenceFiles:
    """What a folder of references holds: normal and abnormal images, and problems."""

    root: str
    normal: tuple[Sample, ...]
    abnormal: tuple[Sample, ...]
    problems: tuple[Problem, ...] = ()

    def check(self) -> ReferenceFiles:
        """Return these files, unless something is wrong with them: ValueError lists the first problems."""
        fatal = [str(problem) for problem in self.problems if problem.fatal]
        if fatal:
            more = f" ... and {len(fatal) - _SHOWN} more" if len(fatal) > _SHOWN else ""
            raise ValueError(
                f"found {len(fatal)} problem{'s' * (len(fatal) > 1)} in the references {self.root}, expected {LAYOUT}: "
                f"{'; '.join(fatal[:_SHOWN])}{more}. `anomalib-nagl references check {self.root}` shows all"
            )
        return self

    def warn(self) -> ReferenceFiles:
        """Return these files, and say of every other one that is not used why, once each, in warnings."""
        for problem in self.problems:
            if not problem.fatal:
                logger.warning("%s", problem)
        return self


def scan(folder: str | Path) -> ReferenceFiles:
    """Find out what a folder of references holds, sorted by path; ValueError if there is no such folder.

    Images may lie in folders of any depth: the type of a defect is the first folder below ``defects``. A mask belongs
    to the image of its type whose stem its own stem, or the name of its folder, repeats, alone or followed by one of
    ``_-.`` and anything; of several such images, to the one with the longest stem, then to the one in the folder of the
    same name. Several masks of an image together are its mask.
    """
    root = Path(folder)
    try:
        if not root.is_dir():
            raise ValueError(f"found no folder {root}, expected references there: make it, with {LAYOUT}")
        return _scan(root)
    except OSError as error:
        raise ValueError(
            f"found a folder that cannot be read: {error.filename or root} ({error.strerror or error}), expected "
            "references that this user may look at: give the right to read them, or use a copy"
        ) from error


def _scan(root: Path) -> ReferenceFiles:
    problems: list[Problem] = []
    normal = [Sample(path.as_posix()) for name in NORMAL_NAMES for path in _images(root / name, problems)]
    abnormal = [
        file
        for name in ABNORMAL_NAMES
        for kind in _types(root / name)
        for file in _one_type(root, root / name, kind, problems)
    ]
    _orphan_folders(root, problems)
    problems += _not_looked_at(root)
    if not normal and not abnormal:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:_SHOWN]) or "nothing"
        problems.append(Problem(str(root), f"no reference images in it, only {found}", f"expected {LAYOUT}"))
    for sample in (*normal, *abnormal):
        _check_readable(Path(sample.image), problems)
    unmasked = [file for file in abnormal if file.mask is None]
    if unmasked and not normal:
        problems.append(
            Problem(unmasked[0].image, "no mask, and no normal image to find the defect with", "add one of them")
        )
    return ReferenceFiles(root.as_posix(), tuple(normal), tuple(abnormal), tuple(problems))


def _types(folder: Path) -> list[str]:
    """Sub-folders of a folder of abnormal images, each a defect type; the empty name is the folder itself."""
    if not folder.is_dir():
        return []
    return ["", *sorted(path.name for path in folder.iterdir() if path.is_dir() and not _hidden(path))]


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def _files(folder: Path, deep: bool = True) -> Iterator[Path]:
    """Files of a folder that are meant to be seen, sorted, and those of its sub-folders if ``deep``."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _hidden(path):
            continue
        if not path.is_dir():
            yield path
        elif deep:
            yield from _files(path)


def _images(folder: Path, problems: list[Problem] | None = None, deep: bool = True) -> list[Path]:
    """Images in a folder; other files are noted."""
    found = []
    for path in _files(folder, deep):
        if is_image_file(path):
            found.append(path)
        elif problems is not None:
            problems.append(Problem(str(path), "not an image by its name", "it is left out", fatal=False))
    return found


def _not_looked_at(root: Path) -> list[Problem]:
    """Images that lie where no reference is looked for."""
    known = {*NORMAL_NAMES, *ABNORMAL_NAMES, *MASK_NAMES}
    remedy = f"it is left out, expected {LAYOUT}"
    return [
        Problem(str(path), "an image outside the folders of references", remedy, fatal=False)
        for path in _files(root)
        if is_image_file(path) and path.relative_to(root).parts[0] not in known
    ]


def _one_type(root: Path, folder: Path, kind: str, problems: list[Problem]) -> list[Sample]:
    """Images of one defect type with their masks; the empty kind are images that lie in no sub-folder."""
    home, deep = folder / kind, bool(kind)
    everything = _images(home, problems, deep)
    stems = {(path.parent, path.stem) for path in everything}
    beside = [path for path in everything if path.stem.endswith("_mask") and (path.parent, path.stem[:-5]) in stems]
    for path in everything:
        if path.stem.endswith("_mask") and path not in beside:
            problems.append(Problem(str(path), "a mask without its image", f"add {path.stem[:-5]}.*, or remove it"))
    images = {path: path.parent.relative_to(home) for path in everything if not path.stem.endswith("_mask")}
    masks = {path: path.parent.relative_to(home) for path in beside}
    for name in MASK_NAMES:
        own = root / name / kind
        masks.update({path: path.parent.relative_to(own) for path in _mask_images(own, images, deep, problems)})
    return [
        Sample(
            path.as_posix(),
            found[0].as_posix() if found else None,
            kind or UNNAMED_DEFECT,
            tuple(mask.as_posix() for mask in found[1:]),
        )
        for path, found in pair_masks(images, masks, problems)
    ]


def _mask_images(folder: Path, images: dict[Path, Path], deep: bool, problems: list[Problem]) -> list[Path]:
    """Masks of one type; of images without a type, also those in folders named like an image."""
    found = _images(folder, problems, deep)
    if not deep:
        stems = {path.stem for path in images}
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.is_dir() and path.name in stems:
                found += _images(path, problems)
    return found


def pair_masks(
    images: dict[Path, Path], masks: dict[Path, Path], problems: list[Problem]
) -> list[tuple[Path, list[Path]]]:
    """Pair images with masks by stem (see ``scan``), both with their folder below that of their type.

    What is left over, or fits several images, is added to the problems.
    """
    owners: dict[Path, list[Path]] = {path: [] for path in images}
    for mask, place in masks.items():
        found = _owners(mask, place, images)
        if len(found) == 1:
            owners[found[0]].append(mask)
        elif found:
            listed = " and ".join(path.name if len(set(images.values())) == 1 else str(path) for path in found)
            remedy = "give the images different names, or put masks into folders like those of their images"
            problems.append(Problem(str(mask), f"a mask that fits {listed}", remedy))
        else:
            remedy = "name it like its image, or remove it"
            problems.append(Problem(str(mask), "a mask that belongs to no image", remedy))
    for path, found in owners.items():
        if len(found) > 1:
            listed = " and ".join(str(mask) for mask in found)
            remedy = "all of them together are used as one"
            problems.append(Problem(str(path), f"{len(found)} masks, {listed}", remedy, fatal=False))
    return list(owners.items())


def _owners(mask: Path, place: Path, images: dict[Path, Path]) -> list[Path]:
    """Images that a mask may belong to, whose folder is ``place`` below that of its type."""
    fitting = [path for path in images if _begins(mask.stem, path.stem)]
    if not fitting:  # a folder of masks for each image
        fitting = [path for path in images if mask.parent.name == path.stem]
        place = place.parent
    longest = max((len(path.stem) for path in fitting), default=0)
    fitting = [path for path in fitting if len(path.stem) == longest]
    return [path for path in fitting if images[path] == place] or fitting


def _begins(mask_stem: str, image_stem: str) -> bool:
    rest = mask_stem[len(image_stem) :]
    return mask_stem.startswith(image_stem) and (not rest or rest[0] in _SEPARATORS)


def _orphan_folders(root: Path, problems: list[Problem]) -> None:
    """Masks of a type that has no images."""
    known = {kind for name in ABNORMAL_NAMES for kind in _types(root / name)}
    unnamed = {path.stem for name in ABNORMAL_NAMES for path in _images(root / name, deep=False)}
    for name in MASK_NAMES:
        for kind in _types(root / name):
            if kind and kind not in known | unnamed and _images(root / name / kind):
                remedy = f"rename the folder, or add images to defects/{kind}"
                problems.append(Problem(str(root / name / kind), f"masks of {kind!r}, of which no image is", remedy))
        loose = _images(root / name, deep=False) if "" not in known else []
        for path in loose:
            problems.append(Problem(str(path), "a mask that belongs to no image", "there are no abnormal images"))


def _check_readable(path: Path, problems: list[Problem]) -> None:
    try:
        read_header(path)
    except ValueError:
        problems.append(Problem(str(path), "cannot be read as an image", "replace or remove the file"))
