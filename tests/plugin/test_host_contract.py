"""What this package takes from anomalib, name by name: a release that moves one of them fails here first."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from support.places import ROOT

# Every name that is imported, by its module. Those marked (i) are not in anomalib's documentation of its API.
IMPORTED = {
    "anomalib": {"LearningType"},
    "anomalib.cli": {"cli"},  # (i) the module, whose logger set-up is replaced
    "anomalib.data": {
        "AnomalibDataModule", "AnomalibDataset", "Batch", "Folder", "ImageBatch", "ImageItem", "InferenceBatch",
        "MVTecAD", "MVTecLOCODataset", "PredictDataset", "get_datamodule",
    },
    "anomalib.data.dataclasses.numpy.image": {"NumpyImageBatch", "NumpyImageItem"},
    "anomalib.data.datamodules.image.mvtecad": {"MVTecAD"},
    "anomalib.data.datasets.image.mvtecad": {"MVTecADDataset"},
    "anomalib.data.transforms.utils": {"extract_transforms_by_type"},  # (i)
    "anomalib.data.utils": {"LabelName", "Split", "TestSplitMode", "ValSplitMode"},
    "anomalib.data.utils.generators.perlin": {"PerlinAnomalyGenerator"},
    "anomalib.data.utils.path": {"validate_and_resolve_path"},  # (i)
    "anomalib.data.utils.synthetic": {"SyntheticAnomalyDataset"},
    "anomalib.deploy.export": {"CompressionType"},
    "anomalib.engine": {"Engine"},
    "anomalib.engine.plugins.checkpoint_io": {"AnomalibCheckpointIO"},  # (i)
    "anomalib.metrics": {"AUPIMO"},
    "anomalib.metrics.evaluator": {"Evaluator"},
    "anomalib.models": {
        "AnomalyDINO", "Dinomaly", "FoundAD", "InpFormer", "MHPatchcore", "Padim", "Patchcore", "Rad", "SuperADD",
        "WinClip",
    },
    "anomalib.models.components": {"AnomalibModule", "GaussianBlur2d"},
    "anomalib.models.components.base.export_mixin": {"ExportMixin"},  # (i)
    "anomalib.models.image.anomaly_dino": {"torch_model"},  # (i)
    "anomalib.models.image.foundad.components.encoder_loader": {"TIMM_MODEL_NAMES"},  # (i)
    "anomalib.post_processing": {"MEBinPostProcessor", "PostProcessor"},
    "anomalib.pre_processing": {"PreProcessor"},
    "anomalib.utils.path": {"generate_output_filename"},  # (i)
    "anomalib.visualization": {"ImageVisualizer", "Visualizer"},
}  # fmt: skip

# Members that are overridden, called or set, with the arguments that we pass or take.
MEMBERS = {
    "anomalib.models.components:AnomalibModule": {
        "__init__": ("pre_processor", "post_processor", "evaluator", "visualizer"),
        "checkpoint_safe_globals": (), "configure_callbacks": (), "configure_post_processor": (),
        "configure_pre_processor": ("image_size",), "configure_visualizer": (), "learning_type": (),
        "load_from_checkpoint": (), "on_load_checkpoint": ("checkpoint",), "on_save_checkpoint": ("checkpoint",),
        "setup": ("stage",), "test_step": ("batch", "batch_idx"), "predict_step": ("batch", "batch_idx"),
        "to_onnx": ("export_root", "model_file_name", "input_size"), "to_torch": ("export_root", "model_file_name"),
        "to_openvino": ("export_root", "model_file_name", "input_size", "compression_type", "datamodule", "metric",
                        "task", "max_drop", "ov_kwargs", "onnx_kwargs"),
        "trainer_arguments": (),
    },
    "anomalib.data:AnomalibDataModule": {
        "_setup": ("_stage",), "setup": ("stage",), "train_dataloader": (), "val_dataloader": (),
        "test_dataloader": (), "predict_dataloader": (),
    },
    "anomalib.data:AnomalibDataset": {"samples": (), "subsample": ("indices",), "__init__": ("augmentations",)},
    "anomalib.data:ImageBatch": {"update": ()},
    "anomalib.engine:Engine": {
        "__init__": ("callbacks", "logger", "default_root_dir"), "fit": ("model", "datamodule", "ckpt_path"),
        "test": ("model", "datamodule"), "predict": ("model", "datamodule"), "trainer": (),
    },
    "anomalib.engine.plugins.checkpoint_io:AnomalibCheckpointIO": {
        "__init__": ("extra_safe_globals",), "save_checkpoint": ("checkpoint", "path"), "load_checkpoint": ("path",),
    },
    "anomalib.post_processing:PostProcessor": {
        "__init__": ("image_sensitivity", "pixel_sensitivity"), "forward": ("predictions",),
        "normalized_image_threshold": (), "normalized_pixel_threshold": (), "image_threshold": (),
        "pixel_threshold": (),
    },
    "anomalib.pre_processing:PreProcessor": {"__init__": ("transform",), "forward": ("batch",)},
    "anomalib.visualization:ImageVisualizer": {"on_test_batch_end": ("outputs", "batch", "batch_idx")},
    "anomalib.utils.path:generate_output_filename": {"": ("input_path", "output_path", "mkdir")},
    "anomalib.data.utils.path:validate_and_resolve_path": {"": ("folder", "root")},
}  # fmt: skip


def imported() -> dict[str, set[str]]:
    """Every ``from anomalib... import ...`` of the package."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "anomalib_nagl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "anomalib":
                found.setdefault(str(node.module), set()).update(name.name for name in node.names)
    return found


