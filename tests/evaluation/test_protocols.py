"""Which images are references and queries, and which cells an evaluation has."""

from __future__ import annotations

import pytest

from anomalib_nagl.evaluation import protocols
from anomalib_nagl.evaluation.categories import Category
from anomalib_nagl.evaluation.grid import enumerate_cells, scoring_jobs, training_jobs
from anomalib_nagl.evaluation.records import GOOD
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.references.sample import Sample


def a_category(types: dict[str, int]) -> Category:
    def listed(place: str, count: int, kind: str) -> tuple[Sample, ...]:
        return tuple(Sample(f"{place}/{i:03}.png", None, kind) for i in range(count))

    defects = tuple(sample for name, count in sorted(types.items()) for sample in listed(f"test/{name}", count, name))
    return Category("part", "root", listed("train/good", 12, GOOD), listed("test/good", 5, GOOD), defects)


def test_fixed_references_are_no_queries_and_grow_with_shots() -> None:
    category = a_category({"scratch": 6, "spot": 7, "dent": 3})
    drawn = set()
    for seed in range(20):
        large = protocols.fixed(category, 4, 4, seed, (4, 4))
        small = protocols.fixed(category, 1, 1, seed, (4, 4))
        assert small.normal == large.normal[:1]
        assert small.abnormal == large.abnormal[:1]
        assert small.queries == large.queries == protocols.fixed(category, 1, 0, seed, (4, 4)).queries
        assert not set(large.abnormal) & set(large.queries)
        assert {*large.queries, *large.abnormal} == {*category.good, *category.defects}
        assert set(large.normal) <= set(category.normal)
        drawn.add(large.abnormal)
    assert len(drawn) == 20


def test_copies_of_references_are_no_queries() -> None:
    category = a_category({"scratch": 6})
    twin = {category.normal[3].image: "same", category.good[2].image: "same"}
    for seed in range(30):
        draw = protocols.fixed(
            category, 1, 1, seed, (1, 1), content=lambda sample: twin.get(sample.image, sample.image)
        )
        assert (category.good[2] in draw.queries) == (draw.normal[0] != category.normal[3])


def test_unseen_types_are_those_no_reference_shows() -> None:
    category = a_category({"scratch": 6, "spot": 7, "dent": 3})
    refused = 0
    for seed in range(30):
        kept = []
        for a in (0, 1, 2, 4):
            draw = protocols.fixed(category, 1, a, seed, (1, 4))
            try:
                places = protocols.unseen(category, draw, seed, [0, 1, 2, 4])
            except protocols.NotPossible:
                assert {sample.defect_type for sample in draw.abnormal} == set(category.types)
                refused += 1
                continue
            queries = [draw.queries[i] for i in places]
            types = {sample.defect_type for sample in queries}
            assert not types & {sample.defect_type for sample in draw.abnormal}
            assert set(category.good) <= set(queries)
            assert types > {GOOD}
            kept.append(queries)
        assert all(queries == kept[0] for queries in kept)
    assert 0 < refused < 30


def test_the_published_rule_takes_slices_of_the_queries() -> None:
    category = a_category({"scratch": 6, "spot": 5})
    draws = protocols.paper(category, 2, 2, 1)
    assert [draw.queries[0].defect_type for draw in draws] == [GOOD, "scratch", "spot"]
    assert {draw.normal for draw in draws} == {category.normal[2:4]}
    good, scratch, spot = draws
    assert [sample.image for sample in scratch.abnormal] == ["test/scratch/002.png", "test/scratch/003.png"]
    assert [sample.image for sample in spot.abnormal] == ["test/spot/002.png", "test/spot/003.png"]
    assert set(scratch.abnormal) <= set(scratch.queries)  # the leak, kept for comparison
    assert good.abnormal in (scratch.abnormal, spot.abnormal)
    assert protocols.paper(category, 2, 2, 1) == draws
    assert len({protocols.paper(category, 1, 1, seed)[0].abnormal[0].defect_type for seed in range(5)}) == 2
    assert [len(draw.abnormal) for draw in protocols.paper(category, 1, 2, 2)][2] == 1  # one left of five
    with pytest.raises(protocols.NotPossible, match=r"files 6 to 7 of test/.*"):
        protocols.paper(category, 1, 2, 3)
    assert protocols.paper(category, 1, 0, 0) == (
        protocols.Draw(category.normal[:1], (), category.good + category.defects),
    )


