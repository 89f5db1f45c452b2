"""Settings of an evaluation: what makes no sense is told before anything heavy is imported."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import CONFIGS

from anomalib_nagl.commands.evaluate import main, parse
from anomalib_nagl.evaluation import names

QUICK = (
    "--config", str(CONFIGS / "evaluate" / "quickstart.yaml"), "--domains",
    "{textures: [cloth], parts: [plate]}", "--targets", "[plate]", "--shots", "[1+0, 1+1]",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--epoch", 3), "--epoch.*did you mean 'epochs'"),
        (("--heads.nagl.learning_rat", 3), "learning_rat.*did you mean 'learning_rate'"),
        (("--heads.nagl.variant", "extend"), "variant 'extend', expected one of paper"),
        (("--heads.nagl.masks", "hole"), "'hole' in heads.nagl.masks.*did you mean 'whole'"),
        (
            ("--heads", "{nagl: {trained_as: nagel}, other: {}}"),
            "'nagel' in heads.nagl.trained_as, expected some of other",
        ),
        (("--heads.nagl.fusion", "[1]"), "two weights of at least 0"),
        (("--strategy", "published"), "'published' in strategy, expected some of uniform, per_type"),
        (("--heads.nagl.selection", "paper"), "selection=paper.*must not look at"),
        (("--models", "[nagle]"), "'nagle' in models.*did you mean 'nagl'"),
        (("--targets", "[plat]"), "'plat' in targets.*did you mean 'plate'"),
        (("--shots", "[one]"), "shots 'one', expected normal.abnormal"),
        (("--domains", "{parts: [plate]}"), "no category to train heads on.*second domain"),
        (("--domains", "{a: [plate], b: [plate]}"), "plate in domains, expected every category once"),
        (("--sources", "[same_domain]"), "sources=same_domain, expected a second domain"),
        (("--shots", "[1+24]"), "24 abnormal images of category 'plate'.*more than 24"),
        (("--format", "DrawnPicture"), "format='DrawnPicture'.*did you mean 'DrawnPictures'"),
        (("--domains", "{parts: [plate], a: [clot]}", "--targets", "[clot]"), "no rendered category 'clot'"),
    ],
)
def test_settings_that_make_no_sense(drawn: Path, tmp_path: Path, change: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        main([str(part) for part in (*QUICK, "--data", drawn, "--out", tmp_path / "new", *change, "--dry_run")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--epoch", "3"),
        ("--models", "[nagle]"),
        ("--abnormal", "[perlim]"),
        ("--heads.nagl.learning_rat", "3"),
    ],
)
def test_errors_come_without_torch(wrong: tuple[str, ...]) -> None:
    program = """
import sys
from anomalib_nagl import cli
assert cli.run(["evaluate", *sys.argv[1:]]) == 2
print([name for name in ("torch", "anomalib", "timm", "pandas") if name in sys.modules])
"""
    command = [sys.executable, "-c", program, *QUICK, *wrong]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "did you mean" in done.stderr
    assert done.stdout == "[]\n"


def test_names_are_those_of_what_they_name() -> None:
    import anomalib.data

    from anomalib_nagl import Nagl, ReferenceDataModule
    from anomalib_nagl.references.names import STRATEGIES
    from anomalib_nagl.references.sampling import order

    # Set by an evaluation itself, or of no consequence for raw scores.
    ours = {"self", "head", "seed", "n_normal", "n_abnormal", "strategy", "token_cache", "token_cache_dir", "threshold",
            "pre_processor", "post_processor", "evaluator", "visualizer", "backbone", "region"}  # fmt: skip
    assert set(names.NAGL_ARGUMENTS) == set(inspect.signature(Nagl.__init__).parameters) - ours
    assert set(names.EPISODE_ARGUMENTS) < set(inspect.signature(ReferenceDataModule.__init__).parameters)
    assert all(hasattr(anomalib.models, name) for name in ("Patchcore", "Padim", "AnomalyDINO", "WinClip", "FoundAD"))
    nesting = []
    for strategy in STRATEGIES:
        try:
            order((), strategy, 0, 0)
        except ValueError:
            continue
        nesting.append(strategy)
    assert tuple(nesting) == names.STRATEGIES


@pytest.mark.parametrize(
    "variant", ["extended", "paper-Q1", "extended-proxies", "extended-context -proxies", "extended-proxies+proxies"]
)
def test_which_variants_have_proxies(variant: str) -> None:
    from anomalib_nagl.core.variants import Variant

    assert names.has_proxies(variant) == Variant.parse(variant).proxies


@pytest.mark.parametrize("path", sorted((CONFIGS / "evaluate").glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_can_be_read(path: Path) -> None:
    settings, _ = parse(["--config", str(path)])
    assert settings.out == f"results/evaluate/{path.stem}"
