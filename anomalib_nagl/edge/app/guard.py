"""Who may ask the server for what: it is on a machine that shows pages of others too, and perhaps on a network."""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

COOKIE, HEADER = "nagl_token", "authorization"
MOST_JSON, MOST_IMAGE = 16 << 20, 100 << 20  # bytes of a body
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
Scope = dict[str, Any]


class Refusal(Exception):
    """Why a request is not answered: status and a sentence."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


class Guard:
    """Lets requests pass to an application that come from the page itself or from a program that was told to.

    ``host`` is the name that the server was started with. A name that somebody else gave to this address is refused
    (DNS rebinding), and so is what another page sends. ``token`` has to be known where there is one. ``address`` is the
    one under which a proxy shows the page, such as https://box.example.
    """

    def __init__(self, app: Any, host: str, token: str | None = None, address: str | None = None) -> None:
        self._app, self._names, self._token, self._address = app, _names(host), token, address
        if address is not None:
            self._names.add(_name_of(urlsplit(address).netloc))

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        guarded = _with_headers(send)
        try:
            self._check(scope, headers)
            if self._token is not None and (way := self._entered(scope, headers)):
                await _redirect(guarded, *way)
                return
            await self._app(scope, _limited(receive, scope, headers), guarded)
        except Refusal as refusal:
            await _refuse(guarded, refusal)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        if not self._knows(_name_of(host)):
            raise Refusal(
                421, f"found the host {host[:60]!r}, expected the address that was printed at the start: open that one"
            )
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", self._address):
            raise Refusal(
                403, f"found a request of the page {origin[:60]!r}, expected one of this page: open it itself"
            )
        navigation = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET" and scope["path"] == "/"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not navigation:
            raise Refusal(403, "found a request of another page, expected one of this page: open it itself")

    def _knows(self, name: str) -> bool:
        """Whether a name is ours; on all addresses any number will do, since only names can be rebound."""
        return name in self._names or ("*" in self._names and _is_address(name))

    def _entered(self, scope: Scope, headers: Mapping[str, str]) -> tuple[str, str] | None:
        """Check the token; where it stands in the address of the page, the way on and the cookie that keeps it."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and scope["method"] == "GET" and given:
            if not self._same(given):
                raise Refusal(401, "found another token than the one printed at the start, expected that one: copy it")
            query = {k: v for k, v in parse_qs(scope["query_string"].decode("latin-1")).items() if k != "token"}
            way = "/" + (f"?{urlencode(query, doseq=True)}" if query else "")
            secure = "; Secure" if (self._address or "").startswith("https:") else ""
            return way, f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/{secure}"
        bearer = headers.get(HEADER, "")
        if not (self._same(bearer.removeprefix("Bearer ")) or self._same(_cookie(headers))):
            raise Refusal(
                401,
                "found no token, expected the one that was printed at the start: open the printed address, or send it "
                "as Authorization: Bearer TOKEN",
            )
        return None

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(host: str) -> set[str]:
    """Names under which the server is asked; ``*`` stands for every address."""
    if is_loopback(host):
        return {"127.0.0.1", "localhost", "::1", host}
    if host in ("0.0.0.0", "::"):
        return {"*", "localhost", _own_name()}
    return {host.lower()}


def _own_name() -> str:
    import socket

    return socket.gethostname().lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """The name of a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _with_headers(send: Any) -> Any:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            known = {name.lower() for name, _ in message.get("headers", [])}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in known]
            if b"cache-control" not in known:
                more.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return sending


def _limited(receive: Any, scope: Scope, headers: Mapping[str, str]) -> Any:
    """A body that ends with a refusal once it has more bytes than are taken."""
    image = headers.get("content-type", "").startswith("image/") or scope["path"] in ("/api/images", "/api/predict")
    most = MOST_IMAGE if image else MOST_JSON
    words = f"found a body of more than {most} bytes, expected at most that: send a smaller file"
    said = headers.get("content-length", "0")
    if not said.isdigit() or int(said) > most:
        raise Refusal(413, words)
    taken = 0

    async def receiving() -> Any:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise Refusal(413, words)
        return message

    return receiving


async def _refuse(send: Any, refusal: Refusal) -> None:
    body = json.dumps({"error": refusal.words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _redirect(send: Any, way: str, cookie: str) -> None:
    headers = [(b"location", way.encode()), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
