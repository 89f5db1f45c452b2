"""Which reference a prediction resembles most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_nagl.bank.nearest import NearestReference
from anomalib_nagl.core.functional import l2_normalize


class OwnedPatches(NamedTuple):
    """Patches (P, C) of some references, whose they are (P,), and the number of these references."""

    tokens: Tensor
    owner: Tensor
    number: int


def reference_similarity(
    tokens: Tensor, score: Tensor, normal: OwnedPatches, abnormal: OwnedPatches, count: int | None = None
) -> Tensor:
    """How alike queries (B, M, C) with patch scores (B, M) and each of n + a references are: (B, n + a).

    Of a query only the patches count that decide its score: the highest 1 %, or as many as ``count`` says. Each is
    compared with the most similar patch of a reference, of an abnormal one with its marked patches alone; the mean of
    these cosines is the similarity, and -1 where no patch of a reference was kept.
    """
    query = l2_normalize(deciding(tokens, score, count))
    found = []
    for patches, owner, number in (normal, abnormal):
        if number:
            cosine = query @ l2_normalize(patches).T
            least = cosine.new_full((*cosine.shape[:-1], number), -1.0)
            found.append(least.scatter_reduce(-1, owner.expand_as(cosine), cosine, "amax").mean(1))
    return torch.cat(found, dim=-1)


def deciding(tokens: Tensor, score: Tensor, count: int | None = None) -> Tensor:
    """The patches (B, K, C) of queries (B, M, C) that decide their score: the K highest of (B, M), or 1 %."""
    top = score.topk(max(int(0.01 * score.shape[-1]), 1) if count is None else count, dim=-1).indices
    return tokens.gather(1, top[..., None].expand(-1, -1, tokens.shape[-1]))


def nearest_references(similarity: Tensor, records: Sequence[Mapping[str, str]]) -> list[NearestReference]:
    """The most similar reference of each query, from similarities (B, n + a) and the records of the references."""
    values, places = similarity.max(dim=-1)
    unknown = {"kind": "unnamed", "name": "", "defect_type": ""}
    found = []
    for value, index in zip(values.tolist(), places.tolist(), strict=True):
        record = records[index] if index < len(records) else unknown
        found.append(NearestReference(index, record["kind"], record["name"], record["defect_type"], float(value)))
    return found
