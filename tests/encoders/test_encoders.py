"""Encoders: golden tokens, sizes, stages, weights that come late, and what they say when something is wrong."""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from pathlib import Path

import openvino
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from skimage.filters import gabor_kernel
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from anomalib_nagl.encoders import Encoder, VitEncoder, WeightsError, build_encoder, parse_image_size
from anomalib_nagl.encoders.cnn import choose_stages
from anomalib_nagl.encoders.gabor import gabor_bank
from anomalib_nagl.encoders.vit import resample_table

SHARED = Path(os.environ.get("NAGL_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = Path(os.environ.get("NAGL_GOLDEN", SHARED / "spec" / "golden"))
MOBILENET = SHARED / "weights" / "mobilenetv2_100_tfsame"
REMEDIES = ("local-dir:PATH", "backbone_weights=FILE", "HF_HOME", "backbone=builtin")
STAGES = [{"module": f"layer{i}", "reduction": 2**i, "num_chs": 8} for i in range(1, 6)]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    path = GOLDEN / "encoder_tiny.safetensors"
    if not path.exists():
        pytest.skip(f"{path} not found: set NAGL_GOLDEN to the folder with the golden files")
    return {key: tensor.float() for key, tensor in load_file(path).items()}


@pytest.fixture(scope="module")
def mobilenet() -> str:
    if not MOBILENET.exists():
        pytest.skip(f"{MOBILENET} not found: set NAGL_SHARED to the folder that holds weights/")
    return f"local-dir:{MOBILENET}"


@pytest.fixture
def no_hub(tmp_path, monkeypatch) -> None:
    """An empty hub cache, and a hub that nobody listens at."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def write_folder(folder: Path, architecture: str, input_side: int, **arguments: object) -> str:
    """A local-dir: backbone without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    pretrained = {
        "input_size": [3, input_side, input_side],
        "fixed_input_size": architecture.startswith("vit"),
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "num_classes": 0,
    }
    config = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def tiny_vit(folder: Path, seed: int = 0) -> str:
    """A two-block DINOv2 of width 24 and a 5x5 table, with weights."""
    arguments = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    torch.manual_seed(seed)
    model = VisionTransformer(img_size=70, patch_size=14, init_values=1.0, num_classes=0, **arguments)
    nn.init.normal_(model.pos_embed)
    name = write_folder(folder, "vit_small_patch14_dinov2", 70, **arguments)
    save_file(model.state_dict(), folder / "model.safetensors")
    return name


def ready(name: str, image_size: object, **options: str | None) -> Encoder:
    encoder = build_encoder(name, image_size, **options)
    encoder.ensure_weights()
    return encoder


def images(encoder: Encoder, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1))


# --- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [112, 448])
def test_tokens_and_table_are_the_published_ones(golden, tmp_path, side):
    """Original DINOv2 key names, read through the front door."""
    name = write_folder(tmp_path, "vit_small_patch14_dinov2", 518, embed_dim=24, depth=2, num_heads=2)
    torch.save({k.removeprefix("weights."): v for k, v in golden.items() if k[:8] == "weights."}, tmp_path / "hub.pth")
    encoder = ready(name, side, weights=str(tmp_path / "hub.pth"))
    picture = golden["image112"] if side == 112 else nn.Upsample(scale_factor=16)(golden["image448_28x28"])
    torch.testing.assert_close(encoder.backbone.pos_embed, golden[f"pos{side}"], atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder(picture), golden[f"tokens{side}"], atol=1e-5, rtol=0)


def cubic(x: Tensor, a: float = -0.75) -> Tensor:
    x = x.abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


@pytest.mark.parametrize(("native", "grid"), [((5, 5), (8, 3)), ((37, 37), (16, 20)), ((4, 6), (9, 12))])
def test_table_follows_the_rule_on_each_axis(native, grid):
    """Against a matrix of cubic weights per axis, written from the specification."""
    table = torch.randn(1, 1 + native[0] * native[1], 7, generator=torch.Generator().manual_seed(0))

    def matrix(old: int, new: int) -> Tensor:
        source = (torch.arange(new, dtype=torch.float64) + 0.5) * old / (new + 0.1) - 0.5
        taps = source.floor()[:, None] + torch.arange(-1, 3)
        rows = torch.zeros(new, old, dtype=torch.float64)
        return rows.scatter_add_(1, taps.clamp(0, old - 1).long(), cubic(source[:, None] - taps))

    plane = table[0, 1:].double().unflatten(0, native)
    expected = torch.einsum("ri,cj,ijd->rcd", matrix(native[0], grid[0]), matrix(native[1], grid[1]), plane)
    found = resample_table(table, native, grid)
    assert found.shape == (1, 1 + grid[0] * grid[1], 7)
    torch.testing.assert_close(found[0, 1:], expected.flatten(0, 1).float(), atol=2e-5, rtol=0)
    assert torch.equal(found[:, 0], table[:, 0])


def test_tokens_do_not_depend_on_resampling_in_timm(tmp_path, monkeypatch):
    """anomalib's feature extractor replaces that function for the whole process."""
    name = tiny_vit(tmp_path)
    expected = ready(name, (28, 42))
    monkeypatch.setattr("timm.models.vision_transformer.resample_abs_pos_embed", lambda *_, **__: pytest.fail("used"))
    encoder = ready(name, (28, 42))
    assert torch.equal(encoder(images(encoder)), expected(images(expected)))


def test_native_size_gives_the_very_tokens_of_timm():
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=0, reg_tokens=2
    )
    reference = copy.deepcopy(model).eval()
    encoder = VitEncoder(model, (32, 32))
    assert torch.equal(encoder(images(encoder)), reference.forward_features(images(encoder))[:, 3:])


