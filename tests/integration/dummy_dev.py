"""`turnstone dev` with dummy rooms: the real supervisor, store and command line; API and worker do nothing.

Run as a program with the command line's own arguments.
"""

import http.server
import json
import os
import subprocess
import sys
import time

from shared.cli import stack
from shared.cli.main import main


class Healthy(http.server.BaseHTTPRequestHandler):
    """An API that is always well."""

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"identifier": "dummy"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


def api() -> None:
    address = (os.environ["TURNSTONE_HOST"], int(os.environ["TURNSTONE_PORT"]))
    http.server.HTTPServer(address, Healthy).serve_forever()


def worker() -> None:
    """A worker with a process of its own, as a pool may have."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("working for", os.environ["TURNSTONE_REDIS_URL"], flush=True)  # noqa: T201
    time.sleep(600)


if __name__ == "__main__":
    if sys.argv[1] in {"dummy-api", "dummy-worker"}:
        {"dummy-api": api, "dummy-worker": worker}[sys.argv[1]]()
    stack.API_COMMAND = (sys.executable, __file__, "dummy-api")
    stack.WORKER_COMMAND = (sys.executable, __file__, "dummy-worker")
    sys.exit(main())
