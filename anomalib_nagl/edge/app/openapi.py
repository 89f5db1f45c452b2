"""The description of all calls, as programs read it (OpenAPI 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

JSON = "application/json"
VERSION = "1"  # of the calls
SORTS = ["name", "-name", "score", "-score", "newest"]
FILTERS = ["all", "defective", "good", "look again", "marked", "changed", "failed", "waiting"]


class Call(NamedTuple):
    """A call: method, path, a line about it, its query, the fields of its JSON body, and the type of the answer.

    Fields are named ``name: type``, with a ``?`` behind the name where they may be left out.
    """

    method: str
    path: str
    about: str
    query: Sequence[str] = ()
    body: Sequence[str] | None = None
    answer: str = JSON
    image: bool = False


CALLS = (
    Call("get", "/api/state", "the model, the draft, thresholds, and how much of the gallery is scored"),
    Call("get", "/api/events", "server-sent events of progress, bank, draft and drift", answer="text/event-stream"),
    Call(
        "get", "/api/gallery", "a page of the gallery; its images are scored first",
        ["offset?: integer", "limit?: integer", f"sort?: {'|'.join(SORTS)}", f"filter?: {'|'.join(FILTERS)}",
         "search?: string"],
    ),
    Call("post", "/api/images", "take an image into the gallery; X-Name is its name, percent-encoded, X-Changed "
         "when it was changed last, in milliseconds since 1970", image=True),
    Call("get", "/api/images/{key}/thumbnail", "an image, 256 pixels at most", answer="image/jpeg"),
    Call("get", "/api/images/{key}/picture", "an image, 2048 pixels at most", answer="image/jpeg"),
    Call(
        "get", "/api/images/{key}/map", "the anomaly map, 255 is the top of the scale", ["saved?: 0|1"],
        answer="image/png",
    ),
    Call("get", "/api/images/{key}/prediction", "score, verdict, regions and the nearest reference of an image"),
    Call(
        "post", "/api/images/{key}/suggest", "the region that deviates most at a place, or at the peak",
        body=["x?: number", "y?: number"],
    ),
    Call(
        "post", "/api/draft/teach", "learn a defect; mask is a PNG of the picture's size as a data: URL",
        body=["image: string", "mask: string", "name?: string", "type?: string"],
    ),
    Call("post", "/api/draft/fine", "learn that a region is normal",
         body=["image: string", "mask: string", "name?: string"]),
    Call("post", "/api/draft/mark", "say what an image is: good, defective, or null",
         body=["image: string", "mark: good|defective|null"]),
    Call("post", "/api/draft/thresholds", "decide elsewhere between 0 and 1",
         body=["image?: number", "pixel?: number"]),
    Call("post", "/api/draft/calibrate", "find the scales anew from the references", body=[]),
    Call("post", "/api/draft/region", "look only where the mask of an image is white; null looks everywhere",
         body=["image?: string", "mask: string|null"]),
    Call(
        "post", "/api/draft/reference", "switch, rename, retype or remove a reference",
        body=["uid: string", "active?: boolean", "remove?: boolean", "name?: string", "type?: string"],
    ),
    Call("post", "/api/draft/undo", "take the last step of the draft back", body=[]),
    Call("post", "/api/draft/redo", "do it again", body=[]),
    Call("post", "/api/draft/save", "keep all steps in the bank, in one transaction", body=[]),
    Call("post", "/api/draft/discard", "forget the draft", body=[]),
    Call("get", "/api/region", "where is looked, white in the size of an image's picture; 404 where it is everywhere",
         ["image: string"], answer="image/png"),
    Call("get", "/api/changes", "what the draft changes in the gallery"),
    Call("get", "/api/acceptance", "marked images under what is saved and under the draft"),
    Call("get", "/api/references", "all references"),
    Call("get", "/api/references/{uid}/picture", "the image of a reference", answer="image/jpeg"),
    Call("get", "/api/references/{uid}/mask", "its mask", answer="image/png"),
    Call("get", "/api/histogram", "scores of the gallery, and what a threshold would mean", ["image?: number"]),
    Call("get", "/api/drift", "how alike the images of each day are to the saved normal references"),
    Call("get", "/api/history", "all saved changes, the newest first"),
    Call("post", "/api/history/{revision}/undo", "take a saved change back, at once", body=[]),
    Call("post", "/api/predict", "score an image by what is saved, and keep nothing", image=True),
    Call("get", "/api/export/{name}",
         "bank, model.zip, predictions.csv, overlays.zip, regions.json or report.html",
         answer="application/octet-stream"),
)  # fmt: skip
_ERRORS = {
    "400": "no JSON", "403": "another page asks", "404": "nothing of that name", "409": "does not fit any more",
    "413": "too many bytes or pixels", "415": "another type of body", "422": "will not do",
}  # fmt: skip


def describe() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, Any] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {"title": "anomalib-nagl app", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string"}, "words": {"type": "object"}},
                }
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(call: Call) -> dict[str, Any]:
    parts = [part[1:-1] for part in call.path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in parts]
    parameters += [{"name": name, "in": "query", "schema": kind} for name, _, kind in map(_field, call.query)]
    parameters.append({"name": "X-Nagl-Session", "in": "header", "schema": {"type": "string"}})
    success = "201" if call.path == "/api/images" else "200"
    kind: dict[str, Any] = {"schema": {}} if call.answer == JSON else {}
    failure = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    operation: dict[str, Any] = {
        "summary": call.about,
        "operationId": call.method + "".join(part.strip("{}").title() for part in call.path.split("/")[2:]),
        "parameters": parameters,
        "responses": {
            success: {"description": "done", "content": {call.answer: kind}},
            **{status: {"description": why, **failure} for status, why in _ERRORS.items()},
        },
    }
    if call.image:
        binary = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"required": True, "content": {"image/*": binary}}
    elif call.body is not None:
        fields = list(map(_field, call.body))
        schema = {
            "type": "object",
            "properties": {name: kind for name, _, kind in fields},
            "required": [name for name, needed, _ in fields if needed],
        }
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return operation


def _field(text: str) -> tuple[str, bool, dict[str, Any]]:
    """Name, whether it is needed, and JSON Schema of a field."""
    name, _, kind = text.partition(": ")
    kinds = kind.split("|")
    types = {"string", "number", "integer", "boolean", "null"}
    if set(kinds) <= types:
        schema: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    else:
        schema = {"enum": [None if one == "null" else one for one in kinds]}
    return name.rstrip("?"), not name.endswith("?"), schema