def test_every_name_that_is_imported_is_listed_and_there() -> None:
    assert imported() == IMPORTED
    for module, names in IMPORTED.items():
        for name in names:
            assert hasattr(import_module(module), name), f"{module}.{name}"


@pytest.mark.parametrize("place", MEMBERS)
def test_members_take_what_we_pass(place: str) -> None:
    module, name = place.split(":")
    owner = getattr(import_module(module), name)
    for member, arguments in MEMBERS[place].items():
        found = owner if not member else inspect.getattr_static(owner, member)
        found = getattr(found, "__func__", found)
        if isinstance(found, property) or not callable(found):
            assert not arguments, f"{place}.{member}"
            continue
        known = inspect.signature(found).parameters
        assert set(arguments) <= set(known), f"{place}.{member} takes {', '.join(known)}"


def test_what_we_set_and_read_without_a_signature() -> None:
    import anomalib.cli.cli
    import anomalib.models
    from anomalib.data import AnomalibDataset, ImageBatch, InferenceBatch
    from anomalib.deploy.export import CompressionType
    from anomalib.metrics import AUPIMO
    from anomalib.metrics.evaluator import Evaluator
    from anomalib.models.components import AnomalibModule
    from anomalib.post_processing import PostProcessor

    assert isinstance(anomalib.models.ALLOWED_MODULES, set)  # classes of ours may be named by their path
    assert callable(anomalib.cli.cli.configure_logger)
    assert callable(anomalib.cli.cli.main)
    post: Any = PostProcessor()
    for kind in ("image", "pixel"):
        for buffer in (f"{kind}_min", f"_{kind}_threshold", f"{kind}_max"):
            assert isinstance(getattr(post, buffer), torch.Tensor), buffer
        assert isinstance(getattr(post, f"{kind}_sensitivity"), float)
    assert post.enable_thresholding
    assert post.enable_normalization
    assert list(InferenceBatch.__dataclass_fields__ if hasattr(InferenceBatch, "__dataclass_fields__") else
                InferenceBatch._fields) == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]  # fmt: skip
    fields = {"image", "gt_mask", "gt_label", "image_path", "pred_score", "anomaly_map", "pred_mask", "explanation"}
    assert fields <= set(ImageBatch.__dataclass_fields__)
    assert {one.name for one in CompressionType} >= {"FP16", "INT8", "INT8_PTQ", "INT8_ACQ"}
    assert hasattr(Evaluator(), "test_metrics")
    assert AUPIMO().num_thresholds > 0
    assert AnomalibModule.__mro__[1:] != ()
    assert "samples" in vars(AnomalibDataset)


def test_the_release_that_was_looked_at_is_the_one_required() -> None:
    written = re.search(r'"(anomalib\[openvino\].+?)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert written is not None
    specifier = Requirement(written[1]).specifier
    assert specifier.contains("2.7.0")
    assert specifier.contains("2.7.9")
    assert not specifier.contains("2.6.9")
    assert not specifier.contains("2.8.0")


def test_hook_waits_for_the_module_that_models_are_looked_up_in() -> None:
    hook = (ROOT / "autoload/_anomalib_nagl_hook.py").read_text(encoding="utf-8")
    assert 'TARGET = "anomalib.models"' in hook
    models: Any = import_module("anomalib.models")
    assert models.get_model
    assert Path(models.__file__).name == "__init__.py"
