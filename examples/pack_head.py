"""Take a trained head out of a checkpoint, as plain tensors.

    python examples/pack_head.py CHECKPOINT OUT.safetensors

`--model.head OUT.safetensors` takes it again; the file says nothing of backbone and variant: give them beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save

from anomalib_nagl.io.files import atomic_write_bytes, file_hash
from anomalib_nagl.plugin.checkpoints import read_head


def main() -> None:
    """Write the head of a checkpoint and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="of a training with a source, or of an evaluation")
    parser.add_argument("out", type=Path, help="file to write")
    options = parser.parse_args()
    head = read_head(options.checkpoint)
    atomic_write_bytes(options.out, save({name: tensor.contiguous() for name, tensor in head.state.items()}))
    print(f"{options.out}: SHA-256 {file_hash(options.out)}, trained as {head.settings}")


if __name__ == "__main__":
    main()
