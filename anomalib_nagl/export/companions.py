"""What an exported model tells the box: the facts of its manifest, and its references for the bank."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.export.exportable import Exportable
from anomalib_nagl.io.arrays import as_image, content_hash
from anomalib_nagl.io.given import File, keep


def facts_of(exportable: Exportable) -> dict[str, Any]:
    """Facts of a model for the manifest."""
    return {
        "compatibility": compatibility_of(exportable),
        "head_trained": exportable.head_trained,
        "outputs": list(exportable.outputs),
    }


def compatibility_of(exportable: Exportable) -> dict[str, Any]:
    """What a reference bank must share with a model: backbone, head, grid and sizes."""
    model = exportable.model
    variant = model.head.variant
    return {
        "backbone": f"{model.encoder.name.rpartition('/')[2]} {model.encoder.fingerprint()}",
        "head": _head_hash(model.head),
        "variant": exportable.variant,
        "context": variant.context,
        "shifted_grid": variant.shifted_grid,
        "proxies": variant.proxies,
        "defects": variant.defects,
        "grid": list(model.encoder.grid),
        "image_size": list(model.encoder.image_size),
        "dim": model.head.dim,
        "num_proxies": model.head.learnable_proxies.num_embeddings,
        "shared_mining": variant.shared_mining,
        "bank_limit": exportable.bank_limit,
        "views": model.views,
        **({"windows": model.encoder.cut.facts()} if model.encoder.cut is not None else {}),
    }


def lessons_of(exportable: Exportable) -> list[Lesson]:
    """The references of a model for a bank, with their images."""
    model = exportable.model
    abnormal, normal = len(model.reference_masks), model.n_normal
    tokens = [*model.normal_tokens, *model.abnormal_tokens]
    unmarked = torch.zeros(model.encoder.grid[0] * model.encoder.grid[1])
    masks = [unmarked] * normal + list(model.abnormal_patch_mask)
    localized = [False] * normal + model.abnormal_localized.tolist()
    entries = _named(exportable.entries, normal, abnormal)
    return [
        Lesson.of(
            Reference(
                entry["kind"],
                entry["name"],
                entry.get("defect_type", ""),
                entry.get("sha256", ""),
                entry.get("mask_sha256", ""),
                known,
            ),
            patches.detach().float().cpu().numpy(),
            marked.float().cpu().numpy(),
            model.encoder.grid,
            _files(model, i, entry, known),
            model.symmetries,
        )
        for i, (entry, patches, marked, known) in enumerate(zip(entries, tokens, masks, localized, strict=True))
    ]


def _files(model: NaglModel, index: int, entry: dict[str, str], localized: bool) -> dict[str, File]:
    """The files that a reference came from or, where they are gone or were none, what the model keeps to show."""
    path, mask = Path(entry["source"]), Path(entry.get("mask") or "")
    if entry["source"] and path.is_file() and content_hash(as_image(path)) == entry["sha256"]:
        return keep(path, mask if entry.get("mask") and mask.is_file() else None)
    image = model.reference_images[index].permute(1, 2, 0).cpu().numpy()
    has_mask = index >= model.n_normal and (localized or bool(entry.get("mask_sha256")))
    return keep(image, model.reference_masks[index - model.n_normal].cpu().numpy() if has_mask else None)


def _named(entries: list[dict[str, str]], normal: int, abnormal: int) -> list[dict[str, str]]:
    """Facts of all references under names of their own, made up where the model was given tensors alone."""
    if len(entries) != normal + abnormal:
        kinds = ["normal"] * normal + ["abnormal"] * abnormal
        entries = [{"kind": kind, "name": f"{kind} {i}"} for i, kind in enumerate(kinds)]
    taken: set[str] = set()
    named = []
    for entry in entries:
        short = _short(entry["name"])
        name, count = short, 2
        while name in taken:
            name, count = f"{short} ({count})", count + 1
        taken.add(name)
        named.append({**entry, "name": name, "source": entry["name"]})
    return named


def _short(name: str) -> str:
    """A name to type: of a file its folder and its name without the ending."""
    path = PurePath(name)
    return PurePath(path.parent.name, path.stem).as_posix() if path.suffix else name


def _head_hash(head: NaglHead) -> str:
    """Sixteen hex digits of a head's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(head.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + _bytes(tensor))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().float().cpu().contiguous().numpy().tobytes()
