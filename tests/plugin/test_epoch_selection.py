"""Validation scores against scikit-learn, the rules by which a head is kept, and the recipes that are shipped."""

from __future__ import annotations

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from sklearn.metrics import roc_auc_score
from support.commands import CONFIGS
from torch import nn

from anomalib_nagl.core.layers import CrossAttention
from anomalib_nagl.core.variants import Variant
from anomalib_nagl.plugin.epoch_selection import KeptHead, ScoredEpisodes, ValidationScores, validation_scores

REPRODUCE = Path(__file__).parents[2] / "examples/reproduce_paper.py"


def episodes(seed: int, label: list[int]) -> list[ScoredEpisodes]:
    draw = torch.Generator().manual_seed(seed)
    masks = (torch.rand(len(label), 6, 5, generator=draw) > 0.7).float() * torch.tensor(label)[:, None, None]
    maps = torch.rand(len(label), 6, 5, generator=draw) + 0.2 * masks
    scores = torch.rand(len(label), generator=draw)
    whole = ScoredEpisodes(scores, maps, masks, torch.tensor(label))
    return [ScoredEpisodes(*(part[i : i + 3] for part in whole)) for i in range(0, len(label), 3)]


def test_scores_are_means_over_categories_of_exact_auroc() -> None:
    categories = [episodes(seed, [0, 1, 1, 0, 1, 0, 0]) for seed in (1, 2)]
    expected = []
    for batches in categories:
        joined = [torch.cat(parts).numpy() for parts in zip(*batches, strict=True)]
        expected.append((roc_auc_score(joined[3], joined[0]), roc_auc_score(joined[2].ravel(), joined[1].ravel())))
    found = validation_scores([*categories, episodes(3, [1, 1, 1])], published=False)
    assert found == pytest.approx(np.mean(expected, axis=0), abs=1e-6)
    assert math.isnan(validation_scores([*categories, episodes(3, [1, 1, 1])], published=True).total)


@pytest.mark.parametrize(
    ("rule", "kept"), [("best", 1), ("paper", 8), ("last", -1)], ids=["first of equals", "last of equals", "none"]
)
def test_which_epoch_is_kept(rule: str, kept: int) -> None:
    keeper, head = KeptHead(rule), nn.Linear(1, 1)
    for epoch, pixel in enumerate([0.1, 0.4, 0.4, 0.3, 0.2, 0.1, 0.2, 0.3, 0.3, 0.2, math.nan]):
        nn.init.constant_(head.weight, epoch)
        keeper.consider(epoch, ValidationScores(0.5, pixel), head)
    assert keeper.epoch == kept
    assert (keeper.weights is None) == (kept == -1)
    if keeper.weights is not None:
        assert keeper.weights["weight"].item() == kept
        again = KeptHead(rule)
        again.restore(keeper.state())
        assert again.scores == keeper.scores


@pytest.mark.parametrize("biased", [True, False])
def test_regrouped_attention_is_multi_head_attention(biased: bool) -> None:
    torch.manual_seed(0)
    layer = CrossAttention(12, 3)
    nn.init.normal_(layer.multihead_attn.in_proj_bias)
    query, key, value = torch.randn(2, 5, 12), torch.randn(2, 9, 12), torch.randn(2, 9, 12)
    bias = torch.randn(6, 5, 9) if biased else None
    read, _ = layer.multihead_attn(query, key, value, attn_mask=bias)
    torch.testing.assert_close(layer(query, key, value, bias), layer.norm(query + read), atol=2e-6, rtol=0)


@pytest.mark.parametrize("config", sorted(path.name for path in (CONFIGS / "paper").iterdir()))
@pytest.mark.parametrize("shots", [1, 4])
def test_published_recipes_are_what_the_specification_says(config: str, shots: int, folder: Path) -> None:
    cli = AnomalibCLI(
        args=["train", "--config", str(CONFIGS / "paper" / config), "--data.n_normal", str(shots)], run=False
    )
    model, data = cli.model, cli.datamodule
    assert (model.model.encoder.name, model.model.encoder.image_size) == ("vit_small_patch14_dinov2", (448, 448))
    assert model.model.head.learnable_proxies.num_embeddings == 25
    assert model.model.head.variant == Variant.parse("paper")
    assert (model.learning_rate, model.epochs, model.selection) == (1e-5, 20, "paper")
    source = data.episode_source
    assert (source.episodes, data.train_batch_size, source.sampling, data.n_abnormal) == (500, 8, "paper", 1)
    assert (data.n_normal, source.validation_episodes, source.categories) == (shots, 2000, ("all",))


def reproduce(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(REPRODUCE), *map(str, arguments)])
    runpy.run_path(str(REPRODUCE), run_name="__main__")


def test_reproducing_without_the_data_says_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("anomalib.data.datamodules.image.mvtecad.download_and_extract", refuse)
    monkeypatch.setattr("anomalib.data.datamodules.image.visa.download_and_extract", refuse)
    with pytest.raises(SystemExit, match="1"):
        reproduce(monkeypatch, "visa_to_mvtec")
    said = capsys.readouterr().out
    for wanted in ("nothing was trained", "MVTecAD: no network here", "Visa: no network here", "vit_small_patch14"):
        assert wanted in said
    assert not list(folder.rglob("*.ckpt"))


@pytest.mark.slow
def test_reproducing_runs_to_its_table_and_goes_on_after_a_stop(
    real_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(real_folder)
    quick = ("real_small", "--", "--model.epochs", 1, "--data.episodes", 8, "--data.validation_episodes", 16,
             "--model.image_size", 192)  # fmt: skip
    reproduce(monkeypatch, "--seeds", 1, *quick)
    table = real_folder / "results/paper/real_small_1/results.csv"
    before = table.read_text().splitlines()
    head = next((table.parent / "head").rglob("model.ckpt")).read_bytes()
    reproduce(monkeypatch, "--seeds", 2, *quick)
    after = table.read_text().splitlines()
    assert after[:2] == before
    assert len(after) == 3
    assert next((table.parent / "head").rglob("model.ckpt")).read_bytes() == head
    said = capsys.readouterr().out
    assert "magnetic_tile" in said
    assert "no figure known" in said
