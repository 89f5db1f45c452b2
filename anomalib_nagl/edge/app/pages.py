"""What the page's server answers to each request; the work is done by functions that know nothing of HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from anomalib_nagl.edge.app import answers, calls, summaries
from anomalib_nagl.edge.app.exports import Export, export
from anomalib_nagl.edge.app.gallery import NotThere, Picture
from anomalib_nagl.edge.app.guard import Refusal
from anomalib_nagl.edge.app.openapi import describe
from anomalib_nagl.edge.app.pictures import PICTURE, decode, fitted, grey_png, jpeg
from anomalib_nagl.edge.app.workbench import Workbench
from anomalib_nagl.io import given
from anomalib_nagl.io.arrays import eight_bit
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.tint import resize_map

STATIC = Path(__file__).with_name("static")
LONGEST_SESSION = 80  # characters
EVENTS = 0.25  # seconds between two events at least
_EVENTS = "progress", "bank", "draft", "drift"


class Pages:
    """What is answered to each request."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    async def index(self, request: Request) -> Response:
        """The page itself."""
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    def reading(self, answer: Callable[[Any, Any], Any]) -> Any:
        """A route that answers with what a function says of a session and a query."""

        def work(key: str, query: dict[str, str]) -> Any:
            with self._bench.session(key) as session:
                return answer(session, query)

        async def route(request: Request) -> Response:
            return JSONResponse(await run_in_threadpool(work, _session(request), dict(request.query_params)))

        return route

    def drafting(self, call: calls.Call) -> Any:
        """A route that makes a step of a draft."""

        def work(key: str, body: dict[str, Any]) -> Any:
            with self._bench.session(key) as session:
                return call(self._bench, session, body)

        async def route(request: Request) -> Response:
            return JSONResponse(await run_in_threadpool(work, _session(request), await _json(request)))

        return route

    async def thumbnail(self, request: Request) -> Response:
        """A small JPEG."""
        return await self._picture(request, self._bench.scorer.thumbnail)

    async def picture(self, request: Request) -> Response:
        """A JPEG of at most 2048 pixels."""
        return await self._picture(request, lambda one: jpeg(decode(one.read(), one.name), PICTURE))

    async def _picture(self, request: Request, make: Callable[[Picture], bytes]) -> Response:
        """An image that a client need not fetch twice as long as its file is the same."""
        one = self._bench.picture(request.path_params["key"])
        headers = {"etag": f'"{one.number}-{one.stamp[0]}-{one.stamp[1]}"', "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(await run_in_threadpool(make, one), media_type="image/jpeg", headers=headers)

    async def map(self, request: Request) -> Response:
        """The anomaly map as a grey PNG."""
        saved = request.query_params.get("saved") == "1"
        key = request.path_params["key"]
        _, found, _ = await run_in_threadpool(calls.looked_at, self._bench, key, _session(request), saved)
        return Response(await run_in_threadpool(_map_png, found.map), media_type="image/png")

    async def prediction(self, request: Request) -> Response:
        """All that is said of an image."""
        key = request.path_params["key"]
        return JSONResponse(await run_in_threadpool(calls.prediction, self._bench, key, _session(request)))

    async def suggest(self, request: Request) -> Response:
        """A mask to accept or to mend."""
        arguments = request.path_params["key"], _session(request), await _json(request)
        return JSONResponse(await run_in_threadpool(calls.suggestion, self._bench, *arguments))

    async def drop(self, request: Request) -> Response:
        """Take an image into the gallery."""
        data, name = await request.body(), unquote(request.headers.get("x-name", "image"))
        changed = _changed(request.headers.get("x-changed", ""))

        def work() -> str:
            decode(data, name)
            return self._bench.gallery.add(data, name, changed).id

        key = await run_in_threadpool(work)
        self._bench.scorer.changed()
        return JSONResponse({"id": key}, 201)

    async def reference(self, request: Request) -> Response:
        """Picture or mask of a reference."""
        uid, role = request.path_params["uid"], request.path_params["role"]

        def work() -> bytes:
            with self._bench.session(_session(request)) as session:
                files = self._bench.bank(session).files_of(uid)
            if given.IMAGE not in files or role not in ("picture", "mask"):
                raise NotThere("found no picture of this reference, expected it to be kept in the bank: add it anew")
            image, mask = given.read(files, uid)
            if role == "mask":
                if mask is None:
                    raise NotThere("found no mask of this reference, expected one that was drawn")
                return grey_png(mask)
            return jpeg(eight_bit(image).transpose(1, 2, 0), PICTURE)

        content = await run_in_threadpool(work)
        return Response(content, media_type="image/jpeg" if role == "picture" else "image/png")

    async def region(self, request: Request) -> Response:
        """Where is looked."""

        def work() -> bytes:
            with self._bench.session(_session(request)) as session:
                return calls.shown_region(self._bench, session, request.query_params.get("image", ""))

        return Response(await run_in_threadpool(work), media_type="image/png")

    def histogram(self, session: Any, query: dict[str, str]) -> Any:
        """Scores of the gallery."""
        threshold = None
        if "image" in query:
            try:
                threshold = float(query["image"])
            except ValueError as error:
                raise EdgeError(f"found {query['image'][:40]!r} as image, expected a number, a threshold") from error
        return summaries.histogram(self._bench, session, answers.number(threshold))

    async def undo_saved(self, request: Request) -> Response:
        """Take a saved change back."""
        revision = request.path_params["revision"]

        def work() -> Any:
            self._bench.real.undo(revision)
            with self._bench.session(_session(request)):
                return answers.history(self._bench)

        return JSONResponse(await run_in_threadpool(work))

    async def predict(self, request: Request) -> Response:
        """Score an image and keep nothing."""
        data = await request.body()

        def work() -> Any:
            pixels = decode(data, "the body")
            with self._bench.scorer.first():
                self._bench.refresh()
                view = self._bench.saved_view
                found = view.detector.predict(pixels)
            size = (pixels.shape[1], pixels.shape[0])
            judged = answers.judged(self._bench, found.score, view) or {}
            return {**judged, "label": found.label, **answers.described(self._bench, found, size, view)}

        return JSONResponse(await run_in_threadpool(work))

    async def export(self, request: Request) -> Response:
        """A file to take along."""

        def work() -> Export:
            with self._bench.session(_session(request)) as session:
                return export(self._bench, session, request.path_params["name"])

        found = await run_in_threadpool(work)
        name = quote(found.name)
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{name}"}
        return StreamingResponse(found.content, media_type=found.media, headers=headers)

    async def openapi(self, request: Request) -> Response:
        """All calls, for programs."""
        return JSONResponse(describe())

    async def events(self, request: Request) -> Response:
        """What changes, as it changes."""
        key = _session(request)

        def look() -> tuple[Any, ...]:
            with self._bench.session(key) as session:
                found = answers.state(self._bench, session)
            return tuple(found[part] for part in ("gallery", "revision", "draft", "drift"))

        async def stream() -> AsyncIterator[str]:
            last, version = (None,) * len(_EVENTS), -1
            while not (self._bench.ending() or await request.is_disconnected()):
                if version != self._bench.scorer.version:
                    version, now = self._bench.scorer.version, await run_in_threadpool(look)
                    for kind, old, new in zip(_EVENTS, last, now, strict=True):
                        if old != new:
                            yield f"data: {json.dumps({'type': kind, **now[0]})}\n\n"
                    last = now
                await asyncio.sleep(EVENTS)

        return StreamingResponse(stream(), media_type="text/event-stream")


def _map_png(values: NDArray[np.float32]) -> bytes:
    """A map in at most the size of a picture."""
    size = (values.shape[1], values.shape[0])
    return grey_png(values if max(size) <= PICTURE else resize_map(values, fitted(size, PICTURE)))


def _changed(said: str) -> int:
    """When a file was changed last, in nanoseconds, of what is said in milliseconds; now where nothing is said."""
    known = said.isascii() and said.isdigit() and len(said) < 15
    return int(said) * 10**6 if known else time.time_ns()


def _session(request: Request) -> str:
    return request.headers.get("x-nagl-session", request.query_params.get("session", "default"))[:LONGEST_SESSION]


async def _json(request: Request) -> dict[str, Any]:
    """The body of a call; EdgeError for what is no JSON object."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refusal(415, "found a body of another type, expected application/json: send it as that")
    try:
        found = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "found a body that is no JSON, expected an object: see /openapi.json") from error
    if not isinstance(found, dict):
        raise Refusal(400, "found JSON that is no object, expected one: see /openapi.json")
    return found
