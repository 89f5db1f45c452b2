"""Layers of an OpenVINO file that compute in f32 even where the device prefers less.

OpenVINO has no Python call for that: it reads the wish from an attribute of the layer in the file, and some releases
forget it when they write the graph again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

_ATTRIBUTE = "precise"
_MARK = f"rt_info/attribute[@name='{_ATTRIBUTE}']"
_PASSIVE = ("Const", "Parameter", "Result")


def precise_layers(path: Path) -> set[str]:
    """Names of the layers of a file that carry the wish."""
    layers = ElementTree.parse(path).getroot().iter("layer")
    return {str(layer.get("name")) for layer in layers if layer.find(_MARK) is not None}


def mark_precise(path: Path, names: Iterable[str]) -> None:
    """Give the wish to layers of a file, each once: OpenVINO 2026.1 refuses a file in which one has it twice."""
    wanted = set(names)
    if not wanted:
        return
    tree = ElementTree.parse(path)
    for layer in tree.getroot().iter("layer"):
        if layer.get("name") in wanted and layer.get("type") not in _PASSIVE and layer.find(_MARK) is None:
            notes = layer.find("rt_info")
            notes = ElementTree.SubElement(layer, "rt_info") if notes is None else notes
            ElementTree.SubElement(notes, "attribute", name=_ATTRIBUTE, version="0")
    tree.write(path, encoding="utf-8", xml_declaration=True)
