"""What the page's server refuses: other pages, other names, too much, paths, and files that are no images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.exported import picture, pixels
from support.page import ADDRESS, SIZE, Person, as_mask, defect, png, served, wait, write_images

from anomalib_nagl.edge import NaglEdge
from anomalib_nagl.edge.app import guard
from anomalib_nagl.edge.app.gallery import plain_name
from anomalib_nagl.edge.app.guard import is_loopback

pytestmark = pytest.mark.slow  # they use an export

IMAGE = {"Content-Type": "image/png"}
TOKEN = "a-token-of-the-test"


@pytest.fixture
def client(exported: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(exported, write_images(tmp_path / "images", 1, 1), tmp_path / "room") as (_, found):
        yield found


def test_only_its_own_name_is_answered(client: TestClient) -> None:
    """A name that somebody else gave to 127.0.0.1 could make a page of theirs ours (DNS rebinding)."""
    for host in ("127.0.0.1:8765", "localhost:8765", "[::1]:8765"):
        assert client.get("/api/state", headers={"Host": host}).status_code == 200
    for host in ("evil.example:8765", "127.0.0.1.evil.example", "", "localhost.evil.example", "10.0.0.1:8765"):
        answer = client.get("/api/state", headers={"Host": host})
        assert answer.status_code == 421, host
        assert answer.json()["error"].startswith("found the host")


def test_no_other_page_can_write_or_read(client: TestClient) -> None:
    for origin in ("http://evil.example", "null", "https://127.0.0.1:8765", "http://127.0.0.1:8766"):
        for call in (
            lambda **more: client.post("/api/draft/save", json={}, **more),
            lambda **more: client.get("/api/state", **more),
        ):
            assert call(headers={"Origin": origin}).status_code == 403
    assert client.post("/api/draft/save", json={}, headers={"Origin": ADDRESS}).status_code == 200
    for site in ("cross-site", "same-site"):
        assert client.get("/api/state", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert client.get("/api/state", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/api/draft/save", content=b"{}", headers={"Content-Type": kind})
        assert answer.status_code == 415


def test_every_answer_has_the_policy(client: TestClient) -> None:
    for path in ("/api/state", "/nothing", "/static/nothing", "/api/images/x/map", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob: data:;")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    assert client.get("/api/state", headers={"Host": "evil"}).headers["x-frame-options"] == "DENY"


def test_a_token_is_asked_for_where_others_can_ask(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    honest = guard.hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda *pair: compared.append(pair) or honest(*pair))
    with served(exported, None, tmp_path / "room", host="0.0.0.0", token=TOKEN) as (_, client):
        for path in ("/", "/api/state", "/static/x", "/openapi.json"):
            assert client.get(path, follow_redirects=False).status_code == 401, path
        assert client.get("/api/state", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        assert client.get("/?token=%C3%A4").status_code == 401
        assert client.get("/api/state", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get(f"/api/state?token={TOKEN}").status_code == 401
        entered = client.get(f"/?token={TOKEN}", follow_redirects=False)
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        assert "HttpOnly; SameSite=Strict" in entered.headers["set-cookie"]
        assert client.get("/api/state").status_code == 200  # by the cookie
        assert client.get("/api/state", headers={"Host": "192.168.0.7:8765"}).status_code == 200
        assert client.get("/api/state", headers={"Host": "evil.example"}).status_code == 421
    assert len(compared) > 8


def test_behind_a_proxy_its_address_is_ours(exported: Path, tmp_path: Path) -> None:
    with served(exported, None, tmp_path / "room", token=TOKEN, address="https://box.example") as (_, client):
        entered = client.get(f"/?token={TOKEN}", headers={"Host": "box.example"}, follow_redirects=False)
        assert entered.headers["set-cookie"].endswith("; Secure")
        known = {"Host": "box.example", "Authorization": f"Bearer {TOKEN}"}
        for origin, status in (("https://box.example", 200), ("https://evil.example", 403), ("null", 403)):
            answer = client.post("/api/draft/save", json={}, headers={**known, "Origin": origin})
            assert answer.status_code == status
        assert client.get("/api/state", headers={**known, "Host": "evil.example"}).status_code == 421


def test_which_addresses_are_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.8.8.8")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "box", "localhost.evil.example")))


def test_too_much_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_IMAGE", 20_000)
    monkeypatch.setattr(guard, "MOST_JSON", 10_000)
    parts = (bytes(1000) for _ in range(30))
    for content in (bytes(30_000), parts):
        answer = client.post("/api/images", content=content, headers=IMAGE)
        assert answer.status_code == 413
        assert "expected at most that" in answer.json()["error"]
    assert client.post("/api/draft/save", json={"more": "x" * 11_000}).status_code == 413
    assert client.get("/api/state").json()["gallery"]["total"] == 3


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_an_image_of_too_many_pixels_is_not_decoded(client: TestClient) -> None:
    for path in ("/api/images", "/api/predict"):
        for width, height in ((60_000, 60_000), (15_000, 12_000)):
            answer = client.post(path, content=bomb(width, height), headers=IMAGE)
            assert answer.status_code == 413
            assert "expected" in answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"%!PS-Adobe-3.0\n", b"<svg/>", b"\x89PNG\r\n\x1a\n", bomb(50, 50)])
def test_what_is_no_image_is_refused(client: TestClient, content: bytes) -> None:
    for path in ("/api/images", "/api/predict"):
        answer = client.post(path, content=content, headers=IMAGE)
        assert answer.status_code == 422
        assert answer.json()["error"].startswith("found ")
    assert client.get("/api/state").json()["gallery"]["total"] == 3


def test_names_never_become_paths(client: TestClient, tmp_path: Path) -> None:
    content = png(pixels(picture(SIZE, 97)))
    before = {path for path in tmp_path.rglob("*") if path.parent != tmp_path / "room"}
    for name in ("../../etc/passwd", "..%2F..%2Fx.png", "C:%5Cx.png", "%00", "a%0D%0AX: y", "%ED%A0%80", "x" * 5000):
        answer = client.post("/api/images", content=content, headers={**IMAGE, "X-Name": name})
        assert answer.status_code == 201
        for key in (name, f"../{answer.json()['id']}", "..%2F..%2Fmodel.bank"):
            assert client.get(f"/api/images/{key}/picture").status_code in (404, 405)
    for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static//etc/passwd"):
        assert client.get(path).status_code == 404
    assert {path for path in tmp_path.rglob("*") if path.parent != tmp_path / "room"} == before
    assert plain_name("a/../b\r\n\x1b[1m\ud800.png") == "b[1m.png"
    assert plain_name("..\\..\\x.png") == "x.png"
    assert plain_name("/") == "image"


def test_links_out_of_the_folder_are_not_followed(client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.fromarray(pixels(picture(SIZE, 96))).save(secret)
    (tmp_path / "images" / "link.png").symlink_to(secret)
    ann = Person(client, "ann")
    wait(lambda: any(one["name"] == "link.png" for one in ann.get("/api/gallery")["items"]))
    one = ann.item("link.png")
    assert one["status"] == "failed"
    assert "leads out of the folder" in one["error"]
    for kind in ("picture", "thumbnail", "prediction", "map"):
        assert client.get(f"/api/images/{one['id']}/{kind}").status_code == 422, kind
    ann.draft("mark", 422, image=one["id"], mark="good")
    ann.draft("teach", 422, image=one["id"], mask=defect(0))


def test_masks_and_calls_that_will_not_do_change_nothing(client: TestClient, exported: Path) -> None:
    ann = Person(client, "ann")
    ann.scores()
    key = ann.item("defect_0.png")["id"]
    small, empty = as_mask(np.ones((5, 5))), as_mask(np.zeros(SIZE))
    whole = defect(0)
    for mask in (None, 7, "x", "data:image/png;base64,!", "data:image/png;base64,AAAA", small, empty, whole[:-200]):
        assert ann.draft("teach", 422, image=key, mask=mask)["error"].startswith("found ")
    for name in ("\n", "x" * 2000, 5):
        ann.draft("teach", 422, image=key, mask=whole, name=name)
    ann.draft("teach", 404, image="nothing", mask=whole)
    for value in (0, 2, -1, "0.5", True, [0.5]):
        ann.draft("thresholds", 422, image=value)
    ann.draft("mark", 422, image=key, mark="perhaps")
    ann.draft("reference", 422, uid="nothing", active=False)
    assert (
        client.post("/api/draft/save", content=b"[" * 100_000, headers={"Content-Type": "application/json"}).status_code
        == 400
    )
    assert (
        client.post("/api/draft/save", content=b"[]", headers={"Content-Type": "application/json"}).status_code == 400
    )
    for limit in ("1e9", "-5", "x", "9" * 50, "²"):
        assert client.get("/api/gallery", params={"limit": limit}).status_code == 422
    assert client.get("/api/gallery", params={"sort": "x' OR 1=1", "filter": "x"}).json()["total"] == 0
    assert client.get("/api/histogram", params={"image": "x"}).status_code == 422
    for path in ("/api/images/nothing/map", "/api/references/nothing/mask", "/api/export/nothing", "/api/region"):
        assert client.get(path).status_code == 404, path
    assert ann.get("/api/state")["draft"]["steps"] == []
    assert len(NaglEdge(exported).history()) == 1