# --- shapes, sizes, stages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "layers", "grid", "dim"),
    [
        ("gabor", (64, 96), None, (4, 6), 56),
        ("builtin", (64, 96), None, (4, 6), 96),
        ("resnet10t", (64, 96), None, (4, 6), 256),
        ("resnet10t", (64, 96), "2, 3", (8, 12), 384),
        ("resnet10t", (64, 96), "layer1,layer3", (16, 24), 320),
        ("vit_tiny_patch16_224", (48, 80), None, (3, 5), 192),
        ("vit_small_patch16_dinov3", (48, 80), None, (3, 5), 384),
        ("swin_tiny_patch4_window7_224", (224, 448), "0,1", (56, 112), 288),
    ],
)
def test_grid_and_width_are_as_promised(name, size, layers, grid, dim):
    encoder = build_encoder(name, size, layers)
    encoder._ready = True  # random weights do for shapes
    assert (encoder.name, encoder.layers, encoder.image_size) == (name, layers, size)
    assert (encoder.grid, encoder.dim) == (grid, dim)
    assert encoder(images(encoder)).shape == (2, grid[0] * grid[1], dim)


@pytest.mark.parametrize("name", ["gabor", "builtin", "vit"])
def test_tokens_of_an_image_do_not_depend_on_its_batch(name, tmp_path):
    encoder = ready(tiny_vit(tmp_path) if name == "vit" else name, (112, 224) if name == "vit" else (64, 96))
    batch = images(encoder, 3)
    torch.testing.assert_close(encoder(batch)[1:2], encoder(batch[1:2]), atol=1e-5, rtol=1e-5)


def test_tokens_are_row_major():
    encoder = build_encoder("gabor", (64, 96))
    picture = torch.zeros(1, 3, 64, 96)
    picture[..., 32:48, 80:96] = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    spread = encoder(picture)[0, :, -2]  # grey's
    assert spread.argmax().item() == 2 * 6 + 5


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (448, (448, 448)),
        ((448, 672), (448, 672)),
        ([14, 28], (14, 28)),
        ("448", (448, 448)),
        (" 448 , 672", (448, 672)),
    ],
)
def test_image_sizes_are_read(value, size):
    assert parse_image_size(value) == size


@pytest.mark.parametrize("value", [0, -14, 1.5, True, "wide", "1,2,3", (1, 2, 3), (), None, (14.5, 28), (14, True)])
def test_bad_image_sizes_are_refused(value):
    with pytest.raises(ValueError, match="image_size: found"):
        parse_image_size(value)


def test_omegaconf_lists_are_image_sizes():
    omegaconf = pytest.importorskip("omegaconf")
    assert parse_image_size(omegaconf.OmegaConf.create([448, 672])) == (448, 672)


@pytest.mark.parametrize(
    ("name", "size", "parts"),
    [
        ("vit_small_patch14_dinov2", (450, 448), ("height 450", "448 and 462", "14 pixels")),
        ("gabor", (64, 100), ("width 100", "96 and 112")),
        ("builtin", (64, 100), ("width 100", "96 and 112")),
        ("resnet10t", (50, 10), ("height 50 (nearest: 48 and 64)", "width 10 (nearest: 16)")),
    ],
)
def test_wrong_size_names_the_nearest_ones(name, size, parts):
    with pytest.raises(ValueError, match="multiples of its patch") as raised:
        build_encoder(name, size)
    assert all(part in str(raised.value) for part in parts)


def test_images_of_another_size_are_refused():
    encoder = build_encoder("gabor", 64)
    with pytest.raises(ValueError, match="expected \\(B, 3, 64, 64\\)"):
        encoder(torch.zeros(1, 3, 64, 80))


