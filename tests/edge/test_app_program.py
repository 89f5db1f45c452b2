"""The page's server as a program, on a real socket: what it prints, serves and refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from support.exported import defect_mask
from support.page import SIZE, wait, write_images
from support.places import ROOT
from support.signals import hear_interrupts

from anomalib_nagl.edge import NaglEdge

pytestmark = [
    pytest.mark.slow,  # they start programs
    pytest.mark.skipif(sys.platform == "win32", reason="sends signals as POSIX has them"),
]
PROGRAM = [sys.executable, "-W", "ignore", "-c", "from anomalib_nagl.cli import main; main()", "app"]


@contextmanager
def program(room: Path, *arguments: object) -> Iterator[httpx.Client]:
    """The program on a free port, and a client at the address that it prints; Ctrl-C ends it and leaves no file."""
    room = room / "temporary"
    room.mkdir()
    command = [*PROGRAM, *map(str, arguments), "--port", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
        env=os.environ | {"TMPDIR": str(room)},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.match(r"Open (http://\S+) \(Ctrl-C ends", line)
            assert found, line + process.stderr.read()
            with httpx.Client(base_url=found[1].replace("0.0.0.0", "127.0.0.1"), timeout=60) as client:
                yield client
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            assert (process.returncode, err, out) == (0, "", "")
            assert not list(room.iterdir())
        finally:
            process.kill()


def test_teaching_through_a_socket_is_kept(exported: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 1, 1)
    mask = tmp_path / "mask.png"
    Image.fromarray((defect_mask(SIZE, 80).numpy() * 255).astype(np.uint8)).save(mask)
    with program(tmp_path, exported.parent, "--images", images, "--by", "Ann") as client:
        wait(lambda: client.get("/api/state").json()["gallery"]["waiting"] == 0)
        assert client.get("/openapi.json").json()["openapi"] == "3.1.0"
        address, example = str(client.base_url).rstrip("/"), str(ROOT / "examples/app_client.py")
        image = str(images / "defect_0.png")
        for arguments, printed in (
            (["score", image], "defect_0.png: "),
            (["teach", image, str(mask), "square"], "saved as revision 2"),
        ):
            done = subprocess.run([sys.executable, example, address, *arguments], capture_output=True, text=True)
            assert printed in done.stdout, done.stderr
        with client.stream("GET", "/api/events") as events:
            assert next(events.iter_lines()).startswith('data: {"type": "progress"')
    added = NaglEdge(exported).references[-1]
    assert (added.name, added.defect_type, added.author) == ("defect_0", "square", "Ann")


def test_on_another_host_the_token_is_printed_and_needed(exported: Path, tmp_path: Path) -> None:
    with program(tmp_path, exported, "--host", "0.0.0.0") as client:
        token = client.base_url.params["token"].rstrip("/")
        bare = f"http://127.0.0.1:{client.base_url.port}"
        assert len(token) >= 32
        assert httpx.get(f"{bare}/api/state").status_code == 401
        assert httpx.get(f"{bare}/api/state", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_loopback_alone_is_listened_at(exported: Path, tmp_path: Path) -> None:
    with socket.socket() as open_page, program(tmp_path, exported) as client:
        port = client.base_url.port
        open_page.connect(("127.0.0.1", port))
        open_page.sendall(f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert open_page.recv(100).startswith(b"HTTP/1.1 200 ")  # and the program ends all the same
        assert client.base_url.host == "127.0.0.1"
        with socket.socket() as other:
            other.settimeout(2)
            assert other.connect_ex(("127.0.0.2", port)) != 0  # on all addresses, this one would answer
        with socket.create_connection(("127.0.0.1", port), 20) as raw:
            head = f"POST /api/images HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {10**12}\r\n\r\nx"
            raw.sendall(head.encode())
            assert raw.recv(100).startswith(b"HTTP/1.1 413 ")  # before any of it came


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "found nothing at nothing"),
        (["{model}", "--images", "nowhere"], "found no folder at nowhere"),
        (["{model}", "--port", "99999"], "found --port 99999"),
        (["{model}", "--host", "192.0.2.1"], "found no way to listen at 192.0.2.1"),
        (["{model}", "--address", "box.example"], "found --address box.example"),
        (["{model}", "--ports", "1"], "did you mean '--port'"),
    ],
)
def test_what_will_not_do_is_said_in_a_line(exported: Path, arguments: list[str], said: str) -> None:
    given = [one.replace("{model}", str(exported)) for one in arguments]
    done = subprocess.run([*PROGRAM, *given], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
