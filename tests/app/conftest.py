"""A browser, a server on an exported model of a drawn part, and tabs on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import PART, SIZE, Tab, chromium, make_export, missing, served, write_gallery
from support.once import once


@pytest.fixture(scope="session")
def plug(run_folder: Path) -> Path:
    """The folder of drawn images with the part of the gallery."""
    from anomalib_nagl.rendered.render import render_category

    render_category(run_folder / "drawn", PART, 0)
    return run_folder / "drawn"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser without a window."""
    program = chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("needs playwright: pip install -e '.[test]'")
    # Where tests run as root, and where shared memory is small, the browser asks for these.
    options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=options)
        yield found
        found.close()


@pytest.fixture(scope="session")
def exported_plug(browser: Any, plug: Path, run_folder: Path) -> Path:
    """The folder of an exported model; to be read alone."""
    return once(run_folder / "page", lambda folder: make_export(folder, plug)) / "weights/openvino"


@pytest.fixture
def gallery(plug: Path, tmp_path: Path) -> Path:
    """A folder of images."""
    return write_gallery(tmp_path / "images", plug)


@pytest.fixture
def model(exported_plug: Path, tmp_path: Path) -> Path:
    """A model whose bank may be taught."""
    return shutil.copytree(exported_plug, tmp_path / "box") / "model.xml"


@pytest.fixture
def address(model: Path, gallery: Path) -> Iterator[str]:
    """A server on model and images."""
    with served(model, "--images", gallery, "--by", "Ann") as found:
        yield found


@pytest.fixture
def new_tab(browser: Any, address: str) -> Iterator[Callable[..., Tab]]:
    """Tabs of persons of their own."""
    contexts, tabs = [], []

    def make(**options: Any) -> Tab:
        contexts.append(browser.new_context(**{"viewport": SIZE, "locale": "en-GB", **options}))
        contexts[-1].set_default_timeout(20_000)
        tabs.append(Tab(contexts[-1].new_page(), address))
        return tabs[-1]

    yield make
    for context in contexts:
        context.close()
    for tab in tabs:
        tab.check()


@pytest.fixture
def tab(new_tab: Callable[..., Tab]) -> Tab:
    """A tab on the page."""
    return new_tab()
