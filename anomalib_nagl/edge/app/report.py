"""A report of an acceptance set: one HTML file with its pictures in it, which asks nothing of a network."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

from anomalib_nagl.bank.history import Change, now
from anomalib_nagl.bank.verdicts import Rules

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #191919 }}
table {{ border-collapse: collapse; margin: 1rem 0 }} th, td {{ text-align: left; padding: .3rem .8rem;
border-bottom: 1px solid #bbb }} img {{ max-width: 100%; border: 1px solid #bbb }} .wrong {{ font-weight: bold }}
figure {{ margin: 2rem 0 }}
</style></head><body>
"""


def report(
    name: str,
    history: Sequence[Change],
    known: dict[str, Any],
    rules: Rules,
    drawn: Callable[[str], bytes | None],
) -> Iterator[bytes]:
    """The file part by part.

    ``known`` is the acceptance set (``summaries.acceptance``); ``drawn`` gives the picture of an image by its id, PNG.
    """
    title = f"Acceptance set of {name}"
    yield _HEAD.format(title=escape(title)).encode()
    last = history[-1]
    yield _p(f"<h1>{escape(title)}</h1>")
    yield _p(f"<p>Written {now()}; the bank is at revision {last.revision} of {escape(last.author)}, {last.at}.</p>")
    if rules.threshold is not None:
        yield _p(
            f"<p>Scores above {rules.threshold:.3f} are defective; within {rules.band:.3f} of it a person looks again."
            "</p>"
        )
    rows = known["rows"]
    if not rows:
        yield _p("<p>No image is marked good or defective: mark some on the page.</p>")
    yield from _counts(rows)
    yield from _table(rows)
    for row in rows:
        picture = drawn(row["image_id"]) if row["image_id"] else None
        if picture is not None:
            data = base64.b64encode(picture).decode()
            caption = f"{escape(row['name'])}: marked {row['mark']}, {_said(row['after'])}"
            alternative = escape(f"{row['name']} with its map and outline", quote=True)
            yield _p(f'<figure><img alt="{alternative}" src="data:image/png;base64,{data}">')
            yield _p(f"<figcaption>{caption}</figcaption></figure>")
    yield _p("</body></html>")


def _counts(rows: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    judged = [row for row in rows if row["right_after"] is not None]
    if judged:
        defects = [row["right_after"] for row in judged if row["mark"] == "defective"]
        good = [row["right_after"] for row in judged if row["mark"] == "good"]
        yield _p(
            f"<p>{sum(defects)} of {len(defects)} defective images are found; {len(good) - sum(good)} of {len(good)} "
            "good images raise a false alarm.</p>"
        )


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    if not rows:
        return
    yield _p(
        "<table><thead><tr><th>image</th><th>marked</th><th>as saved</th><th>now</th><th></th></tr></thead><tbody>"
    )
    for row in rows:
        right = {True: "right", False: "wrong", None: ""}[row["right_after"]]
        yield _p(
            f'<tr class="{right}"><td>{escape(row["name"])}</td><td>{escape(row["mark"])}</td>'
            f"<td>{_said(row['before'])}</td><td>{_said(row['after'])}</td><td>{right}</td></tr>"
        )
    yield _p("</tbody></table>")


def _said(judged: dict[str, Any] | None) -> str:
    return "not scored" if judged is None else f"{escape(judged['verdict'] or 'no verdict')}, {judged['score']:.3f}"


def _p(text: str) -> bytes:
    return f"{text}\n".encode()
