"""What people change of a detector, and facts of its model, as rows of the file of a bank."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from anomalib_nagl.bank import history
from anomalib_nagl.bank.border import check_settings
from anomalib_nagl.bank.history import Edit
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.json_values import parse_json


def value_of(name: str, text: str) -> Any:
    """A value that is kept as JSON; EdgeError if it is none."""
    try:
        return parse_json(text)
    except (ValueError, TypeError) as error:
        raise EdgeError(f"found {name} in the reference bank that cannot be read ({error}), expected JSON") from error


def settings_of(connection: sqlite3.Connection) -> dict[str, Any]:
    """All settings; EdgeError where they cannot be."""
    found = {name: value_of(name, text) for name, text in connection.execute("SELECT name, value FROM setting")}
    check_settings(found)
    return found


def texts_of(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """Settings as they are kept; None takes one away. EdgeError where they cannot be."""
    check_settings({name: value for name, value in settings.items() if value is not None})
    return {name: None if value is None else json.dumps(value, allow_nan=False) for name, value in settings.items()}


def write_settings(connection: sqlite3.Connection, texts: Mapping[str, str | None]) -> list[Edit]:
    """Change settings that are given as JSON; returns what was changed."""
    known = dict(connection.execute("SELECT name, value FROM setting"))
    edits = [Edit("setting", name, "value", known.get(name), text) for name, text in texts.items()
             if known.get(name) != text]  # fmt: skip
    for edit in edits:
        history.apply(connection, edit)
    return edits


def model_of(connection: sqlite3.Connection) -> dict[str, Any]:
    """Facts of the model that a bank was made for."""
    return {name: value_of(name, text) for name, text in connection.execute("SELECT name, value FROM model")}
