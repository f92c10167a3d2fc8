"""Object storage on the loopback interface: moto's server of S3, and a proxy before it that makes faults."""

import http.client
import logging
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "maps"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "very-secret-key",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@contextmanager
def s3_server():
    """Run moto's server with one bucket; yield its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        client(address).create_bucket(Bucket=BUCKET)
        yield address
    finally:
        server.stop()


def client(address):
    """Return boto3's client: an independent view of the bucket."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )


class FaultProxy:
    """Pass requests on to a server, and spoil those that a fault matches.

    A fault is (kind, pattern of "METHOD /path?query", how many times). Kinds: a status such as 503 or
    ``403:AccessDenied``; ``slow``, an answer after ``slow_s``; ``cut``, half of the answer; ``lost``, the
    request is done and the connection closed without an answer; ``unconditional``, If-None-Match is ignored.
    """

    def __init__(self, target):
        self.target = target
        self.faults, self.requests, self.slow_s = [], [], 3.0
        self._lock = threading.Lock()
        host, port = target.removeprefix("http://").split(":")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def _handle(self):
                body = self._body()
                kind = proxy.fault(f"{self.command} {self.path}")
                if kind and kind[0].isdigit():
                    status, _, code = kind.partition(":")
                    text = f"<Error><Code>{code or 'InternalError'}</Code></Error>".encode()
                    self._answer(int(status), [], text)
                    return
                if kind == "slow":
                    time.sleep(proxy.slow_s)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
                if kind == "unconditional":
                    headers.pop("If-None-Match", headers.pop("if-none-match", None))
                connection = http.client.HTTPConnection(host, int(port), timeout=30)
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if kind == "lost":
                    self.close_connection = True
                    return
                kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
                length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else None
                self._answer(answer.status, kept, content, length=length, cut=kind == "cut")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815

            def _body(self):
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                chunks = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)

            def _answer(self, status, headers, content, *, length=None, cut=False):
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self.wfile.flush()
                    self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # the client went, as the fault meant it to

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def fault(self, request):
        with self._lock:
            self.requests.append(request)
            for number, (kind, pattern, left) in enumerate(self.faults):
                if left and re.search(pattern, request):
                    self.faults[number] = (kind, pattern, left - 1)
                    return kind
        return None

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
