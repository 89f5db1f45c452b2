"""``anomalib-nagl references check DIR``: what would be used, what is wrong with it, and how good it is."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from anomalib.visualization.image.functional import add_text_to_image
from PIL import Image, ImageChops, ImageFilter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from anomalib_nagl.core.model import NaglModel, ReferenceTokens
from anomalib_nagl.plugin.lightning_model import Nagl
from anomalib_nagl.references.folders import ReferenceFiles, scan
from anomalib_nagl.references.prepare import prepare_references
from anomalib_nagl.references.quality import DefectQuality, NormalQuality, file_problems, quality
from anomalib_nagl.references.record import read_record
from anomalib_nagl.references.reference_set import DEVIATING, MASK_POLICIES, ReferenceSet, load_references

TILE, GAP, COLUMNS = 224, 4, 6
GIVEN_COLOUR, FOUND_COLOUR = (255, 0, 0), (255, 160, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``references check`` with these arguments; returns 1 when something stops the references from being used."""
    options = _parser().parse_args(arguments)
    console = Console()
    folder = Path(options.folder)
    files = read_record(folder).files if folder.suffix == ".json" else scan(folder)
    _print_files(console, files)
    problems = file_problems(files)
    for problem in sorted(problems, key=lambda problem: not problem.fatal):
        style = "bold red" if problem.fatal else "yellow"
        console.print(
            f"[{style}]{'problem' if problem.fatal else 'note'}[/] {problem}", soft_wrap=True, highlight=False
        )
    if any(problem.fatal for problem in problems):
        console.print("Not checked any further: put the problems right first.")
        return 1
    references = load_references(files.normal, files.abnormal, options.masks)
    model, tokens = _encode(references, options)
    normal, defects = quality(*tokens[:3], references.names, references.defect_types)
    # A mask that was found by deviation is in contrast by construction.
    found = [origin == DEVIATING for origin in references.mask_sources]
    defects = [one._replace(contrast=math.nan) if bare else one for one, bare in zip(defects, found, strict=False)]
    _print_quality(console, normal, defects)
    sheet = contact_sheet(references, model)
    sheet.save(options.sheet)
    console.print(f"Contact sheet: {options.sheet}", soft_wrap=True, highlight=False)
    if options.checkpoint is None and options.backbone == "gabor":
        console.print(
            "Compared by gabor, which knows textures only: --checkpoint or --backbone for the features in use."
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anomalib-nagl references", description=__doc__)
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("check", help="print what would be used of a folder of references")
    check.add_argument("folder", help="folder of references, or the references.json of a run")
    check.add_argument("--checkpoint", help="compare with the backbone of this checkpoint")
    check.add_argument("--backbone", default="gabor", help="backbone to compare with, as of Nagl")
    check.add_argument("--layers", help="stages of a CNN backbone")
    check.add_argument("--backbone_weights", help="weight file of the backbone")
    check.add_argument("--image_size", type=int, default=256, help="side of the network input in pixels")
    check.add_argument("--masks", default="auto", choices=MASK_POLICIES, help="as of ReferenceDataModule")
    check.add_argument("--sheet", default="references_check.png", help="file to write the contact sheet to")
    return parser


def _encode(references: ReferenceSet, options: argparse.Namespace) -> tuple[NaglModel, ReferenceTokens]:
    """Show the references to a model; its head is not asked."""
    if options.checkpoint:
        nagl = Nagl.load_from_checkpoint(options.checkpoint)
    else:
        nagl = Nagl(options.backbone, options.layers, options.backbone_weights, options.image_size)
    model = nagl.model
    model.encoder.ensure_weights()
    transform = getattr(nagl.pre_processor, "transform", None)
    if transform is None:
        raise ValueError("found a checkpoint without a pre-processor, expected one: check with --backbone instead")
    with torch.no_grad():
        return model, model.set_references(*prepare_references(references, transform, model.encoder.image_size))


def _print_files(console: Console, files: ReferenceFiles) -> None:
    table = Table(title=f"References in {files.root}")
    for column in ("kind", "type", "pictures", "with masks"):
        table.add_column(column, justify="right" if column in ("pictures", "with masks") else "left")
    table.add_row("normal", "good", str(len(files.normal)), "")
    for kind in sorted({file.defect_type for file in files.abnormal}):
        found = [file for file in files.abnormal if file.defect_type == kind]
        table.add_row("abnormal", kind, str(len(found)), str(sum(file.mask is not None for file in found)))
    console.print(table)


def _print_quality(console: Console, normal: list[NormalQuality], defects: list[DefectQuality]) -> None:
    spread = [one.held_out for one in normal if not math.isnan(one.held_out)]
    table = Table(title="Normal references: deviation of each from the others")
    for column in ("picture", "deviation", "remarks"):
        table.add_column(column, overflow="fold")
    for one in normal:
        table.add_row(one.name, _number(one.held_out), "; ".join(one.remarks))
    console.print(table)
    if spread:
        middle = sum(spread) / len(spread)
        console.print(f"Mean {middle:.4f}, from {min(spread):.4f} to {max(spread):.4f}.")
    else:
        console.print("The spread of normal pictures is unknown with fewer than two: add another.")
    if not defects:
        return
    table = Table(title="Abnormal references: how far they stand out (above 1: further than normal ones do)")
    for column in ("picture", "type", "deviation", "stands out", "contrast", "remarks"):
        table.add_column(column, overflow="fold")
    for each in defects:
        numbers = (_number(each.deviation), _number(each.stands_out, 2), _number(each.contrast, 2))
        table.add_row(each.name, each.defect_type, *numbers, "; ".join(each.remarks))
    console.print(table)


def _number(value: float, digits: int = 4) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def contact_sheet(references: ReferenceSet, model: NaglModel) -> Image.Image:
    """All references as the model sees them; given masks are outlined in red, found ones in orange."""
    tiles = []
    pictures = [Image.fromarray(image) for image in model.reference_images.permute(0, 2, 3, 1).cpu().numpy()]
    n = len(references.normal)
    captions = ["normal"] * n + list(references.defect_types)
    for i, picture in enumerate(pictures):
        if i >= n:
            colour = FOUND_COLOUR if references.mask_sources[i - n] == DEVIATING else GIVEN_COLOUR
            picture = _outline(picture, model.reference_masks[i - n].cpu(), colour)
        name = Path(references.names[i]).name
        tile = picture if picture.size == (TILE, TILE) else picture.resize((TILE, TILE))
        tiles.append(add_text_to_image(tile, f"{captions[i]}: {name}", size=14))
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, rows * (TILE + GAP) + GAP), (255, 255, 255))
    for i, tile in enumerate(tiles):
        place = (GAP + i % columns * (TILE + GAP), GAP + i // columns * (TILE + GAP))
        sheet.paste(tile.convert("RGB"), place)
    return sheet


def _outline(picture: Image.Image, mask: Tensor, colour: tuple[int, int, int]) -> Image.Image:
    """A picture at the size of a tile, with a line around its mask (H, W)."""
    marked = Image.fromarray(mask.to(torch.uint8).numpy() * 255).resize((TILE, TILE), Image.Resampling.NEAREST)
    line = ImageChops.difference(marked.filter(ImageFilter.MaxFilter(5)), marked)
    return Image.composite(Image.new("RGB", (TILE, TILE), colour), picture.resize((TILE, TILE)), line)
