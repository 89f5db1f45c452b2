"""The backbone in the package: its weight file, where its tokens look, and how it is made from a larger one."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.efficientnet import EfficientNet
from torch import nn

from anomalib_nagl.encoders import BuiltinEncoder, WeightsError, build_encoder, builtin

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def encoder() -> BuiltinEncoder:
    built = BuiltinEncoder((96, 128))
    built.ensure_weights()
    return built


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """The script that trains it."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec = importlib.util.spec_from_file_location("train_builtin", EXAMPLES / "train_builtin.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> tuple[str, EfficientNet]:
    """A MobileNetV2 with random weights and statistics, in a folder."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv2_100", pad_type="same", num_classes=0).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0.2, 0.3)
            nn.init.uniform_(module.weight, 0.8, 1.6)
            nn.init.normal_(module.running_mean, 0, 0.2)
    (folder / "config.json").write_text(
        '{"architecture": "mobilenetv2_100", "model_args": {"pad_type": "same"}, "pretrained_cfg": {"num_classes": 0}}'
    )
    save_file(network.state_dict(), folder / "model.safetensors")
    return str(folder), network


def test_it_is_small_and_needs_nothing_else(monkeypatch):
    monkeypatch.setattr("anomalib_nagl.encoders.weights.get_session", lambda: pytest.fail("the hub was asked"))
    assert builtin.FILE.stat().st_size <= 4 * 2**20
    built = build_encoder("builtin", 64)
    assert not built.weights_ready
    built.ensure_weights()
    assert built(torch.randn(1, 3, 64, 64)).std() > 0.1


@pytest.mark.parametrize("content", [None, b"", b"another version"])
def test_another_weight_file_is_refused(content, tmp_path, monkeypatch):
    file = tmp_path / builtin.FILE.name
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(builtin, "FILE", file)
    built = build_encoder("builtin", 64)
    with pytest.raises(WeightsError, match=r"found, instead of the weight file .* expected SHA-256 .* anew"):
        built.ensure_weights()
    assert not built.weights_ready


def test_a_checkpoint_needs_no_file(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "FILE", tmp_path / "gone")
    other = build_encoder("builtin", 64, config=encoder.config)
    other.load_state_dict(encoder.state_dict())
    other.ensure_weights()
    assert other.fingerprint() == encoder.fingerprint()


def test_it_is_introduced_once(caplog):
    built = build_encoder("builtin", 64)
    with caplog.at_level(logging.INFO, "anomalib_nagl"):
        built.ensure_weights()
        built.ensure_weights()
    (record,) = caplog.records
    assert record.getMessage().startswith("Backbone: builtin, a small network inside the package; what a larger one")


def test_tokens_look_at_the_middle_of_their_patch(encoder):
    """A speck changes the token of its patch most, wherever in the patch it lies; on average over grounds."""
    grounds = torch.randn(12, 3, 96, 128, generator=torch.Generator().manual_seed(0)) * 0.1
    before = encoder(grounds)
    for down, right in itertools.product((4, 11), repeat=2):
        speckled = grounds.clone()
        speckled[:, :, 32 + down - 2 : 32 + down + 2, 64 + right - 2 : 64 + right + 2] += 1
        change = (encoder(speckled) - before).norm(dim=2).mean(0).view(encoder.grid)
        assert divmod(int(change.argmax()), encoder.grid[1]) == (2, 4)


def test_the_large_network_is_the_published_one_moved_by_seven_pixels(training, teacher):
    folder, published = teacher
    wide = training.read_teacher(folder)
    images = torch.randn(1, 3, 391, 391, generator=torch.Generator().manual_seed(0))
    stages = timm.create_model("mobilenetv2_100", pad_type="same", features_only=True, out_indices=(3,)).eval()
    stages.load_state_dict(published.state_dict(), strict=False)
    with torch.inference_mode():
        found, expected = wide(images[..., 7:391, 7:391]), stages(images[..., :384, :384])[0]
    inner = (..., slice(11, 13), slice(11, 13))  # where neither sees its border
    torch.testing.assert_close(found[inner], expected[inner], atol=1e-3 * float(expected.std()), rtol=0)


def test_elimination_finds_the_regressors_that_matter(training):
    """Three columns make the outputs, others copy or disturb them; against every choice of three."""
    random = np.random.default_rng(0)
    columns = torch.from_numpy(random.standard_normal((400, 7)))
    columns[:, 5] = columns[:, 1] + 0.3 * columns[:, 5]
    design = nn.functional.pad(columns, (0, 1), value=1.0)
    wanted = columns[:, [1, 3, 6]] @ torch.from_numpy(random.standard_normal((3, 4))) + 2
    pruning = sys.modules["builtin_training.pruning"]
    kept, weights = pruning.eliminate(design.T @ design / 400, design.T @ wanted / 400, 3)

    def error(choice: tuple[int, ...]) -> float:
        chosen = design[:, [*choice, 7]]
        return float((chosen @ torch.linalg.lstsq(chosen, wanted).solution - wanted).square().sum())

    assert tuple(kept.tolist()) == min(itertools.combinations(range(7), 3), key=error) == (1, 3, 6)
    torch.testing.assert_close(design[:, [*kept, 7]].float() @ weights, wanted.float(), atol=0.02, rtol=0)


@pytest.mark.slow
def test_training_approaches_the_teacher_and_goes_on_after_a_stop(training, teacher, tmp_path, monkeypatch, capsys):
    for name, value in {"POOL": 16, "SIDE": 96, "CROP": 4, "BATCH": 4}.items():
        monkeypatch.setattr(training, name, value)

    def run(out: str, steps: int) -> None:
        monkeypatch.setattr(
            sys, "argv", ["train", teacher[0], str(tmp_path / out), "--steps", str(steps), "--every", "2"]
        )
        training.main()

    monkeypatch.setattr(training, "rate", lambda step, steps, highest: highest * (step + 1) / 6)
    run("whole.safetensors", 6)
    losses = [
        float(line.split("loss ")[1].split(",")[0]) for line in capsys.readouterr().out.splitlines() if "loss" in line
    ]
    assert losses[-1] < losses[0]
    run("stopped.safetensors", 2)
    run("stopped.safetensors", 6)
    whole, stopped = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "stopped"))
    for key, tensor in whole.items():
        torch.testing.assert_close(stopped[key], tensor, atol=1e-4, rtol=1e-3)
    encoder = BuiltinEncoder((64, 64))
    encoder.backbone.load_state_dict(stopped)
