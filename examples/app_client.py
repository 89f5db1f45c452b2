"""Ask the page's server (`anomalib-nagl app MODEL --images DIR`) as a program: score images, teach a defect, save.

    python examples/app_client.py http://127.0.0.1:8765 score IMAGE [IMAGE ...]
    python examples/app_client.py http://127.0.0.1:8765 teach IMAGE MASK TYPE

Nothing but Python is needed. A server on another host wants the token that it printed: NAGL_TOKEN=... in front.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any


def call(address: str, path: str, body: Any = None, kind: str = "application/json", **headers: str) -> Any:
    """Ask for something, or send a body: JSON, or the bytes of an image."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"Content-Type": kind, "X-Nagl-Session": "app_client", **headers}
    if token := os.environ.get("NAGL_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    with urllib.request.urlopen(urllib.request.Request(address + path, data, headers)) as answer:
        return json.load(answer)


def score(address: str, image: Path) -> None:
    """Print what is said of an image; the server keeps nothing of it."""
    found = call(address, "/api/predict", image.read_bytes(), "image/*")
    print(f"{image}: {found['verdict']}, score {found['score']:.3f}, {len(found['regions'])} regions")


def teach(address: str, image: Path, mask: Path, kind: str) -> None:
    """Teach a defect and keep it; the mask is a grey PNG of the image's size, at most 2048 pixels wide and high."""
    name = urllib.parse.quote(image.name)
    key = call(address, "/api/images", image.read_bytes(), "image/*", **{"X-Name": name})["id"]
    data = "data:image/png;base64," + base64.b64encode(mask.read_bytes()).decode()
    lesson = call(address, "/api/draft/teach", {"image": key, "mask": data, "name": image.stem, "type": kind})
    print(f"{image}: {lesson['before']['score']:.3f} before, {lesson['after']['score']:.3f} after")
    print(f"saved as revision {call(address, '/api/draft/save', {})['revision']}")


if __name__ == "__main__":
    server, what, *given = sys.argv[1:]
    if what == "teach":
        teach(server, Path(given[0]), Path(given[1]), given[2])
    else:
        for path in given:
            score(server, Path(path))
