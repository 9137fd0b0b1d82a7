"""Show the rendered book at http://localhost:8000, compressed as a web host would send it.

python book/tools/serve.py [folder] [port]
"""

from __future__ import annotations

import functools
import gzip
import http.server
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (".html", ".js", ".css", ".svg", ".json", ".txt", ".xml", ".inv")


@functools.cache
def squeezed(path: Path, changed: float) -> bytes:
    """The file, compressed; kept until it changes."""
    return gzip.compress(path.read_bytes(), 6)


class Handler(http.server.SimpleHTTPRequestHandler):
    def send_head(self):
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if path.suffix not in TEXT or not path.is_file() or "gzip" not in self.headers.get("Accept-Encoding", ""):
            return super().send_head()
        body = squeezed(path, path.stat().st_mtime)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return None

    def end_headers(self):
        if "?" in self.path:  # the name of such a file changes with its content
            self.send_header("Cache-Control", "public, max-age=31536000, immutable")
        super().end_headers()

    def log_message(self, *args):
        pass


def server(folder: Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    """A server of `folder` on this machine; port 0 takes a free one."""
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=str(folder)))


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_build" / "html"
    with server(folder, int(sys.argv[2]) if len(sys.argv) > 2 else 8000) as found:
        print(f"the book is at http://localhost:{found.server_port} (Ctrl-C ends it)", flush=True)
        try:
            found.serve_forever()
        except KeyboardInterrupt:
            pass
