"""The record of references inside exported files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

RT_INFO = ("anomalib_nagl", "references")  # where an OpenVINO file keeps it; ONNX has flat names


def embed_record(exported: Path, record: Mapping[str, Any]) -> None:
    """Write a record into the metadata of an exported ``.onnx`` or ``.xml`` file; others are left as they are."""
    text = json.dumps(record)
    if exported.suffix == ".onnx":
        import onnx

        model = onnx.load(str(exported))
        model.metadata_props.add(key=".".join(RT_INFO), value=text)
        onnx.save(model, str(exported))
    elif exported.suffix == ".xml":
        tree = ElementTree.parse(exported)
        node = tree.getroot()
        for name in ("rt_info", RT_INFO[0]):
            child = node.find(name)
            node = ElementTree.SubElement(node, name) if child is None else child
        ElementTree.SubElement(node, RT_INFO[1], {"value": text})
        tree.write(exported, encoding="utf-8", xml_declaration=True)
