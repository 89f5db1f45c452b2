"""anomalib's newer models through a backbone that is given to them, and on every normal image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
from anomalib.models.image.anomaly_dino.torch_model import DINO_DEPTHS
from rich.console import Console
from support.exported import picture, write_backbone
from timm.models.vision_transformer import VisionTransformer
from torchvision.utils import save_image

from anomalib_nagl.encoders.timm_encoder import Backbone
from anomalib_nagl.evaluation import baseline_models
from anomalib_nagl.evaluation.baseline_backbones import backbone_of, reconstructed_blocks, scaled_blocks, standing_in
from anomalib_nagl.evaluation.baselines import build_baseline, score_baseline, unavailable
from anomalib_nagl.evaluation.grid import enumerate_cells, scoring_jobs
from anomalib_nagl.evaluation.protocols import fixed
from anomalib_nagl.evaluation.run import evaluate
from anomalib_nagl.evaluation.scorer import Scorer
from anomalib_nagl.evaluation.settings import Settings

PEERS = ("mh_patchcore", "rad", "super_add", "dinomaly", "inp_former", "anomaly_dino", "foundad")
DEPTH = 9


@dataclass(frozen=True)
class Few:
    backbone: str
    layers: str | None = None
    image_size: tuple[int, int] = (70, 84)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A transformer of nine blocks in a folder whose name says nothing."""
    torch.manual_seed(0)
    arguments = {"embed_dim": 384, "depth": DEPTH, "num_heads": 6, "mlp_ratio": 1.0}
    network = VisionTransformer(img_size=112, patch_size=14, init_values=1.0, num_classes=0, **arguments)
    folder = tmp_path_factory.mktemp("folder") / "weights"
    return write_backbone(folder, network, "vit_small_patch14_dinov2", 112, **arguments)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for seed in range(6):
        save_image(picture((100, 140), seed, seed == 5), root / f"{seed}.png")
    return sorted(root.iterdir())


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(baseline_models, "STEPS", 2)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_looks_through_the_backbone_given(name, vit, files):
    settings = Few(vit)
    assert unavailable(name, settings) is None
    scores, maps = score_baseline(name, settings, files[:2], files[2:])
    again, _ = score_baseline(name, settings, files[:2], files[2:])
    assert torch.equal(scores, again)  # the same chance, however often
    assert maps.shape == (4, 70, 84)
    assert scores.std() > 0
    state = build_baseline(name, settings).module.state_dict()
    expected = Backbone.resolve(vit).read_weights()["blocks.0.attn.qkv.weight"]
    found = [value for key, value in state.items() if key.endswith("blocks.0.attn.qkv.weight")]
    assert any(torch.equal(value, expected) for value in found)


def test_training_changes_the_decoder_alone(vit, files):
    baseline = build_baseline("dinomaly", Few(vit))
    before = {key: value.clone() for key, value in baseline.module.state_dict().items()}
    baseline.take_references(torch.rand(3, 3, 70, 84, generator=torch.Generator().manual_seed(1)))
    changed = {key for key, value in baseline.module.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert not any("encoder" in key for key in changed)


def test_a_name_stands_for_a_folder_only_meanwhile(vit):
    depths = dict(DINO_DEPTHS)
    with standing_in(vit) as name:
        assert name == "vit_small_patch14_dinov2"
        assert len(timm.create_model(name, pretrained=True).blocks) == DEPTH
        assert DINO_DEPTHS["small"] == DEPTH
    assert depths == DINO_DEPTHS
    assert len(timm.create_model(name, pretrained=False).blocks) == 12


def test_what_is_no_dino_leaves_a_peer_its_own(vit):
    assert backbone_of("rad", vit) == vit
    assert backbone_of("rad", "resnet18") == "vit_base_patch16_dinov3"
    assert backbone_of("dinomaly", "builtin") == "vit_base_patch14_reg4_dinov2"
    assert backbone_of("patchcore", "resnet18") == "resnet18"
    assert backbone_of("inp_former", "vit_giant_patch14_dinov2") == "vit_base_patch14_reg4_dinov2"


def test_blocks_at_the_same_depth():
    assert scaled_blocks((3, 6, 9, 11), 12) == [3, 6, 9, 11]
    assert scaled_blocks((3, 6, 9, 11), 24) is None
    assert reconstructed_blocks(12) == list(range(2, 10))
    assert reconstructed_blocks(9) == list(range(1, 9))


def test_every_normal_image_is_scored_once(drawn, vit, tmp_path):
    """A model that learns from every normal image has the queries of each draw, but is asked once."""
    settings = Settings(
        data=str(drawn), domains={"all": ["cloth"]}, models=["normal_only", "patchcore", "patchcore_all"],
        shots=["1+0", "2+1"], reference_seeds=2, protocols=["fixed", "unseen"], backbone=vit, image_size=70,
        metric_size=32, costs=False, out=str(tmp_path / "out"),
    )  # fmt: skip
    category = Scorer(settings).category("cloth")
    own = [cell for cell in enumerate_cells(settings, {"cloth": category}) if cell.model == "patchcore_all"]
    assert [(cell.n, cell.a, cell.reference_seed) for cell in own] == [(0, 0, 0), (0, 0, 1)] * 2
    assert len(scoring_jobs(own)) == 1
    assert evaluate(settings, Console(quiet=True)) == 0
    for cell in (cell for cell in own if cell.protocol == "fixed"):
        names = np.load(tmp_path / "out" / "scores" / f"{cell.key}.npz")["names"]
        expected = fixed(category, 2, 1, cell.reference_seed, settings.largest)
        assert list(names) == [category.short(sample) for sample in expected.queries]
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert tables.index("normal_only 2+0") < tables.index("patchcore_all every normal image")