@pytest.mark.parametrize(
    ("layers", "indices"), [(None, (3,)), ("3", (3,)), ("3,1", (1, 3)), ("layer2", (1,)), ("layer5, 0", (0, 4))]
)
def test_stages_are_chosen(layers, indices):
    assert choose_stages(STAGES, layers, "net") == indices


@pytest.mark.parametrize("layers", ["7", "layer9", "1,1", "1,layer2", ""])
def test_bad_stages_are_refused_with_the_choices(layers):
    with pytest.raises(ValueError, match=r"layers of net: .*1 = layer2 \(stride 4\)"):
        choose_stages(STAGES, layers, "net")


def test_without_stride_16_the_deepest_below_32_is_taken():
    assert choose_stages([STAGES[0], STAGES[2], STAGES[4]], None, "net") == (1,)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_smal_patch14_dinov2", {}, "did you mean vit_small_patch14_dinov2"),
        ("vit_small_patch14_dinov2.lvd", {}, "lvd142m"),
        ("hf-hub:some/where", {}, "expected builtin, local-dir:PATH, gabor"),
        ("local-dir:nowhere", {}, "nowhere.config.json"),
        ("inception_v3", {}, "a network that pads"),
        ("gabor", {"weights": "x.pth"}, "no choice of weights"),
        ("builtin", {"weights": "x.pth"}, "no choice of weights"),
        ("vit_tiny_patch16_224", {"layers": "2"}, "no choice of layers"),
    ],
)
def test_bad_backbones_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(name, 224, **options)


# --- frozen, late weights -------------------------------------------------------------------------------------------


def test_encoder_is_frozen_and_stays_in_evaluation_mode(tmp_path):
    parent = nn.Sequential(build_encoder(tiny_vit(tmp_path), 28), nn.Linear(1, 1)).train()
    assert not any(module.training for module in parent[0].modules())
    assert not any(parameter.requires_grad for parameter in parent[0].parameters())


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    build_encoder("resnet10t", 64)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_come_when_asked_for(tmp_path):
    name = tiny_vit(tmp_path)
    hidden = (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere")
    encoder = build_encoder(name, (28, 42))
    assert not encoder.weights_ready
    for call in (lambda: encoder(images(encoder)), encoder.fingerprint):
        with pytest.raises(RuntimeError, match="no weights yet"):
            call()
    hidden.rename(tmp_path / "model.safetensors")
    with torch.inference_mode():
        encoder.ensure_weights()
    tokens = encoder(images(encoder))
    (tmp_path / "model.safetensors").unlink()
    encoder.ensure_weights()
    assert torch.equal(encoder(images(encoder)), tokens)
    assert not any(tensor.is_inference() for tensor in (*encoder.parameters(), *encoder.buffers()))
    assert (encoder.mean, encoder.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_checkpoint_brings_its_own_weights_at_another_size(tmp_path, no_hub):
    name = tiny_vit(tmp_path)
    first = ready(name, 112)
    expected = ready(name, (70, 42))
    config = json.loads(json.dumps(first.config))
    for path in tmp_path.iterdir():
        path.unlink()
    second = nn.ModuleDict({"encoder": build_encoder(name, (70, 42), config=config)})
    second.load_state_dict({f"encoder.{key}": value for key, value in first.state_dict().items()})
    assert second["encoder"].weights_ready
    second["encoder"].ensure_weights()
    assert torch.equal(second["encoder"](images(expected)), expected(images(expected)))
    assert second["encoder"].fingerprint() == first.fingerprint() == expected.fingerprint()


def test_half_a_checkpoint_does_not_count(tmp_path):
    name = tiny_vit(tmp_path)
    state = ready(name, 28).state_dict()
    state.pop("backbone.norm.weight")
    encoder = build_encoder(name, 28)
    encoder.load_state_dict(state, strict=False)
    assert not encoder.weights_ready


def test_fingerprint_tells_weights_and_stages_apart(tmp_path):
    prints = {ready(tiny_vit(tmp_path / str(seed), seed), 28).fingerprint() for seed in (0, 1)}
    prints.add(build_encoder("gabor", 32).fingerprint())
    assert len(prints) == 3
    assert build_encoder("gabor", 64).fingerprint() in prints


# --- weights that cannot be had -------------------------------------------------------------------------------------


def test_unreachable_hub_is_told_at_once(no_hub):
    encoder = build_encoder("resnet10t", 64)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"resnet10t.*127.0.0.1:9 does not answer") as raised:
        encoder.ensure_weights()
    assert time.monotonic() - start < 8
    assert all(remedy in str(raised.value) for remedy in REMEDIES)
    assert not encoder.weights_ready


def test_offline_mode_is_respected(no_hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("anomalib_nagl.encoders.weights.get_session", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(WeightsError, match="offline mode is set") as raised:
        build_encoder("resnet10t", 64).ensure_weights()
    assert all(remedy in str(raised.value) for remedy in REMEDIES)


def test_filled_hub_cache_needs_no_network(no_hub, tmp_path):
    snapshot = tmp_path / "cache" / "models--timm--resnet10t.c3_in1k"
    (snapshot / "snapshots" / "abc").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("abc")
    state = build_encoder("resnet10t", 64).source.create(device="cpu").state_dict()
    save_file(state, snapshot / "snapshots" / "abc" / "model.safetensors")
    encoder = ready("resnet10t", 64)
    assert torch.equal(encoder.backbone.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "found no file"),
        (b"not a checkpoint", "cannot be read"),
        ({"epoch": 3}, "no tensors"),
        ({"state_dict": {"conv1.weight": torch.zeros(8, 3, 7, 7)}}, "does not fit .*missing"),
        ({"pos_embed": torch.zeros(1, 10, 24)}, "table of 10 entries, expected 26"),
        (nn.Linear(1, 1), "cannot be read"),
    ],
)
def test_bad_weight_files_are_refused(content, message, tmp_path):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    encoder = build_encoder(tiny_vit(tmp_path), 28, weights=str(file))
    with pytest.raises(WeightsError, match=message) as raised:
        encoder.ensure_weights()
    assert str(file) in str(raised.value)
    assert "backbone_weights=FILE" in str(raised.value)
    assert not encoder.weights_ready


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint in"):
        ready(write_folder(tmp_path, "resnet10t", 64), 64)


# --- real weights, gabor, export ------------------------------------------------------------------------------------


def test_real_mobilenet_is_deterministic_and_quiet(mobilenet, caplog):
    with caplog.at_level(logging.WARNING):
        encoder = ready(mobilenet, (64, 96))
    assert not caplog.records
    assert (encoder.grid, encoder.dim, encoder.mean, encoder.std) == ((4, 6), 96, (0.5,) * 3, (0.5,) * 3)
    assert encoder(images(encoder)).std() > 0.1
    assert ready(mobilenet, 32).fingerprint() == encoder.fingerprint()
    assert ready(mobilenet, 32, layers="2,3").fingerprint() != encoder.fingerprint()


def test_cnn_checkpoint_moves_to_another_size_and_machine(mobilenet, no_hub):
    first = ready(mobilenet, 64)
    second = build_encoder("local-dir:gone", 96, config=first.config)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(images(second)), ready(mobilenet, 96)(images(second)))


