"""Which images become references: strategies by their rules, and one choice wherever references are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomalib_nagl import DrawnPictures, Nagl, ReferenceDataModule
from anomalib_nagl.evaluation.categories import load_category
from anomalib_nagl.evaluation.protocols import fixed
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.plugin.datasets import choose_references
from anomalib_nagl.references.names import STRATEGIES
from anomalib_nagl.references.sampling import ABNORMAL, NORMAL, Sample, draw, order, take

TYPES = ("crack", "hole", "scratch")
MANY = tuple(Sample(f"{kind}/{i:02}.png", None, kind) for kind in TYPES for i in range((12, 2, 6)[TYPES.index(kind)]))


@pytest.mark.parametrize("strategy", ["uniform", "per_type"])
def test_more_shots_contain_the_fewer(strategy: str) -> None:
    whole = order(MANY, strategy, 3, ABNORMAL)
    assert sorted(whole, key=lambda sample: sample.image) == list(MANY)
    assert [take(MANY, k, strategy, 3, ABNORMAL) for k in range(5)] == [whole[:k] for k in range(5)]


def test_uniform_is_a_permutation_by_seed_and_stream() -> None:
    """Published tables rest on this very order."""
    for seed, stream in ((0, NORMAL), (0, ABNORMAL), (7, ABNORMAL)):
        expected = np.random.default_rng([seed, stream]).permutation(len(MANY))
        assert order(MANY, "uniform", seed, stream) == tuple(MANY[i] for i in expected)


def test_uniform_prefers_no_image() -> None:
    counts = dict.fromkeys(MANY, 0)
    for seed in range(2000):
        for sample in take(MANY, 3, "uniform", seed, ABNORMAL):
            counts[sample] += 1
    assert min(counts.values()) > 240  # 300 expected of each, standard deviation 16
    assert max(counts.values()) < 360


def test_per_type_takes_every_type_before_one_comes_again() -> None:
    for seed in range(20):
        chosen = [sample.defect_type for sample in order(MANY, "per_type", seed, ABNORMAL)]
        assert [set(chosen[i : i + 3]) for i in (0, 3)] == [set(TYPES)] * 2
        assert set(chosen[6:14]) == {"crack", "scratch"}
        assert set(chosen[14:]) == {"crack"}


def test_published_takes_slices_of_one_type() -> None:
    good = [Sample(f"good/{i}.png") for i in (3, 1, 0, 4, 2)]
    assert [s.image for s in take(good, 2, "published", 1, NORMAL)] == ["good/2.png", "good/3.png"]
    assert [s.image for s in take(good, 2, "published", 2, NORMAL)] == ["good/4.png"]  # shorter, as published
    with pytest.raises(ValueError, match="takes files 6 to 7 of good, which has 5"):
        take(good, 2, "published", 3, NORMAL)
    many = [sample for sample in MANY if sample.defect_type != "hole"]
    types = set()
    for seed in range(3):
        chosen = take(many, 2, "published", seed, ABNORMAL)
        assert [Path(sample.image).stem for sample in chosen] == [f"{2 * seed:02}", f"{2 * seed + 1:02}"]
        types.add(*{sample.defect_type for sample in chosen})
    assert types == {"crack", "scratch"}
    with pytest.raises(ValueError, match="larger sets of references have to contain the smaller"):
        order(good, "published", 0, NORMAL)


def test_draw_takes_all_or_as_many_as_asked_for() -> None:
    everything = draw(MANY[:3], MANY, None, None, 0)
    assert (everything.normal, everything.abnormal) == (MANY[:3], MANY)
    assert len(draw(MANY[:3], MANY, 2, 0, 0).paths) == 2
    with pytest.raises(ValueError, match="3 normal images in the shelf and n_normal=4, expected at least as many"):
        draw(MANY[:3], MANY, 4, 0, 0, place="the shelf")
    with pytest.raises(ValueError, match="strategy='best', expected one of uniform, per_type, published"):
        draw(MANY[:3], MANY, 1, 0, 0, "best")


@pytest.mark.parametrize(("n", "a", "seed"), [(1, 1, 0), (3, 4, 5)])
def test_one_choice_wherever_references_are_chosen(drawn: Path, n: int, a: int, seed: int) -> None:
    """A plain datamodule, ``ReferenceDataModule`` and an evaluation take the very same files, by default."""
    plain = DrawnPictures(drawn, "board")
    plain.setup()
    model = Nagl("gabor", n_normal=n, n_abnormal=a, seed=seed)
    from_plain = model.reference_adapter.plan.choose(plain)
    data = ReferenceDataModule(DrawnPictures(drawn, "board"), n_normal=n, n_abnormal=a, seed=seed)
    data.setup()
    settings = Settings(str(drawn), {"parts": ["board"], "textures": ["wood"]}, "DrawnPictures", backbone="gabor")
    evaluated = fixed(load_category(settings, "board"), n, a, seed, (n, a))
    assert from_plain == data.support_set
    assert (from_plain.normal, from_plain.abnormal) == (evaluated.normal, evaluated.abnormal)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_strategy_is_that_of_the_settings(drawn: Path, strategy: str) -> None:
    data = ReferenceDataModule(DrawnPictures(drawn, "board"), n_normal=1, n_abnormal=3, strategy=strategy)
    data.setup()
    assert data.support_set == choose_references(data.target, 1, 3, 0, strategy)
    assert data.plan.selection(data.target)["strategy"] == strategy
    with pytest.raises(ValueError, match="strategy='first'"):
        Nagl("gabor", strategy="first")
