"""anomalib's models on our references: the numbers of its engine, its failures said aloud, and what cannot run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
from huggingface_hub import constants
from support.commands import CONFIGS
from support.exported import backbone, picture, write_backbone
from timm.models.vision_transformer import VisionTransformer
from torchvision.utils import save_image

from anomalib_nagl.evaluation import baseline_models, baselines, cached_features
from anomalib_nagl.evaluation.baselines import BaselineError, build_baseline, score_baseline, unavailable
from anomalib_nagl.evaluation.names import BASELINES
from anomalib_nagl.plugin.pre_processing import NaglPreProcessor
from anomalib_nagl.plugin.reading import ImageFolder
from anomalib_nagl.references.images import load_image

SIZE = (64, 96)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)  # of the random backbone


@dataclass(frozen=True)
class Few:
    backbone: str
    layers: str | None = None
    image_size: tuple[int, int] = SIZE


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    return Few(backbone("cnn", tmp_path_factory.mktemp("backbone")))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Four normal images, and six queries of which the odd ones have a defect."""
    root = tmp_path_factory.mktemp("images")
    for folder, seeds in {"normal": range(10, 14), "queries": range(20, 26)}.items():
        (root / folder).mkdir()
        for seed in seeds:
            save_image(picture((100, 140), seed, folder == "queries" and seed % 2 == 1), root / folder / f"{seed}.png")
    return root


def listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def by_engine(model, files: Path, shots: int, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and maps as anomalib itself makes them: ``Engine.fit`` on the references, ``Engine.predict``."""
    data = ImageFolder(files / "queries", [str(path) for path in listed(files / "normal")[:shots]], eval_batch_size=4)
    engine = Engine(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    engine.fit(model, datamodule=data)
    batches = engine.predict(model, datamodule=data)
    scores, maps = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("pred_score", "anomaly_map"))
    return scores.flatten(), maps.reshape(-1, *SIZE)


@pytest.mark.parametrize(("name", "shots"), [("patchcore", 2), ("padim", 3)])
def test_same_as_anomalibs_engine(name, shots, cnn, files, tmp_path, monkeypatch):
    common = {"backbone": cnn.backbone, "layers": ["layer3"], "post_processor": False, "evaluator": False}
    common |= {"visualizer": False, "pre_processor": NaglPreProcessor(SIZE, MEAN, STD)}
    torch.manual_seed(0)
    model = Patchcore(**common) if name == "patchcore" else Padim(n_features=100, **common)
    fit = model.fit

    def fit_with_seed() -> None:
        with baseline_models.same_chance():
            fit()

    monkeypatch.setattr(model, "fit", fit_with_seed)
    scores, maps = score_baseline(name, cnn, listed(files / "normal")[:shots], listed(files / "queries"))
    expected_scores, expected_maps = by_engine(model, files, shots, tmp_path)
    assert maps.shape == (6, *SIZE)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps, expected_maps, rtol=1e-4, atol=1e-5)
    assert scores.std() > 1e-3  # so that equal is not constant


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_cached_features_change_nothing(name, cnn, files, monkeypatch):
    normal, queries = listed(files / "normal")[:2], listed(files / "queries")
    first = score_baseline(name, cnn, normal, queries)
    monkeypatch.setattr(cached_features, "LIMIT", 0)  # nothing is kept
    again = score_baseline(name, cnn, normal, queries)
    plain = build_baseline(name, cnn)
    plain.take_references(torch.stack([plain.prepare(load_image(path)) for path in normal]))
    images = torch.stack([plain.prepare(load_image(path)) for path in queries])
    for found, other, expected in zip(first, again, plain.score(images), strict=True):
        assert torch.equal(found, other)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_cached_maps_are_those_of_backbone_stage_and_size(cnn, files):
    normal, queries = listed(files / "normal")[:1], listed(files / "queries")[:2]
    scores = [
        score_baseline("patchcore", Few(cnn.backbone, layers, size), normal, queries)[0]
        for layers, size in ((None, SIZE), ("2,3", SIZE), (None, (64, 64)))
    ]
    assert len({tuple(each.tolist()) for each in scores}) == 3


def test_blanks_lie_where_the_maps_are(files):
    """A model that computes on the device of its images finds the maps there; "meta" stands for a GPU."""

    class Extractor(torch.nn.Module):
        out_dims = (4,)

        def forward(self, images):
            return {"layer": torch.zeros(len(images), 4, 2, 3, device=images.device)}

    def read(path):
        return torch.zeros(3, *SIZE, device="meta")

    cached = cached_features.CachedFeatures(Extractor(), read, "where the maps are")
    blanks = cached.show(listed(files / "normal")[:2], SIZE)
    assert (blanks.shape, blanks.device) == ((2, 3, *SIZE), cached(blanks)["layer"].device)
    assert blanks.device.type == "meta"


def test_callers_random_numbers_stay(cnn, files):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    score_baseline("patchcore", cnn, listed(files / "normal")[:1], listed(files / "queries")[:1])
    assert torch.equal(torch.rand(3), expected)


def test_padim_needs_two_references(cnn, files):
    queries = listed(files / "queries")[:1]
    with pytest.raises(BaselineError, match="no covariance from 1 normal reference: it needs at least 2"):
        score_baseline("padim", cnn, listed(files / "normal")[:1], queries)
    with pytest.raises(BaselineError, match="needs a normal reference"):
        score_baseline("patchcore", cnn, [], queries)


def tiny_dino(folder: Path) -> str:
    torch.manual_seed(0)
    arguments = {"embed_dim": 48, "depth": 12, "num_heads": 2}
    network = VisionTransformer(img_size=112, patch_size=14, init_values=1.0, num_classes=0, **arguments)
    return write_backbone(folder / "vit_small_dinov2", network, "vit_small_patch14_dinov2", 112, **arguments)


def test_anomaly_dino_takes_a_dino_backbone(files, tmp_path):
    settings = Few(tiny_dino(tmp_path), image_size=(56, 70))
    assert unavailable("anomaly_dino", settings) is None
    normal = listed(files / "normal")[:2]
    scores, maps = score_baseline("anomaly_dino", settings, normal, normal[:1] + listed(files / "queries"))
    assert maps.shape == (7, 56, 70)
    assert scores.shape == (7,)
    assert scores[0] < 1e-4 < scores[1:].min()  # the first is a reference itself


def test_foundad_trains_its_projector(files, tmp_path, monkeypatch):
    from anomalib.models.image.foundad import torch_model
    from anomalib.models.image.foundad.components.encoder_loader import TimmDinoWrapper

    from anomalib_nagl.encoders.timm_encoder import Backbone

    source = Backbone.resolve(tiny_dino(tmp_path))
    network = source.create(source.read_weights(), "cpu", dynamic_img_size=True)
    monkeypatch.setattr(torch_model, "load_encoder", lambda name: TimmDinoWrapper(network))
    monkeypatch.setattr(baseline_models, "STEPS", 2)
    baseline = build_baseline("foundad", Few("gabor", image_size=(64, 64)))
    before = {key: value.clone() for key, value in baseline.module.state_dict().items()}
    images = torch.stack([baseline.prepare(load_image(path)) for path in listed(files / "normal")[:2]])
    assert images.shape == (2, 3, 56, 56)  # a multiple of the patch
    baseline.take_references(images)
    changed = {key for key, value in baseline.module.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith("model.projector") for key in changed)
    assert baseline.score(images)[1].shape == (2, 64, 64)


def test_winclip(files):
    settings = Few("gabor")
    reason = unavailable("winclip", settings)
    if reason is not None:
        pytest.skip(f"WinCLIP cannot run: {reason}")
    scores, maps = score_baseline(
        "winclip", settings, listed(files / "normal")[:1], listed(files / "queries"), "stripes"
    )
    assert scores.shape == (6,)
    assert maps.shape == (6, *SIZE)


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """An empty hub cache, and a hub that nobody listens at."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(baselines, "CLIP_SERVER", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for remembered in (baselines._weights_unavailable, baselines._clip_unavailable):
        remembered.cache_clear()
    yield tmp_path
    for remembered in (baselines._weights_unavailable, baselines._clip_unavailable):
        remembered.cache_clear()


def test_reasons_come_at_once(no_hub):
    start = time.monotonic()
    reasons = {name: unavailable(name, Few("resnet10t")) for name in BASELINES}
    assert time.monotonic() - start < 20
    for name in ("patchcore", "padim"):
        assert reasons[name] == (
            "its weights (timm/resnet10t.c3_in1k) are not in the hub cache, and the hub does not answer"
        )
    assert "timm/vit_small_patch14_dinov2.lvd142m" in reasons["anomaly_dino"]
    assert "timm/vit_base_patch14_dinov2.lvd142m" in reasons["foundad"]
    assert (
        "its CLIP weights are not on this machine, and the server that has them does not answer" in reasons["winclip"]
    )


def test_offline_is_said(no_hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert unavailable("patchcore", Few("resnet10t")).endswith("offline mode is set (HF_HUB_OFFLINE)")


def test_weights_in_the_cache_are_enough(no_hub):
    snapshot = no_hub / "cache" / "models--timm--vit_small_patch14_dinov2.lvd142m"
    (snapshot / "snapshots" / "abc").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("abc")
    (snapshot / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    assert unavailable("anomaly_dino", Few("gabor")) is None


def test_what_cannot_run(tmp_path, cnn):
    assert "gabor is none" in unavailable("patchcore", Few("gabor"))
    assert unavailable("padim", cnn) is None
    folder = tmp_path / "cnn"
    name = backbone("cnn", tmp_path)
    (folder / "model.safetensors").unlink()
    assert unavailable("patchcore", Few(name)) == "its folder holds no weights"
    with pytest.raises(ValueError, match="found baseline 'cfa', expected one of patchcore"):
        unavailable("cfa", cnn)


def test_benchmark_takes_nagl_beside_patchcore(cnn, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((CONFIGS / "benchmark_peers.yaml").read_text())["benchmark"]
    settings["model"]["init_args"]["backbone"] = cnn.backbone
    for split in ("target", "source"):
        settings["data"]["init_args"][split]["init_args"]["root"] = str(drawn)
    jobs = list(BenchmarkJobGenerator(accelerator="cpu").generate_jobs(settings, None))
    assert [type(job.model).__name__ for job in jobs] == ["Nagl", "Patchcore"]
    assert jobs[0].flat_cfg.keys() == jobs[1].flat_cfg.keys()  # else all results of the run are lost
