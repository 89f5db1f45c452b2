"""What an evaluation is told: plain values from a file and the command line, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from anomalib_nagl.evaluation.names import (
    ABNORMAL,
    BASELINES,
    EVERY_NORMAL,
    EXTRA_SOURCES,
    HEAD_ARGUMENTS,
    MASKS,
    PROTOCOLS,
    SOURCES,
    STRATEGIES,
    UNTRAINED_HEADS,
    has_proxies,
)
from anomalib_nagl.io.errors import suggest


class Shots(NamedTuple):
    """Numbers of normal and abnormal references."""

    n: int
    a: int

    @classmethod
    def parse(cls, text: str) -> Shots:
        """Read ``n+a``; ValueError for anything else, or for no reference at all."""
        parts = str(text).split("+")
        if len(parts) != 2 or not all(part.strip().isdigit() for part in parts) or not any(map(int, parts)):
            raise ValueError(f"found shots {text!r}, expected normal+abnormal references such as 1+1 or 4+0")
        return cls(int(parts[0]), int(parts[1]))


@dataclass(frozen=True)
class Settings:
    """An evaluation as its settings file describes it.

    ``data`` is the root of a data set, ``format`` the anomalib datamodule that reads it. ``domains`` maps a domain to
    its categories, which are held out together; ``targets`` are the categories to evaluate (all unless named). A model
    is ``normal_only``, ``naive``, one of anomalib's (``names.BASELINES``, or one of these that ends with ``_all`` and
    learns from every normal image of the train split) or a key of ``heads``. ``shots`` lists
    normal+abnormal references, which ``strategy`` draws. ``protocols``, ``sources`` and ``abnormal`` are explained by
    ``protocols`` and ``records.Cell``. Pixel metrics are computed at ``metric_size`` pixels a side, those of the
    network input unless given. ``costs`` measures time and memory of every model too. Tables show differences from the
    model ``compare_to``. ``out`` is the folder for everything written.

    A head is trained with its arguments of ``Nagl`` and of the episodes besides the common ones, on the sources; one
    whose ``variant`` has no proxies is not trained. ``trained_as`` scores with the training of another head, whose
    arguments it takes over unless it has its own. ``extra_sources`` are made of the sources, turned or damaged
    (``extra_sources.extra_source``), and trained on beside them. ``masks`` are those of the abnormal references:
    "given", "guessed" from the images, or "whole" images. ``fusion`` are the weights of nearest defect patch and
    proxies.

    Raises ValueError on settings that contradict each other.
    """

    data: str
    domains: dict[str, list[str]]
    format: str = "MVTecAD"
    targets: list[str] | None = None
    models: list[str] = field(default_factory=lambda: ["normal_only", "naive", "nagl"])
    heads: dict[str, dict[str, Any]] = field(default_factory=lambda: {"nagl": {}})
    shots: list[str] = field(default_factory=lambda: ["1+0", "1+1"])
    reference_seeds: int = 5
    training_seeds: int = 3
    protocols: list[str] = field(default_factory=lambda: ["fixed"])
    sources: list[str] = field(default_factory=lambda: ["other_domains"])
    abnormal: list[str] = field(default_factory=lambda: ["real"])
    strategy: str = "uniform"
    backbone: str = "vit_small_patch14_dinov2"
    layers: str | None = None
    image_size: int | list[int] = 448
    epochs: int = 20
    episodes: int = 500
    learning_rate: float = 1e-4
    metric_size: int | None = None
    costs: bool = True
    compare_to: str = "normal_only"
    processes: int = 1
    out: str = "results/evaluation"

    def __post_init__(self) -> None:
        """Check all that can be checked without the data."""
        counts = ("reference_seeds", "training_seeds", "epochs", "episodes", "processes")
        few = [f"{name}={getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        if few:
            raise ValueError(f"found {', '.join(few)}, expected at least 1")
        for name, known in (("protocols", PROTOCOLS), ("sources", SOURCES), ("abnormal", ABNORMAL)):
            _check_names(name, getattr(self, name), known)
        _check_names("strategy", [self.strategy], STRATEGIES)
        _check_names("models", self.models, self.known_models)
        _check_names("compare_to", [self.compare_to], self.known_models)
        _check_names("shots", self.shots, None)
        _ = self.parsed_shots
        self._check_domains()
        for name, arguments in self.heads.items():
            self._check_head(name, arguments)
        self._check_sources()
        self._check_variants()

    @property
    def known_models(self) -> tuple[str, ...]:
        """Every model that may be named."""
        clash = sorted({*UNTRAINED_HEADS, *BASELINES, *EVERY_NORMAL} & set(self.heads))
        if clash:
            raise ValueError(f"found heads named {', '.join(clash)}, expected other names: these are models already")
        return (*UNTRAINED_HEADS, *self.heads, *BASELINES, *EVERY_NORMAL)

    def head(self, model: str) -> dict[str, Any]:
        """The arguments of a model that is a head, with those that it takes over."""
        own = dict({**UNTRAINED_HEADS, **self.heads}[model])
        trained_as = own.pop("trained_as", None)
        return {**self.heads.get(trained_as, {}), **own}

    def is_trained(self, model: str) -> bool:
        """Whether a model is a head that is trained on the sources."""
        return model in self.heads and has_proxies(self.head(model).get("variant", "extended"))

    def training_of(self, model: str) -> str:
        """The head whose training a trained model scores with."""
        return str(self.heads[model].get("trained_as") or model)

    def masks_of(self, model: str) -> str:
        """Which masks of abnormal references a head is shown."""
        return str(self.head(model).get("masks", "given"))

    @property
    def parsed_shots(self) -> list[Shots]:
        """Numbers of references."""
        return [Shots.parse(text) for text in self.shots]

    @property
    def largest(self) -> Shots:
        """The most normal and the most abnormal references of any shot."""
        return Shots(max(shots.n for shots in self.parsed_shots), max(shots.a for shots in self.parsed_shots))

    @property
    def categories(self) -> list[str]:
        """Every category of every domain."""
        return [category for listed in self.domains.values() for category in listed]

    @property
    def evaluated(self) -> list[str]:
        """The categories to evaluate."""
        return self.categories if self.targets is None else self.targets

    @property
    def halved(self) -> bool:
        """Whether categories are divided, because heads are trained on the target category itself."""
        return "same_object" in self.sources

    def domain_of(self, category: str) -> str:
        """The domain of a category."""
        return next(domain for domain, listed in self.domains.items() if category in listed)

    def sources_of(self, source: str, category: str) -> list[str]:
        """The categories that a head for a target is trained on."""
        own = self.domain_of(category)
        if source == "same_object":
            return [category]
        if source == "same_domain":
            return [name for name in self.domains[own] if name != category]
        return [name for domain, listed in self.domains.items() if domain != own for name in listed]

    def _check_domains(self) -> None:
        doubled = sorted({name for name in self.categories if self.categories.count(name) > 1})
        if doubled or not self.categories:
            raise ValueError(
                f"found {', '.join(doubled) or 'no category'} in domains, expected every category once: "
                "give domains: {name: [category, ...]}"
            )
        _check_names("targets", self.evaluated, self.categories)

    def _check_sources(self) -> None:
        if not self.largest.a or not any(self.is_trained(model) for model in self.models):
            return
        for source in self.sources:
            if not any(self.sources_of(source, category) for category in self.evaluated):
                raise ValueError(
                    f"found no category to train heads on for sources={source}, expected a second domain (or a second "
                    "category of a domain for same_domain): add one to domains, or leave heads out of models"
                )

    def _check_variants(self) -> None:
        variants = [arguments["variant"] for arguments in self.heads.values() if "variant" in arguments]
        if variants:  # last, as these need torch
            from anomalib_nagl.core.variants import Variant

            for variant in variants:
                Variant.parse(variant)

    def _check_head(self, head: str, arguments: dict[str, Any]) -> None:
        place = f"heads.{head}"
        for name in arguments:
            if name not in HEAD_ARGUMENTS:
                raise ValueError(
                    f"found {name!r} in {place}, expected some of {', '.join(HEAD_ARGUMENTS)}"
                    f"{suggest(name, HEAD_ARGUMENTS)}"
                )
        if arguments.get("selection") == "paper":
            raise ValueError(
                f"found selection=paper in {place}, expected best or last: it selects on the target, which an "
                "evaluation must not look at"
            )
        if "extra_sources" in arguments:
            _check_names(f"{place}.extra_sources", arguments["extra_sources"], EXTRA_SOURCES)
        _check_names(f"{place}.masks", [arguments.get("masks", "given")], MASKS)
        trainings = [name for name, given in self.heads.items() if name != head and "trained_as" not in given]
        if "trained_as" in arguments:
            _check_names(f"{place}.trained_as", [arguments["trained_as"]], trainings)
        fusion = arguments.get("fusion", [0.5, 0.25])
        if len(fusion) != 2 or min(fusion) < 0 or not any(fusion):
            raise ValueError(
                f"found {place}.fusion={fusion}, expected two weights of at least 0, not both, such as "
                "[0.5, 0.25]: of the nearest defect patch and of the proxies"
            )


def _check_names(setting: str, names: Sequence[str], known: Sequence[str] | None) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"found {setting}={list(names)}, expected at least one, and each once")
    for name in names:
        if known is not None and name not in known:
            raise ValueError(f"found {name!r} in {setting}, expected some of {', '.join(known)}{suggest(name, known)}")
