"""What a GPU computes, held to the CPU: 32 bits on both, TF32 off. Skipped where there is no CUDA device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import parts
from support.exported import backbone, by_torch, make_model, picture, pixels, reference_set

from anomalib_nagl import Nagl, ReferenceDataModule
from anomalib_nagl.bank.verdicts import Rules, judge
from anomalib_nagl.core.functional import BANK_CHUNK, l2_normalize, nearest
from anomalib_nagl.plugin.head_trainer import HeadTrainer
from anomalib_nagl.plugin.inspection import TorchScorer
from anomalib_nagl.plugin.token_cache import PlacedTokens
from anomalib_nagl.plugin.token_store import FileStore, MemoryStore

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu() -> Iterator[torch.device]:
    """The first CUDA device, in 32 bits."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield torch.device("cuda")
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


MODELS = [("gabor", 128, {}), ("builtin", 128, {}), ("builtin", 128, {"variant": "discriminant"}), ("vit", 112, {})]


@pytest.mark.parametrize(("name", "side", "settings"), MODELS)
def test_an_adapted_model_scores_as_on_the_cpu(
    name: str, side: int, settings: dict[str, Any], gpu: torch.device, tmp_path: Path
) -> None:
    model = make_model(backbone(name, tmp_path), (side, side), normal=3, abnormal=2, **settings)
    moved = copy.deepcopy(model).to(gpu)
    images = torch.stack([picture((200, 150), 60 + i, defect=i % 2 == 0) for i in range(6)])
    expected = by_torch(model, images)
    with torch.inference_mode():
        found = moved(images.to(gpu))
    assert found.pred_score.device.type == gpu.type
    assert np.abs(found.pred_score.cpu().numpy() - expected.score).max() < 1e-4
    assert np.abs(found.anomaly_map.cpu().numpy() - expected.map).max() < 1e-4
    assert np.array_equal(found.pred_label.cpu().numpy(), expected.label)
    assert len(set(expected.label.tolist())) == 2


def test_verdicts_and_nearest_references_are_the_same(gpu: torch.device) -> None:
    nagl = Nagl("builtin", image_size=128, variant="discriminant", evaluator=False, visualizer=False).eval()
    nagl.set_references(reference_set(5, 3))
    scorers = TorchScorer(nagl), TorchScorer(copy.deepcopy(nagl).to(gpu))
    verdicts = set()
    for seed in range(8):
        shown = pixels(picture((210, 260), 100 + seed, defect=seed % 2 == 0))
        found = [scorer(shown) for scorer in scorers]
        rows = [
            judge("part", one, shown.shape[:2], Rules(scorer.threshold, scorer.pixel_threshold))
            for scorer, one in zip(scorers, found, strict=True)
        ]
        assert rows[0].verdict == rows[1].verdict
        assert found[0].score == pytest.approx(found[1].score, abs=1e-4)
        assert found[0].nearest.index == found[1].nearest.index
        verdicts.add(rows[0].verdict)
    assert len(verdicts) > 1


def test_references_are_adapted_to_on_the_device(gpu: torch.device) -> None:
    """What a bank keeps is decided on the CPU from what the device encoded."""
    models = [make_model("builtin", (128, 128), normal=1) for _ in range(2)]
    models[1].to(gpu)
    for model in models:
        model.set_references(reference_set(6, 3))
    assert models[1].model.normal_bank.device.type == gpu.type
    assert models[0].model.normal_bank.shape == models[1].model.normal_bank.shape
    for seed in range(4):
        image = picture((210, 260), 120 + seed, defect=seed % 2 == 0)[None]
        expected = by_torch(models[0], image)
        with torch.inference_mode():
            found = models[1](image.to(gpu))
        assert float(found.pred_score[0]) == pytest.approx(float(expected.score[0]), abs=1e-3)


