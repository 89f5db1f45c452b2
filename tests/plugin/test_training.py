"""Training: cached tokens, validation on the source, the same bits every time, and resuming after a kill."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file
from support.commands import CONFIGS, anomalib, metrics
from torch import Tensor

from anomalib_nagl.encoders.gabor import GaborEncoder
from anomalib_nagl.plugin import token_store

COMMAND = (
    "train", "--config", CONFIGS / "quickstart.yaml", "--model.visualizer", "false", "--data.episodes", 20,
    "--model.backbone", "gabor", "--model.image_size", 128, "--model.epochs", 2,
    "--data.validation_categories", "wood", "--data.validation_episodes", 10,
)  # fmt: skip
WEIGHTS = Path("weights/lightning")


@pytest.fixture
def quick(drawn: Path, folder: Path) -> Path:
    """A working folder in which the images of the quick start are drawn already."""
    (folder / "datasets").mkdir()
    (folder / "datasets/drawn").symlink_to(drawn, target_is_directory=True)
    return folder


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that went through the encoder, pass by pass."""
    counted: list[int] = []
    encode = GaborEncoder.forward

    def forward(self: GaborEncoder, images: Tensor) -> Tensor:
        counted.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(GaborEncoder, "forward", forward)
    return counted


def run_folder(cli: object) -> Path:
    return Path(cli.engine.trainer.default_root_dir)


def head_of(checkpoint: Path) -> dict[str, Tensor]:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {name: tensor for name, tensor in state.items() if name.startswith("model.head.")}


def assert_same_head(*checkpoints: Path) -> None:
    first, *others = [head_of(path) for path in checkpoints]
    assert first
    for other in others:
        for name, tensor in first.items():
            assert torch.equal(tensor, other[name]), name


def distinct_pictures(root: Path, *categories: str) -> int:
    return len(
        {
            path.read_bytes()
            for name in categories
            for kind in ("train", "test")
            for path in (root / name / kind).rglob("*.png")
        }
    )


@pytest.mark.slow
def test_every_epoch_is_validated_on_categories_held_out_from_the_source(quick: Path) -> None:
    cli = anomalib(*COMMAND)
    found = metrics(cli)
    data = cli.datamodule
    assert [pool.name for pool in data.validation_data.episodes.pools] == ["DrawnPictures wood"]
    assert {"image_AUROC", "pixel_AUROC"} <= set(found)
    saved = torch.load(run_folder(cli) / WEIGHTS / "last.ckpt", weights_only=True)
    image, pixel = saved["nagl"]["kept"]["scores"]
    assert 0 <= image <= 1
    assert 0.5 < pixel <= 1
    best = run_folder(cli) / WEIGHTS / "best.ckpt"
    assert_same_head(best, run_folder(cli) / WEIGHTS / "model.ckpt")
    assert torch.load(best, weights_only=True)["epoch"] == saved["nagl"]["kept"]["epoch"]


