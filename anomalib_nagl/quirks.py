"""Where the published code and a sound implementation part: a named switch for each quirk (specification, 15)."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

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
}
_BASES = ("paper", "corrected")


@dataclass(frozen=True)
class Quirks:
    """Switches of the published behaviour; all on is ``paper``, all off is ``corrected``."""

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

    @classmethod
    def parse(cls, variant: str) -> Quirks:
        """Read ``paper`` or ``corrected``, optionally with single quirks switched: ``paper-Q1``, ``corrected+Q4+Q13``.

        Raises ValueError for anything else, with the names that exist.
        """
        base, *changes = re.split(r"(?=[+-])", variant.replace(" ", ""))
        unknown = [c for c in changes if c[1:] not in _SWITCHES]
        if base not in _BASES or unknown:
            raise ValueError(
                f"found variant {variant!r}, expected 'paper' or 'corrected', optionally followed by +Qn or -Qn with "
                f"n in {', '.join(_SWITCHES)}"
            )
        quirks = cls(**{f.name: base == "paper" for f in fields(cls)})
        return replace(quirks, **{_SWITCHES[c[1:]]: c[0] == "+" for c in changes})
