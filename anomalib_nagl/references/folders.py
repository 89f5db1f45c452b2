"""Reference images in plain folders: which file is what, and what is wrong with the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from anomalib_nagl.references.images import is_image_file, read_header
from anomalib_nagl.references.sample import Sample

NORMAL_NAMES, ABNORMAL_NAMES = ("normal", "good"), ("abnormal", "defects")
MASK_NAMES = ("masks", "ground_truth")
LAYOUT = (
    "normal/ with good images, abnormal/TYPE/ with abnormal ones, and masks/TYPE/ with masks named like their "
    "images (masks may be missing, or lie beside the images as NAME_mask.png)"
)
UNNAMED_DEFECT = "defect"  # type of abnormal images that lie in no folder of a type
_SEPARATORS = "_-. "
_SHOWN = 5  # problems listed in an error


class Problem(NamedTuple):
    """Something a person should look at: where, what was found, what to do. Only ``fatal`` ones stop a run."""

    path: str
    found: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        """Path, problem and remedy in one line for logs."""
        return f"{self.path}: {self.found}: {self.remedy}"


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


def scan(folder: str | Path) -> ReferenceFiles:
    """Find out what a folder of references holds, sorted by path; ValueError if there is no such folder.

    A mask belongs to the image of its type whose stem its own stem repeats, alone or followed by one of ``_-.`` and
    anything; of several such images, to the one with the longest stem.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"found no folder {root}, expected references there: make it, with {LAYOUT}")
    problems: list[Problem] = []
    normal = [Sample(path.as_posix()) for name in NORMAL_NAMES for path in _images(root / name, problems)]
    abnormal = [
        file
        for name in ABNORMAL_NAMES
        for kind in _types(root / name)
        for file in _one_type(root, root / name, kind, problems)
    ]
    _orphan_folders(root, problems)
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
    return ["", *sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]


def _images(folder: Path, problems: list[Problem] | None = None) -> list[Path]:
    """Images directly in a folder, sorted; other files are noted."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini") or path.is_dir():
            continue
        if is_image_file(path):
            found.append(path)
        elif problems is not None:
            problems.append(Problem(str(path), "not an image by its name", "it is left out", fatal=False))
    return found


def _one_type(root: Path, folder: Path, kind: str, problems: list[Problem]) -> list[Sample]:
    """Images of one defect type with their masks; the empty kind are images that lie in no sub-folder."""
    everything = _images(folder / kind, problems)
    stems = {path.stem for path in everything}
    beside = [path for path in everything if path.stem.endswith("_mask") and path.stem[:-5] in stems]
    images = [path for path in everything if path not in beside]
    for path in images:
        if path.stem.endswith("_mask"):
            problems.append(Problem(str(path), "a mask without its image", f"add {path.stem[:-5]}.*, or remove it"))
    images = [path for path in images if not path.stem.endswith("_mask")]
    masks = beside + [path for name in MASK_NAMES for path in _images(root / name / kind, problems)]
    return [
        Sample(path.as_posix(), mask.as_posix() if mask else None, kind or UNNAMED_DEFECT)
        for path, mask in _match(images, masks, problems)
    ]


def _match(images: list[Path], masks: list[Path], problems: list[Problem]) -> list[tuple[Path, Path | None]]:
    """Pair images with masks by stem; what is ambiguous or left over is a problem."""
    owners: dict[str, list[Path]] = {}
    for mask in masks:
        candidates = [path.stem for path in images if _begins(mask.stem, path.stem)]
        if candidates:
            owners.setdefault(max(candidates, key=len), []).append(mask)
        else:
            remedy = "name it like its image, or remove it"
            problems.append(Problem(str(mask), "a mask that belongs to no image", remedy))
    pairs: list[tuple[Path, Path | None]] = []
    for path in images:
        found = owners.get(path.stem, [])
        twins = [other for other in images if other.stem == path.stem]
        if len(found) > 1:
            listed = " and ".join(str(mask) for mask in found)
            problems.append(Problem(str(path), f"{len(found)} masks, {listed}", "keep one"))
        elif found and len(twins) > 1:
            listed = " and ".join(twin.name for twin in twins)
            problems.append(Problem(str(found[0]), f"a mask that fits {listed}", "give the images different names"))
        pairs.append((path, found[0] if found else None))
    return pairs


def _begins(mask_stem: str, image_stem: str) -> bool:
    rest = mask_stem[len(image_stem) :]
    return mask_stem.startswith(image_stem) and (not rest or rest[0] in _SEPARATORS)


def _orphan_folders(root: Path, problems: list[Problem]) -> None:
    """Masks of a type that has no images."""
    known = {kind for name in ABNORMAL_NAMES for kind in _types(root / name)}
    for name in MASK_NAMES:
        for kind in _types(root / name):
            images = _images(root / name / kind)
            if images and kind not in known:
                remedy = f"rename the folder, or add images to abnormal/{kind}"
                problems.append(Problem(str(root / name / kind), f"masks of {kind!r}, of which no image is", remedy))


def _check_readable(path: Path, problems: list[Problem]) -> None:
    try:
        read_header(path)
    except ValueError:
        problems.append(Problem(str(path), "cannot be read as an image", "replace or remove the file"))
