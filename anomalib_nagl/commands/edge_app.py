"""``anomalib-nagl app``: a page on an exported model, to see scores, draw defects and save what they teach."""

from __future__ import annotations

import secrets
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from anomalib_nagl.commands.parser import Parser
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.export_manifest import exported_model

PORT = 8765


def main(arguments: Sequence[str]) -> int:
    """Run ``app`` with these arguments until it is interrupted; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        import uvicorn

        from anomalib_nagl.edge.app.guard import is_loopback
        from anomalib_nagl.edge.app.server import make_app
        from anomalib_nagl.edge.app.workbench import Workbench
    except ImportError as error:
        raise EdgeError(
            f"found no {error.name} here, expected it for the page: pip install 'anomalib-nagl[app]', or on a box "
            "'anomalib-nagl-edge[app]'"
        ) from error
    if options.images is not None and not options.images.is_dir():
        raise EdgeError(f"found no folder at {options.images}, expected one with images: check --images")
    address = _address(options.address)
    open_ = options.token or address is not None or not is_loopback(options.host)
    token = secrets.token_urlsafe(24) if open_ else None
    listening = _listen(options.host, options.port)
    with tempfile.TemporaryDirectory(prefix="nagl-app-") as room, listening:
        bench = Workbench(exported_model(options.model), options.bank, options.images, Path(room), options.by)
        bench.start()
        try:
            config = uvicorn.Config(
                make_app(bench, options.host, token, address), log_level="warning", lifespan="off",
                limit_concurrency=100, timeout_keep_alive=5, timeout_graceful_shutdown=5, server_header=False,
                proxy_headers=False,
            )  # fmt: skip
            server = uvicorn.Server(config)
            bench.ending = lambda: server.should_exit
            _greet(options.host, listening.getsockname()[1], token, address)
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            pass  # the way to end it
        finally:
            bench.close()
    return exit_codes.DONE


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens; EdgeError where there can be none."""
    if not 0 <= port <= 65_535:
        raise EdgeError(f"found --port {port}, expected a number from 0, for any free one, to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise EdgeError(
            f"found no way to listen at {host} port {port} ({error.strerror or error}), expected a free port of this "
            "machine: choose another --port"
        ) from error


def _address(given: str | None) -> str | None:
    """The address under which a proxy shows the page, as browsers name where a request is from."""
    if given is None:
        return None
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise EdgeError(
            f"found --address {given[:60]}, expected one like https://box.example: a proxy's, without a path"
        )
    return f"{parts.scheme}://{parts.netloc}"


def _greet(host: str, port: int, token: str | None, address: str | None) -> None:
    name = f"[{host}]" if ":" in host else host
    way = f"{address or f'http://{name}:{port}'}/" + (f"?token={token}" if token else "")
    print(f"Open {way} (Ctrl-C ends; what was not saved is forgotten then)", flush=True)


def _parser() -> Parser:
    parser = Parser(
        prog="anomalib-nagl app",
        description="Open a page on an exported model: see images scored, draw a defect, see what changes, save.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model.xml of an export, or its folder")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of images to show; it is followed")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; another than this machine's needs the token"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"port to listen at, 0 for any; {PORT} if left out")
    parser.add_argument(
        "--address", metavar="URL", help="where a proxy shows the page, such as https://box.example; needs the token"
    )
    parser.add_argument("--token", action="store_true", help="ask for a token on this machine too")
    parser.add_argument("--bank", type=Path, metavar="FILE", help="another reference bank than NAME.bank")
    parser.add_argument("--by", metavar="NAME", help="who makes the changes, your user name if left out")
    return parser
