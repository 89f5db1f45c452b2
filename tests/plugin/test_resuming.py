"""A training that goes on from its last finished epoch, with processes that read ahead and without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKERS = (0, 2, 8)
# In a program of its own: loaders fork their workers, and OpenVINO may have threads here of an earlier test.
PROGRAM = """
import shutil, sys
from pathlib import Path
import torch
from lightning.pytorch.callbacks import Callback
from support.parts import category, engine, learner, target
from anomalib_nagl import ReferenceDataModule

class Keep(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        last = Path(trainer.default_root_dir) / "weights/lightning/last.ckpt"
        if trainer.current_epoch == 1 and not Path("last.ckpt").exists():
            shutil.copy(last, "last.ckpt")

def train(workers, **more):
    source = target(Path("parts"), "b")
    data = ReferenceDataModule(
        target(Path("parts"), "a"), source, episodes=12, train_batch_size=3, num_workers=workers, **more
    )
    nagl = learner(epochs=3)
    engine(Path(f"run_{workers}"), callbacks=[Keep()]).fit(nagl, datamodule=data, ckpt_path=resumed)
    return torch.cat([tensor.flatten() for tensor in nagl.model.head.state_dict().values()])

for name in ("a", "b"):
    category(Path("parts"), name)
resumed = None
whole = train(0)
resumed = Path("last.ckpt")
for workers in map(int, sys.argv[1:]):
    print(f"workers {workers}:", "the same head" if torch.equal(whole, train(workers)) else "another head")
"""


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_head_of_a_whole_one_with_any_number_of_workers(folder: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, *map(str, WORKERS)]
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert [line for line in ended.stdout.splitlines() if line.startswith("workers")] == [
        f"workers {count}: the same head" for count in WORKERS
    ]
