"""What an exported model tells the box: the facts of its manifest, and its references as a pack."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from anomalib_nagl.bank.bank_file import Pack, Reference
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.export.graphs import DetectionGraph, ReferenceTensors
from anomalib_nagl.io.arrays import thumbnail


def facts_of(nagl: Any) -> dict[str, Any]:
    """Facts of a ``Nagl`` model for the manifest."""
    return {
        "signature": signature_of(nagl),
        "head_trained": nagl.head_trained,
        "outputs": DetectionGraph(nagl).output_names[:-2],
    }


def signature_of(nagl: Any) -> dict[str, Any]:
    """What a reference pack must share with a model: backbone, head, grid and sizes."""
    model: NaglModel = nagl.model
    return {
        "backbone": f"{model.encoder.name.rpartition('/')[2]} {model.encoder.fingerprint()}",
        "head": _head_hash(model.head),
        "variant": str(nagl.hparams["variant"]),
        "context": model.head.quirks.context,
        "grid": list(model.encoder.grid),
        "image_size": list(model.encoder.image_size),
        "dim": model.head.dim,
        "num_proxies": model.head.learnable_proxies.num_embeddings,
    }


def pack_of(nagl: Any) -> Pack:
    """The references of a ``Nagl`` model; RuntimeError if its checkpoint is too old to hold their tokens."""
    model: NaglModel = nagl.model
    tensors = ReferenceTensors.of(nagl)
    abnormal = len(model.reference_masks)
    normal = len(model.reference_images) - abnormal
    if not len(model.abnormal_tokens) == len(model.abnormal_located) == abnormal:
        raise RuntimeError(
            "found references without their tokens, expected both: take the references anew with `anomalib train "
            "--model.head`"
        )
    patches = model.encoder.grid[0] * model.encoder.grid[1]
    owner = model.normal_owner.cpu()  # a coreset holds fewer than all patches of a picture
    bank = [tensors.normal_bank[: len(owner)][owner == i] for i in range(normal)]
    tokens = [*bank, *model.abnormal_tokens.cpu()]
    marks = [torch.zeros(patches)] * normal + list(model.abnormal_marks.cpu())
    located = [False] * normal + model.abnormal_located.tolist()
    references = tuple(
        Reference(
            **record,
            thumbnail=thumbnail(picture.cpu().numpy()),
            tokens=one.detach().numpy(),
            marks=marked.numpy(),
            located=known,
        )
        for record, picture, one, marked, known in zip(
            _named_records(nagl.references, normal, abnormal),
            model.reference_images,
            tokens,
            marks,
            located,
            strict=True,
        )
    )
    proxies, thresholds = tensors.residual_proxies.detach().numpy(), tensors.thresholds.numpy()
    return Pack(references, proxies, thresholds, signature_of(nagl))


def _named_records(records: list[dict[str, str]], normal: int, abnormal: int) -> list[dict[str, str]]:
    """Records of all references under names of their own, made up where the model was given tensors alone."""
    if len(records) != normal + abnormal:
        kinds = ["normal"] * normal + ["abnormal"] * abnormal
        records = [
            {"kind": kind, "name": f"{kind} {i}", "defect_type": "", "sha256": ""} for i, kind in enumerate(kinds)
        ]
    taken: set[str] = set()
    named = []
    for record in records:
        name, count = record["name"], 2
        while name in taken:
            name, count = f"{record['name']} ({count})", count + 1
        taken.add(name)
        named.append({**{key: record[key] for key in ("kind", "defect_type", "sha256")}, "name": name})
    return named


def _head_hash(head: NaglHead) -> str:
    """Sixteen hex digits of a head's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(head.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + _bytes(tensor))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().float().cpu().contiguous().numpy().tobytes()
