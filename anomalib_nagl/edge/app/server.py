"""The server of the page: Starlette, on a socket of this machine unless told otherwise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from anomalib_nagl.edge.app import answers, calls, summaries
from anomalib_nagl.edge.app.exports import Export, export
from anomalib_nagl.edge.app.gallery import Picture
from anomalib_nagl.edge.app.guard import Guard, Refusal
from anomalib_nagl.edge.app.openapi import describe
from anomalib_nagl.edge.app.pictures import PICTURE, TooLarge, decode, grey_png, jpeg
from anomalib_nagl.edge.app.workbench import Workbench
from anomalib_nagl.io import given
from anomalib_nagl.io.arrays import eight_bit
from anomalib_nagl.io.errors import EdgeError

STATIC = Path(__file__).with_name("static")
LONGEST_SESSION = 80  # characters
EVENTS = 0.25  # seconds between two events at least


def make_app(bench: Workbench, host: str = "127.0.0.1", token: str | None = None, address: str | None = None) -> Guard:
    """The application, guarded (``guard.Guard``)."""
    pages = Pages(bench)
    routes = [
        Route("/", pages.index),
        Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
        Route("/api/state", pages.reading(lambda session, query: answers.state(bench, session))),
        Route("/api/events", pages.events),
        Route("/api/gallery", pages.reading(lambda session, query: calls.gallery(bench, session, query))),
        Route("/api/images", pages.drop, methods=["POST"]),
        Route("/api/images/{key}/thumbnail", pages.thumbnail),
        Route("/api/images/{key}/picture", pages.picture),
        Route("/api/images/{key}/map", pages.map),
        Route("/api/images/{key}/prediction", pages.prediction),
        Route("/api/images/{key}/suggest", pages.suggest, methods=["POST"]),
        *(Route(f"/api/draft/{name}", pages.drafting(call), methods=["POST"]) for name, call in calls.DRAFT.items()),
        Route("/api/region", pages.region),
        Route("/api/changes", pages.reading(lambda session, query: summaries.changes(bench, session))),
        Route("/api/acceptance", pages.reading(lambda session, query: summaries.acceptance(bench, session))),
        Route("/api/references", pages.reading(lambda session, query: answers.references(bench, session))),
        Route("/api/references/{uid}/{role}", pages.reference),
        Route("/api/histogram", pages.reading(pages.histogram)),
        Route("/api/history", pages.reading(lambda session, query: answers.history(bench))),
        Route("/api/history/{revision:int}/undo", pages.undo_saved, methods=["POST"]),
        Route("/api/predict", pages.predict, methods=["POST"]),
        Route("/api/export/{name}", pages.export),
        Route("/openapi.json", pages.openapi),
    ]
    failures: Any = {
        Refusal: _refused, EdgeError: _wrong, KeyError: _missing, OSError: _wrong, ValueError: _wrong,
        HTTPException: _http,
    }  # fmt: skip
    return Guard(Starlette(routes=routes, exception_handlers=failures), host, token, address)


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
        return Response(grey_png(found.map), media_type="image/png")

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

        def work() -> str:
            decode(data, name)
            return self._bench.gallery.add(data, name).id

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
                raise KeyError(uid)
            image, mask = given.read(files, uid)
            if role == "mask":
                if mask is None:
                    raise KeyError(uid)
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
        return summaries.histogram(self._bench, session, float(query["image"]) if "image" in query else None)

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
            return found["gallery"], found["revision"], found["draft"]

        async def stream() -> AsyncIterator[str]:
            last, version = (None, None, None), -1
            while not await request.is_disconnected():
                if version != self._bench.scorer.version:
                    version, now = self._bench.scorer.version, await run_in_threadpool(look)
                    for kind, old, new in zip(("progress", "bank", "draft"), last, now, strict=True):
                        if old != new:
                            yield f"data: {json.dumps({'type': kind, **now[0]})}\n\n"
                    last = now
                await asyncio.sleep(EVENTS)

        return StreamingResponse(stream(), media_type="text/event-stream")


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


def _error(status: int, words: str) -> Response:
    return JSONResponse({"error": words}, status)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _error(error.status, error.words)


def _wrong(request: Request, error: Exception) -> Response:
    status = 413 if isinstance(error, TooLarge) else 409 if request.url.path.endswith("/save") else 422
    return _error(status, " ".join(str(error).split()))


def _missing(request: Request, error: Exception) -> Response:
    return _error(404, f"found nothing named {str(error)[:60]}, expected one of the list: load it again")


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"found {request.url.path[:60]!r}, expected a call of /openapi.json")