def test_each_distinct_picture_is_encoded_once(quick: Path, drawn: Path, passes: list[int]) -> None:
    anomalib(*COMMAND)
    own = 4 * (1 + 1) + 1 + 39  # references with their turns, one image of validation, test of the target
    batches = -(-distinct_pictures(drawn, "cloth", "brushed", "wood") // 8)
    assert sum(passes) == 8 * batches + own


@pytest.mark.slow
def test_a_full_precision_cache_trains_the_head_of_no_cache(quick: Path) -> None:
    runs = [
        anomalib(*COMMAND, "--model.token_precision", "float32"),
        anomalib(*COMMAND, "--model.token_precision", "float32", "--model.token_cache_dir", "tokens"),
        anomalib(*COMMAND, "--model.token_cache", "false"),
    ]
    heads = [head_of(run_folder(cli) / WEIGHTS / "model.ckpt") for cli in runs]
    for name, tensor in heads[0].items():
        assert torch.equal(tensor, heads[1][name]), name
        assert torch.allclose(tensor, heads[2][name], atol=1e-5), name
    first, second, third = (metrics(cli) for cli in runs)
    assert first == second
    assert {name: round(value, 4) for name, value in first.items()} == {
        name: round(value, 4) for name, value in third.items()
    }


def test_cache_files_are_used_again_and_mended(
    quick: Path, passes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    command = (*COMMAND, "--model.token_cache_dir", "tokens")
    first = run_folder(anomalib(*command))
    files = sorted(Path("tokens").rglob("*.safetensors"))
    once = sum(passes)
    passes.clear()
    before = {path: path.read_bytes() for path in files}
    tokens = {path: load(data)["tokens"] for path, data in before.items()}
    files[0].write_bytes(before[files[0]][:-100])  # truncated
    files[1].write_bytes(before[files[1]][:-1] + bytes([before[files[1]][-1] ^ 1]))  # one bit
    files[2].write_bytes(b"")
    shutil.copy(files[4], files[3])  # the tokens of another image
    files[5].unlink()
    with caplog.at_level("WARNING"):
        second = run_folder(anomalib(*command))
    for path in files:  # not the bytes of the file: its head lists facts in any order
        assert torch.equal(load_file(path)["tokens"], tokens[path]), path
    assert_same_head(first / WEIGHTS / "model.ckpt", second / WEIGHTS / "model.ckpt")
    assert sum(passes) == once - 8 * (-(-len(files) // 8)) + 8
    for path in files[:4]:
        assert any(path.name in record.message for record in caplog.records), path
    assert {path.suffix for path in Path("tokens").rglob("*") if path.is_file()} == {".safetensors"}


@pytest.mark.slow
def test_a_changed_picture_or_setting_is_not_read_from_the_cache(quick: Path, drawn: Path, passes: list[int]) -> None:
    copied = quick / "own"
    for category in ("cloth", "brushed", "wood", "plate"):
        shutil.copytree(drawn / category, copied / category)
    own = ("--data.target.root", copied, "--data.source.root", copied)
    command = (*COMMAND, *own, "--model.token_cache_dir", "tokens", "--model.epochs", 1)
    anomalib(*command)
    count = len(list(Path("tokens").rglob("*.safetensors")))
    good = sorted((copied / "cloth/train/good").iterdir())
    shutil.copy(good[1], good[0])  # the same name, another image
    anomalib(*command)
    assert len(list(Path("tokens").rglob("*.safetensors"))) == count
    anomalib(*command, "--model.image_size", 160)
    folders = list(Path("tokens").iterdir())
    assert len(folders) == 2
    assert len(list(Path("tokens").rglob("*.safetensors"))) == 2 * count - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model.token_precision", "float8"), "token_precision='float8', expected one of float16, float32"),
        (("--model.selection", "first"), "selection='first', expected one of best, last, paper"),
        (("--data.validation_categories", "glass"), "validation_categories=.'glass'.*DrawnPictures cloth"),
        (("--data.validation_categories", "[cloth, brushed, wood]"), "expected some of these, not all"),
        (("--data.validation_episodes", 0), "0 to validate on"),
        (("--model.token_cache_dir", "datasets/drawn/cloth/test/good/000.png"), "expected a folder"),
    ],
)
def test_options_that_make_no_sense(quick: Path, options: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        anomalib(*COMMAND, *options)


@pytest.mark.parametrize("place", [(), ("--model.token_cache_dir", "tokens")])
def test_no_room_for_tokens_is_said_before_anything_is_encoded(
    quick: Path, place: tuple[object, ...], passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_store, "SPARE", 1e-9)  # all but no room
    with pytest.raises(ValueError, match=r"MB of free .*--model\.token_cache_dir.*--model\.token_cache false"):
        anomalib(*COMMAND, *place)
    assert passes == []


def test_early_stopping_still_ends_with_references_and_thresholds(quick: Path) -> None:
    stop = ("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "source_image_AUROC",
            "--trainer.callbacks.patience", 1, "--trainer.callbacks.mode", "max",
            "--trainer.callbacks.min_delta", 1)  # fmt: skip
    cli = anomalib(*COMMAND, "--model.epochs", 9, *stop)
    assert torch.load(run_folder(cli) / WEIGHTS / "last.ckpt", weights_only=True)["epoch"] == 1
    saved = torch.load(run_folder(cli) / WEIGHTS / "model.ckpt", weights_only=True)
    assert len(saved["nagl"]["references"]) == 2
    assert "image_AUROC" in metrics(cli)


@pytest.mark.parametrize("limit", [("--trainer.max_steps", 4), ("--trainer.max_epochs", 1)])
def test_limits_of_the_trainer_end_a_training_in_good_order(quick: Path, limit: tuple[object, ...]) -> None:
    cli = anomalib(*COMMAND, *limit)
    assert "image_AUROC" in metrics(cli)
    assert (run_folder(cli) / WEIGHTS / "model.ckpt").is_file()


def test_the_published_rules_train_on_all_and_select_on_the_target(quick: Path) -> None:
    cli = anomalib(*COMMAND, "--data.sampling", "paper", "--model.variant", "paper", "--model.selection", "paper",
                   "--data.source_categories", "[cloth, brushed]", "--model.epochs", 7,
                   "--data.validation_episodes", 40,
                   "--data.validation_categories", "auto")  # fmt: skip
    names = [pool.name for pool in cli.datamodule.validation_data.episodes.pools]
    assert "DrawnPictures plate" in names
    assert torch.load(run_folder(cli) / WEIGHTS / "model.ckpt", weights_only=True)["nagl"]["kept"]["epoch"] >= 5


def launch(*options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "anomalib_nagl.cli", *map(str, (*COMMAND, *options))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 300
    while not path.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert path.exists(), (process.stdout.read() if process.stdout else b"")[-2000:]


@pytest.fixture
def unbroken(quick: Path) -> Path:
    """A training whose learning rate falls after epoch 10."""
    return run_folder(anomalib(*COMMAND, "--model.epochs", 12)) / WEIGHTS


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(unbroken: Path) -> None:
    process = launch("--model.epochs", 12)
    killed = Path("results/Nagl/DrawnPictures/plate/v1") / WEIGHTS
    wait_for(killed / "last.ckpt", process)
    time.sleep(0.3)
    process.kill()
    process.wait()
    assert not (killed / "model.ckpt").exists(), "it was not killed early enough"
    resumed = anomalib(*COMMAND, "--model.epochs", 12, "--ckpt_path", killed / "last.ckpt")
    again = run_folder(resumed) / WEIGHTS
    for name in ("model.ckpt", "last.ckpt", "best.ckpt"):
        assert_same_head(unbroken / name, again / name)
    # A training that was killed after its last epoch has only references and thresholds left to take.
    ended = anomalib(*COMMAND, "--model.epochs", 12, "--ckpt_path", unbroken / "last.ckpt")
    assert_same_head(unbroken / "model.ckpt", run_folder(ended) / WEIGHTS / "model.ckpt")
    assert metrics(ended) == metrics(resumed)


@pytest.mark.slow
def test_workers_and_files_change_no_bit(quick: Path) -> None:
    # Loaders fork their workers: not here, where OpenVINO may have threads of an earlier test.
    process = launch("--data.num_workers", 2, "--default_root_dir", "workers")
    options = ((), ("--model.token_cache_dir", "tokens"))
    found = [run_folder(anomalib(*COMMAND, *more)) / WEIGHTS / "model.ckpt" for more in options]
    output = (process.communicate(timeout=600)[0] or b"").decode(errors="replace")
    assert process.returncode == 0, output[-2000:]
    assert_same_head(*found, next(Path("workers").rglob("model.ckpt")))


@pytest.mark.slow
def test_two_trainings_at_once_share_the_files(quick: Path) -> None:
    processes = [
        launch("--model.token_cache_dir", "tokens", "--default_root_dir", place, "--model.epochs", 1)
        for place in ("one", "two")
    ]
    outputs = [(process.communicate(timeout=600)[0] or b"")[-2000:] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert_same_head(*[next(Path(place).rglob("model.ckpt")) for place in ("one", "two")])
    assert {path.suffix for path in Path("tokens").rglob("*") if path.is_file()} == {".safetensors"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo over localhost is not set up on Windows runners")
def test_two_processes_give_the_figures_of_one(quick: Path) -> None:
    alone = anomalib(*COMMAND, "--trainer.accelerator", "cpu")
    process = launch("--trainer.accelerator", "cpu", "--trainer.devices", 2, "--trainer.strategy", "ddp")
    output = (process.communicate(timeout=600)[0] or b"").decode(errors="replace")
    assert process.returncode == 0, output[-2000:]
    together = max(Path("results/Nagl/DrawnPictures/plate").rglob("model.ckpt"), key=os.path.getmtime)
    for name, tensor in head_of(run_folder(alone) / WEIGHTS / "model.ckpt").items():
        assert torch.allclose(tensor, head_of(together)[name], atol=1e-5), name
    for name, value in metrics(alone).items():
        if name in ("image_AUROC", "pixel_AUROC", "image_F1Score", "pixel_F1Score"):
            printed = f"{value:.4f}"[:-1] if value else " 0.0 "  # no pixel of this part is above the threshold
            assert printed in output, (name, value)
