"""Where the published code, a sound implementation and this package part: a named switch for each difference."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_SWITCHES = {
    "Q1": "mixed_masks",
    "Q2": "interleaved_positions",
    "Q3": "normal_positions",
    "Q4": "dot_matching",
    "Q5": "shifted_grid",
    "Q6": "soft_mask",
    "Q7": "pooled_batch",
    "Q8": "overwritten_normal",
    "Q11": "zero_masked",
    "Q12": "similarity_logits",
    "Q13": "top_twenty",
    "Q30": "decay_all",
    "context": "context",
    "defects": "defects",
    "proxies": "proxies",
}
_OURS = {"context", "defects"}  # neither a quirk of the published code nor a correction of one
_BASES = ("paper", "corrected", "extended")


@dataclass(frozen=True)
class Quirks:
    """Switches of behaviour: ``paper`` has every quirk (specification, 15), ``corrected`` none.

    ``extended`` is ``corrected`` with our own two additions. All three have the learned proxies.
    """

    mixed_masks: bool  # Q1: residual mining reads the masks of other samples of the batch
    interleaved_positions: bool  # Q2: with several abnormal references, positions are in another order than the keys
    normal_positions: bool  # Q3: positions in residual mining count normal patches only
    dot_matching: bool  # Q4: residual neighbour by dot product instead of cosine
    shifted_grid: bool  # Q5: mask windows one pixel off the patches
    soft_mask: bool  # Q6: masked keys get -1e9 instead of being excluded
    pooled_batch: bool  # Q7: without normal references, the normal patches of a whole batch are pooled and re-cut
    overwritten_normal: bool  # Q8: without normal references, the normal map is 1 - abnormal map
    zero_masked: bool  # Q11: masked normal patches compete with similarity 0
    similarity_logits: bool  # Q12: similarities in [0, 1] are used as logits
    top_twenty: bool  # Q13: the training score averages 20 patches, not the fraction used at test
    decay_all: bool  # Q30: weight decay on biases, norms and proxies too
    context: bool  # patches of abnormal references that lie clear of the mask count as normal ones
    defects: bool  # the nearest patch of a known defect is part of the abnormal map
    proxies: bool  # the learned proxies are; without them nothing is trained

    @classmethod
    def parse(cls, variant: str) -> Quirks:
        """Read a base, optionally with single switches: ``extended``, ``paper-Q1``, ``corrected+Q4+context``.

        Raises ValueError for anything else, with the names that exist.
        """
        base, *changes = re.split(r"(?=[+-])", variant.replace(" ", ""))
        unknown = [c for c in changes if c[1:] not in _SWITCHES]
        if base not in _BASES or unknown:
            raise ValueError(
                f"found variant {variant!r}, expected 'paper', 'corrected' or 'extended', optionally followed by + or "
                f"- and one of {', '.join(_SWITCHES)}"
            )
        on = {name: base == ("extended" if name in _OURS else "paper") for name in _SWITCHES.values()}
        quirks = cls(**{**on, "proxies": True})
        changed = replace(quirks, **{_SWITCHES[c[1:]]: c[0] == "+" for c in changes})
        if changed.context and changed.zero_masked:
            raise ValueError(
                f"found variant {variant!r}, expected no context with Q11, by which masked patches compete: add -Q11"
            )
        if not (changed.proxies or changed.defects):
            raise ValueError(
                f"found variant {variant!r}, expected proxies, defects or both in the abnormal map: add +defects"
            )
        return changed
