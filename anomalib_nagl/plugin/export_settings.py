"""What ``anomalib export --ckpt_path`` is told of a model beside its checkpoint.

anomalib builds a model by these settings, and drops it for the one of the checkpoint. A threshold and a region count
there as they do in its other commands; of others a person is told that they do not.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.io.arrays import as_region
from anomalib_nagl.plugin.post_processing import parse_threshold
from anomalib_nagl.plugin.run_folder import command_line

logger = logging.getLogger(__name__)
_USED = ("region", "threshold")
_NO_SETTING = ("class_path", "init_args", "help", "dict_kwargs")
_given: dict[str, Any] = {}  # to the model that the command export built


def read_given(threshold: str | float, region: Any) -> tuple[str | float, NDArray[np.bool_] | None]:
    """The threshold and the region of a model; in the command export both are kept for that of the checkpoint.

    ValueError for what is none.
    """
    found = parse_threshold(threshold), None if region is None else as_region(region)
    if command_line()[1] == "export":
        _given.update(region=region, threshold=found[0])
    return found


def settings_beside_checkpoint() -> dict[str, Any]:
    """What a model of a checkpoint is to be given; a warning names the settings of the command that are not used."""
    if command_line()[1] != "export":
        return {}
    used = {name: _given[name] for name in _USED if _given.get(name) is not None}
    if isinstance(used.get("threshold"), str):  # a rule, which needs data
        del used["threshold"]
    words = (word.partition("=")[0] for word in sys.argv if word.startswith("--model."))
    named = dict.fromkeys(word.removeprefix("--model.").removeprefix("init_args.") for word in words)
    left = [f"--model.{name}" for name in named if name.partition(".")[0] not in (*used, *_NO_SETTING)]
    if left:
        logger.warning(
            "found %s beside a checkpoint, whose own settings count in an export (of a command line %s do): adapt anew "
            "with `anomalib train` for others",
            ", ".join(left), " and ".join(f"--model.{name}" for name in _USED),
        )  # fmt: skip
    return used
