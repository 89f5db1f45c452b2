"""What an exported model tells the box: the facts of its manifest, and its references as a bank."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_nagl.bank.bank import Bank, Reference
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.export.exportable import Exportable
from anomalib_nagl.io.arrays import thumbnail

_FACTS = ("kind", "defect_type", "sha256")


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
        "grid": list(model.encoder.grid),
        "image_size": list(model.encoder.image_size),
        "dim": model.head.dim,
        "num_proxies": model.head.learnable_proxies.num_embeddings,
    }


def bank_of(exportable: Exportable) -> Bank:
    """The references of a model."""
    model = exportable.model
    abnormal, normal = len(model.reference_masks), model.n_normal
    owners = model.normal_owners.cpu()  # a coreset holds fewer than all patches of an image
    own = model.normal_bank[: len(owners)].cpu()
    tokens = [*(own[owners == i] for i in range(normal)), *model.abnormal_tokens.cpu()]
    unmarked = torch.zeros(model.encoder.grid[0] * model.encoder.grid[1])
    masks = [unmarked] * normal + list(model.abnormal_patch_mask.cpu())
    localized = [False] * normal + model.abnormal_localized.tolist()
    references = tuple(
        Reference(
            **facts,
            thumbnail=thumbnail(image.cpu().numpy()),
            tokens=patches.detach().numpy(),
            patch_mask=marked.numpy(),
            localized=known,
        )
        for facts, image, patches, marked, known in zip(
            _named(exportable.entries, normal, abnormal), model.reference_images, tokens, masks, localized, strict=True
        )
    )
    proxies = model.state["residual_proxies"].detach().cpu().numpy()
    return Bank(references, proxies, np.array(exportable.thresholds, np.float32), compatibility_of(exportable))


def _named(entries: list[dict[str, str]], normal: int, abnormal: int) -> list[dict[str, str]]:
    """Facts of all references under names of their own, made up where the model was given tensors alone."""
    if len(entries) != normal + abnormal:
        kinds = ["normal"] * normal + ["abnormal"] * abnormal
        entries = [
            {"kind": kind, "name": f"{kind} {i}", "defect_type": "", "sha256": ""} for i, kind in enumerate(kinds)
        ]
    taken: set[str] = set()
    named = []
    for entry in entries:
        name, count = entry["name"], 2
        while name in taken:
            name, count = f"{entry['name']} ({count})", count + 1
        taken.add(name)
        named.append({**{key: entry[key] for key in _FACTS}, "name": name})
    return named


def _head_hash(head: NaglHead) -> str:
    """Sixteen hex digits of a head's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(head.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + _bytes(tensor))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().float().cpu().contiguous().numpy().tobytes()