def test_gabor_kernels_are_those_of_scikit_image():
    bank = gabor_bank(0.2, 8)
    odd = torch.from_numpy(gabor_kernel(0.2, theta=0.0).imag).float()
    rows, columns = ((bank.shape[-1] - length) // 2 for length in odd.shape)
    found = bank[8, 0, rows : rows + odd.shape[0], columns : columns + odd.shape[1]]
    torch.testing.assert_close(found, 2 * odd / odd.abs().sum())
    torch.testing.assert_close(bank.sum((1, 2, 3)), torch.zeros(16), atol=1e-5, rtol=0)


def test_gabor_tells_directions_apart_and_ignores_brightness_of_flat_patches():
    encoder = build_encoder("gabor", 64)
    wave = torch.sin(torch.arange(64) * 2 * torch.pi * 0.2).expand(1, 3, 64, 64)
    across, along = encoder(wave)[0, 5, :48], encoder(wave.mT)[0, 5, :48]
    assert torch.cosine_similarity(across, along, dim=0) < 0.3
    torch.testing.assert_close(across.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    flat = [encoder(torch.full((1, 3, 64, 64), level))[0, :, :48] for level in (-1.0, 1.0)]
    torch.testing.assert_close(flat[0], flat[1], atol=1e-3, rtol=0)
    assert encoder.weights_ready
    assert not encoder.state_dict()


@pytest.mark.parametrize("name", ["gabor", "builtin", "vit"])
def test_export_agrees_in_openvino(name, tmp_path):
    encoder = ready(tiny_vit(tmp_path), (28, 42)) if name == "vit" else ready(name, (32, 48))
    torch.onnx.export(
        encoder,
        (images(encoder),),
        tmp_path / "encoder.onnx",
        dynamo=True,
        opset_version=18,
        verbose=False,
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
    )
    model = openvino.Core().compile_model(tmp_path / "encoder.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (1, 3):
        found = torch.from_numpy(model(images(encoder, batch).numpy())[0])
        torch.testing.assert_close(found, encoder(images(encoder, batch)), atol=1e-4, rtol=0)
