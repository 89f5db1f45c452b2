"""What every benchmark says about the machine and about its peak memory."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import timm
import torch
from memory import peak_memory as peak_memory
from safetensors.torch import save_file


def describe() -> str:
    """Processor, cores in use, system and versions."""
    name = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        models = [line.split(":", 1)[1].strip() for line in listed.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return (
        f"{name}, {os.cpu_count()} cores ({torch.get_num_threads()} threads), {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def on_device(name: str) -> torch.device:
    """The device of ``--device``, in 32 bits as the CPU computes; says what a GPU is called."""
    device = torch.device(name)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        print(f"Device {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, TF32 off")
    return device


def wait_for(device: torch.device) -> None:
    """Let a GPU finish what it was asked for, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_weights(backbone: str, folder: Path) -> str:
    """A weight file of the right shapes for a timm backbone: for times, never for accuracy."""
    path = folder / f"{backbone}_random.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        save_file(timm.create_model(backbone, pretrained=False, num_classes=0).state_dict(), path)
    return str(path)
