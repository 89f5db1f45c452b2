"""The head in the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.commands import CONFIGS, anomalib, metrics

from anomalib_nagl import Nagl
from anomalib_nagl.encoders.weights import WeightsError
from anomalib_nagl.plugin import builtin_head


def test_it_brings_its_settings_and_its_weights() -> None:
    nagl = Nagl(head="builtin", visualizer=False)
    assert {name: nagl.hparams[name] for name in builtin_head.SETTINGS} == builtin_head.SETTINGS
    assert nagl.head_trained
    fresh = Nagl("builtin", variant=str(builtin_head.SETTINGS["variant"]), visualizer=False)
    assert not torch.equal(nagl.model.head.learnable_proxies.weight, fresh.model.head.learnable_proxies.weight)
    with pytest.raises(ValueError, match=r"backbone='builtin' instead of 'gabor' in builtin"):
        Nagl("gabor", head="builtin")


def test_a_damaged_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "head.safetensors"
    content = bytearray(builtin_head.FILE.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    monkeypatch.setattr(builtin_head, "FILE", damaged)
    with pytest.raises(WeightsError, match="install the package anew"):
        Nagl(head="builtin")


@pytest.mark.slow
def test_it_is_used_by_a_command(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained, and the checkpoint needs no other file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/drawn").symlink_to(drawn, target_is_directory=True)
    cli = anomalib(
        "train", "--config", CONFIGS / "demo.yaml", "--model.variant", "extended+discriminant",
        "--model.head", "builtin", "--model.image_size", 384, "--model.visualizer", "false",
    )  # fmt: skip
    assert metrics(cli)["pixel_AUROC"] > 0.8
    shipped = Nagl(head="builtin").model.head
    again = Nagl.load_from_checkpoint(cli.engine.trainer.checkpoint_callback.best_model_path)
    assert again.head_trained
    assert torch.equal(again.model.head.learnable_proxies.weight, shipped.learnable_proxies.weight)
