"""Names that the settings of an evaluation may hold: plain text, so that a misspelt one is found without torch."""

from __future__ import annotations

import re

from anomalib_nagl.references.names import SYNTHETIC_METHODS

BASELINES = (
    "patchcore", "padim", "mh_patchcore", "anomaly_dino", "rad", "super_add", "dinomaly", "inp_former", "winclip",
    "foundad",
)  # fmt: skip
ALL = "_all"  # ends the name of a baseline that learns from every normal image of the train split
EVERY_NORMAL = tuple(name + ALL for name in BASELINES if name != "winclip")
PROTOCOLS = ("fixed", "unseen", "paper")
SOURCES = ("other_domains", "same_domain", "same_object")
ABNORMAL = ("real", *SYNTHETIC_METHODS)
STRATEGIES = ("uniform", "per_type")  # those whose larger sets of references contain the smaller
MASKS = ("given", "guessed", "whole")
TURNS = {"turn90": 1, "turn180": 2, "turn270": 3}  # quarter turns of whole source categories
EXTRA_SOURCES = (*TURNS, *SYNTHETIC_METHODS)

# NAGL without training: heads that everybody has, and that read no other abnormal reference than real ones.
UNTRAINED_HEADS: dict[str, dict[str, object]] = {
    "normal_only": {"variant": "extended-proxies", "views": "none"},
    # (similarity to the nearest defect patch + 1 - similarity to the nearest normal patch) / 2
    "naive": {"variant": "extended-context-proxies", "fusion": [1.0, 0.0], "views": "none"},
    "head_free": {"variant": "discriminant"},
}

# What a head may be given: arguments of Nagl, of the episodes that ReferenceDataModule makes, of its sources and of
# scoring.
NAGL_ARGUMENTS = (
    "layers", "backbone_weights", "num_proxies", "num_heads", "variant", "bank_limit", "views", "epochs",
    "learning_rate", "token_precision", "selection", "image_size", "window", "overlap", "overview",
)  # fmt: skip
EPISODE_ARGUMENTS = ("episodes", "sampling", "train_batch_size", "validation_categories", "validation_episodes")
SOURCE_ARGUMENTS = ("extra_sources",)
SCORING_ARGUMENTS = ("trained_as", "masks", "fusion")
HEAD_ARGUMENTS = NAGL_ARGUMENTS + EPISODE_ARGUMENTS + SOURCE_ARGUMENTS + SCORING_ARGUMENTS


def baseline_of(model: str) -> str | None:
    """The class of anomalib behind the name of a model, None for a model of ours."""
    name = model.removesuffix(ALL)
    return name if name in BASELINES else None


def has_proxies(variant: str) -> bool:
    """Whether a variant of the head has learned proxies, all that is trained; its spelling is checked elsewhere."""
    text = variant.replace(" ", "")
    last = re.findall(r"[+-]proxies", text)[-1:]
    return last == ["+proxies"] or (not last and not text.startswith("discriminant"))