def test_cells_without_sense_are_left_out() -> None:
    settings = Settings(
        data="x", domains={"a": ["many"], "b": ["single", "other"]},
        models=["normal_only", "naive", "head_free", "nagl", "padim"],
        shots=["1+0", "1+1", "2+1", "0+2"], reference_seeds=2, training_seeds=3, protocols=["fixed", "unseen", "paper"],
        sources=["other_domains", "same_domain"], abnormal=["real", "cut_paste"],
    )  # fmt: skip
    two, one = a_category({"scratch": 6, "spot": 5}), a_category({"scratch": 6})
    cells = enumerate_cells(settings, {"many": two, "single": one, "other": two})
    assert len(set(cells)) == len(cells)
    assert {(cell.n, cell.a) for cell in cells if cell.model in ("normal_only", "padim")} == {(1, 0), (2, 0)}
    assert {(cell.n, cell.a) for cell in cells if cell.model == "naive"} == {(1, 1), (2, 1)}
    assert {(cell.n, cell.a) for cell in cells if cell.model == "nagl"} == {(1, 1), (2, 1), (0, 2)}
    listed = {(1, 0), (1, 1), (2, 1), (0, 2)}
    assert {(cell.n, cell.a) for cell in cells if cell.model == "head_free" and cell.abnormal == "real"} == listed
    assert {cell.category for cell in cells if cell.protocol == "unseen"} == {"many", "other"}
    assert {cell.category for cell in cells if cell.source == "same_domain"} == {"single", "other"}
    assert {cell.training_seed for cell in cells if cell.model != "nagl"} == {-1}
    synthetic = [cell for cell in cells if cell.abnormal != "real"]
    shown = {(model, protocol) for model in ("nagl", "head_free") for protocol in ("fixed", "unseen")}
    assert {(cell.model, cell.protocol) for cell in synthetic} == shown
    assert {(cell.n, cell.a) for cell in synthetic} == {(1, 1), (2, 1)}
    assert sorted(cell.key for job in scoring_jobs(cells) for cell in job.cells) == sorted(c.key for c in cells)
    for job in scoring_jobs(cells):
        assert len({cell.as_scored for cell in job.cells}) == 1
        assert len({cell.protocol for cell in job.cells}) == len(job.cells)


def test_strategies_draw_other_references_and_keep_the_rules() -> None:
    category = a_category({"scratch": 16, "spot": 2})
    drawn = {strategy: [protocols.fixed(category, 1, 2, seed, (1, 2), strategy) for seed in range(20)]
             for strategy in ("uniform", "per_type")}  # fmt: skip
    types = {
        strategy: {len({s.defect_type for s in draw.abnormal}) for draw in draws} for strategy, draws in drawn.items()
    }
    assert types == {"uniform": {1, 2}, "per_type": {2}}
    for draw in drawn["per_type"]:
        assert not set(draw.abnormal) & set(draw.queries)


def test_heads_that_are_not_trained_need_no_source() -> None:
    common = {"data": "x", "domains": {"a": ["many"]}, "shots": ["1+1", "0+1"], "reference_seeds": 1}
    heads = {"patches": {"variant": "extended-proxies"}, "guessed": {"variant": "extended-proxies", "masks": "guessed"}}
    settings = Settings(**common, heads=heads, models=[*heads, "naive"], abnormal=["real", "perlin"])
    cells = enumerate_cells(settings, {"many": a_category({"scratch": 6})})
    assert not training_jobs(settings, cells)
    assert {cell.training_seed for cell in cells} == {-1}
    found = {(cell.model, cell.n, cell.abnormal) for cell in cells}
    assert found == {
        ("patches", 1, "real"), ("patches", 1, "perlin"), ("patches", 0, "real"),
        ("guessed", 1, "real"), ("naive", 1, "real"),
    }  # fmt: skip


def test_heads_share_a_training() -> None:
    heads = {"nagl": {"num_proxies": 5}, "heavy": {"trained_as": "nagl", "fusion": [1.0, 0.25]}}
    settings = Settings(
        data="x", domains={"a": ["many"], "b": ["other"]}, heads=heads, models=["heavy"], shots=["1+1"],
        reference_seeds=2, training_seeds=2, compare_to="heavy",
    )  # fmt: skip
    categories = {name: a_category({"scratch": 6}) for name in ("many", "other")}
    jobs = training_jobs(settings, enumerate_cells(settings, categories))
    assert {job.model for job in jobs} == {"nagl"}
    assert len(jobs) == 4
    assert settings.head("heavy") == {"num_proxies": 5, "fusion": [1.0, 0.25]}