def test_the_search_is_exact_on_the_device(gpu: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    query = l2_normalize(torch.randn(2, 256, 192, generator=generator))
    bank = l2_normalize(torch.randn(1, 3 * BANK_CHUNK + 7, 192, generator=generator))
    expected, found = nearest(query, bank), nearest(query.to(gpu), bank.to(gpu))
    assert found.similarity.device.type == gpu.type
    assert (found.similarity.cpu() - expected.similarity).abs().max() < 1e-6
    chosen = (query @ bank[0].T).gather(-1, found.patch.cpu()[..., None])[..., 0]
    assert ((1 + chosen) / 2 - expected.similarity).abs().max() < 1e-6  # another one only where both are as near
    assert (found.patch.cpu() == expected.patch).float().mean() > 0.99


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_tokens_reach_the_device_as_they_are_stored(kind: str, gpu: torch.device, tmp_path: Path) -> None:
    contents, shape, dtype = [2 * f"{i:032x}" for i in range(5)], (7, 4), torch.float16
    store = (
        MemoryStore(contents, shape, dtype, pinned=True)
        if kind == "memory"
        else FileStore(tmp_path, "recipe", contents, shape, dtype)
    )
    store.put(list(range(5)), torch.randn(5, *shape))
    store.share(lambda part: part)
    for rows in (torch.tensor([[4, 0], [2, 2]]), torch.tensor(3), torch.zeros(2, 0, dtype=torch.long)):
        found = store.to_gpu(rows, gpu)
        assert (found.device.type, found.dtype) == (gpu.type, torch.float32)
        assert torch.equal(found.cpu(), store[rows])


def trained(root: Path, place: Path, accelerator: str, **settings: Any) -> Nagl:
    """A head trained on drawn parts for three epochs, each validated on a category that is held out."""
    model = parts.learner(epochs=3, **settings)
    data = ReferenceDataModule(
        parts.target(root), [parts.target(root, name) for name in "bcd"], episodes=24, num_workers=0,
        validation_categories=["d"], validation_episodes=16,
    )  # fmt: skip
    parts.engine(place, accelerator=accelerator).fit(model, datamodule=data)
    return model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "abcd":
        parts.category(tmp_path / "parts", name)
    return tmp_path / "parts"


@pytest.mark.parametrize("files", [False, True])
def test_a_training_keeps_an_epoch_as_good_as_that_of_the_cpu(
    files: bool, root: Path, tmp_path: Path, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed, maps = [], HeadTrainer._maps

    def counted(self: HeadTrainer, nagl: Nagl, batch: Any) -> Any:
        placed.append(isinstance(batch, PlacedTokens) and batch.query.device.type)
        return maps(self, nagl, batch)

    settings = {"token_cache_dir": str(tmp_path / "tokens")} if files else {}
    on_cpu = trained(root, tmp_path / "cpu", "cpu", **settings)
    monkeypatch.setattr(HeadTrainer, "_maps", counted)
    on_gpu = trained(root, tmp_path / "gpu", gpu.type, **settings)
    assert "cuda" in placed  # tokens were copied ahead
    expected, found = on_cpu.head_trainer.kept, on_gpu.head_trainer.kept
    # Sums in another order move the weights in their last digits: the score decides, not the number of the epoch.
    assert found.scores.image == pytest.approx(expected.scores.image, abs=0.02)
    assert found.scores.pixel == pytest.approx(expected.scores.pixel, abs=0.005)
    for name, tensor in expected.weights.items():
        assert (found.weights[name] - tensor).abs().max() < 1e-3 or found.epoch != expected.epoch


def test_mixed_precision_follows_the_trainer(root: Path, tmp_path: Path, gpu: torch.device) -> None:
    model = parts.learner(epochs=1)
    data = ReferenceDataModule(parts.target(root), parts.target(root, "b"), episodes=8, num_workers=0)
    parts.engine(tmp_path / "half", accelerator=gpu.type, precision="bf16-mixed").fit(model, datamodule=data)
    assert all(tensor.dtype == torch.float32 for tensor in model.model.head.parameters())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.model.head.parameters())
    assert np.isfinite(model.predict(pixels(picture((64, 64), 1))).score)
