"""The server of the page: Starlette, on a socket of this machine unless told otherwise."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from anomalib_nagl.edge.app import answers, calls, summaries
from anomalib_nagl.edge.app.gallery import NotThere
from anomalib_nagl.edge.app.guard import Guard, Refusal
from anomalib_nagl.edge.app.pages import STATIC, Pages
from anomalib_nagl.edge.app.pictures import TooLarge
from anomalib_nagl.edge.app.wording import of_error
from anomalib_nagl.edge.app.workbench import Workbench
from anomalib_nagl.io.errors import EdgeError


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
        Route("/api/drift", pages.reading(lambda session, query: summaries.drift(bench))),
        Route("/api/history", pages.reading(lambda session, query: answers.history(bench))),
        Route("/api/history/{revision:int}/undo", pages.undo_saved, methods=["POST"]),
        Route("/api/predict", pages.predict, methods=["POST"]),
        Route("/api/export/{name}", pages.export),
        Route("/openapi.json", pages.openapi),
    ]
    failures: Any = {
        Refusal: _refused, EdgeError: _wrong, HTTPException: _http, Exception: _unexpected,
    }  # fmt: skip
    return Guard(Starlette(routes=routes, exception_handlers=failures), host, token, address)


def _error(status: int, words: str) -> Response:
    known = of_error(words)
    return JSONResponse({"error": words, **({"words": known} if known else {})}, status)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _error(error.status, error.words)


def _wrong(request: Request, error: Exception) -> Response:
    status = 409 if request.url.path.endswith("/save") else 422
    status = next((code for kind, code in ((TooLarge, 413), (NotThere, 404)) if isinstance(error, kind)), status)
    return _error(status, " ".join(str(error).split()))


def _unexpected(request: Request, error: Exception) -> Response:
    return _error(500, f"found an unexpected error ({type(error).__name__}): the program's output says where it arose")


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"found {request.url.path[:60]!r}, expected a call of /openapi.json")
