"""Show the rendered book at http://localhost:8000, compressed as a web host would send it.

    python book/tools/serve.py [folder] [port]

A busy port is no reason to stop: the next free one is taken, and said.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (".html", ".js", ".css", ".svg", ".json", ".txt", ".xml", ".inv")
PORTS = 100  # that are tried, one after the other


@functools.cache
def squeezed(path: Path, changed: float) -> bytes:
    """The file, compressed; kept until it changes."""
    return gzip.compress(path.read_bytes(), 6)


class Handler(http.server.SimpleHTTPRequestHandler):
    def send_head(self):
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        missing = Path(self.directory) / "404.html"
        if not path.is_file() and missing.is_file():
            return self._whole(404, missing.read_bytes(), "text/html; charset=utf-8")
        if path.suffix not in TEXT or not path.is_file() or "gzip" not in self.headers.get("Accept-Encoding", ""):
            return super().send_head()
        return self._whole(200, squeezed(path, path.stat().st_mtime), self.guess_type(path), "gzip")

    def _whole(self, status: int, body: bytes, kind: str, encoding: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self):
        if "?" in self.path:  # the name of such a file changes with its content
            self.send_header("Cache-Control", "public, max-age=31536000, immutable")
        super().end_headers()

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = False  # else two servers share a port on some systems, and the older one answers


def server(folder: Path, port: int = 0) -> Server:
    """A server of `folder` on this machine: at `port` or the next that is free; port 0 takes any.

    Raises OSError when none of a hundred ports is free.
    """
    handler = functools.partial(Handler, directory=str(folder))
    for number in range(port, port + PORTS if port else 1):
        try:
            return Server(("127.0.0.1", number), handler)
        except OSError:
            if number == port + PORTS - 1 or port == 0:
                raise
    raise AssertionError("unreachable")


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else ROOT / "_build" / "html"
    wanted = int(arguments[1]) if len(arguments) > 1 else 8000
    with server(folder, wanted) as found:
        busy = f"Port {wanted} is busy. " if found.server_port != wanted else ""
        print(f"{busy}The book is at http://localhost:{found.server_port} (Ctrl-C ends it).", flush=True)
        try:
            found.serve_forever()
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
