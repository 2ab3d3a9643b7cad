"""A web server for one person on this machine: it answers who has its address, which nobody can guess, and no one else.

It listens on 127.0.0.1 alone, and the first part of every path is a token drawn for this run. Another site that is open
in the same browser gets nothing even so: the names in Host and Origin must be this server's (a foreign name that leads
here would be "DNS rebinding"). There are only the paths that are listed, and no files. A request has a limited size and
time to arrive, one connection carries one request, and beyond a number of connections they are refused at once (503).
"""
import hmac
import http.server
import io
import json
import secrets
import socket
import socketserver
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl

from framealign.runtime import terminal
from framealign.runtime.settings import require, setting

HOST = "127.0.0.1"                                  # as a number: "localhost" may lead to another program, on ::1
NAMES = (HOST, "localhost", "[::1]")                # of this machine, by which a browser may call it
LINGER = 1.0                                        # seconds in which what a refused client still sends is swallowed
REFUSED = 256                                       # connections above the limit that have that time, at most
PARAMETERS = 8                                      # behind the question mark, at most
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
           "X-Frame-Options": "DENY", "Cross-Origin-Opener-Policy": "same-origin",
           "Cross-Origin-Resource-Policy": "same-origin"}


@dataclass(frozen=True)
class Serving:
    """Where the server is and how much it takes."""
    port: int = setting(0, "port on 127.0.0.1; 0: any that is free")
    connections: int = setting(32, "requests that are answered at the same time; those beyond are refused (503)")
    request_seconds: float = setting(10.0, "seconds within which a request must have arrived whole")

    def __post_init__(self):
        require(0 <= self.port <= 65535, f"port must be 0 to 65535, got {self.port}")
        require(self.connections >= 1, f"connections must be at least 1, got {self.connections}")
        require(0 < self.request_seconds <= 3600, f"request_seconds must be above 0 and at most 3600, got "
                f"{self.request_seconds:g}")


@dataclass(frozen=True)
class Request:
    """What a route is asked: the parameters behind the question mark, and the body."""
    parameters: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What is sent back."""
    content: bytes
    kind: str = "application/json"                  # MIME type
    status: int = 200

    @classmethod
    def of(cls, content: object, status: int = 200) -> "Answer":
        """As JSON."""
        return cls(json.dumps(content, ensure_ascii=False, allow_nan=False).encode(), status=status)


@dataclass(frozen=True)
class Route:
    """What answers one path."""
    answer: Callable[[Request], Answer]             # ValueError: a mistake of whoever asks (422)
    method: str = "GET"
    max_bytes: int = 0                              # of the body


class Refused(Exception):
    """A request that is not answered: its status and one line that says why."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class LocalServer(socketserver.ThreadingTCPServer):
    """Serves `routes`, by their names (the paths below the token), until the process is interrupted."""
    allow_reuse_address = True
    daemon_threads, block_on_close = True, False    # a request that is being answered does not keep the process
    request_queue_size = 256

    def __init__(self, routes: Mapping[str, Route], config: Serving, headers: Mapping[str, str],
                 look_after: Callable[[], None]):
        """headers: of every answer, beside `HEADERS`; look_after: called about twice a second, between requests.

        Raises ValueError where the port is taken.
        """
        self.routes, self.config, self.headers, self.look_after = routes, config, headers, look_after
        self.token = secrets.token_urlsafe(24)
        self.slots = threading.Semaphore(config.connections)
        self.refused: deque[tuple[float, socket.socket]] = deque()              # when, and their connections
        try:
            super().__init__((HOST, config.port), Handler)
        except OSError as error:
            raise ValueError(f"port {config.port} of {HOST} cannot be used ({error.strerror}); --port 0 takes one "
                             "that is free") from None

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    def process_request(self, connection: socket.socket, client_address: tuple) -> None:
        """In a thread of its own, if there may be one more."""
        if self.slots.acquire(blocking=False):
            super().process_request(connection, client_address)
        else:
            self._refuse(connection)

    def process_request_thread(self, connection: socket.socket, client_address: tuple) -> None:
        try:
            super().process_request_thread(connection, client_address)
        finally:
            self.slots.release()

    def service_actions(self) -> None:
        while self.refused and (time.monotonic() - self.refused[0][0] > LINGER or len(self.refused) > REFUSED):
            self.refused.popleft()[1].close()
        self.look_after()

    def handle_error(self, connection: socket.socket, client_address: tuple) -> None:
        """A client that has left is no error; another one is said in a line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            terminal.put(f"error: a request failed: {type(error).__name__}: {error}\n", sys.stderr)

    def _refuse(self, connection: socket.socket) -> None:
        """Say so at once, without waiting for the request; closed later, for what is closed too early is not read."""
        answer = Answer.of({"error": "too many requests at once; try again"}, 503)
        connection.setblocking(False)
        try:
            connection.send(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n" + b"".join(
                f"{name}: {value}\r\n".encode() for name, value in self.headers_of(answer).items()) + b"\r\n"
                + answer.content)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()
        else:
            self.refused.append((time.monotonic(), connection))

    def headers_of(self, answer: Answer) -> dict[str, str]:
        return {"Content-Type": answer.kind, "Content-Length": str(len(answer.content)), "Connection": "close",
                **HEADERS, **self.headers}


class Deadline(io.RawIOBase):
    """What a connection brings within so many seconds from now; then reading raises TimeoutError."""

    def __init__(self, connection: socket.socket, seconds: float):
        self.connection, self.end = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request on one connection."""
    server: LocalServer
    protocol_version, default_request_version = "HTTP/1.1", "HTTP/1.0"          # also HTTP/0.9 gets headers

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(Deadline(self.connection, self.server.config.request_seconds))
        self.is_read = False                        # the whole request

    def handle(self) -> None:
        self.close_connection = True
        self.handle_one_request()

    def finish(self) -> None:
        """Swallow what a client still sends, for a while: closed before that, it would not read the answer."""
        try:
            if not self.is_read:
                self.connection.shutdown(socket.SHUT_WR)
                rest = Deadline(self.connection, LINGER)
                while rest.read(1 << 16):
                    pass
        except OSError:
            pass
        super().finish()

    def do_GET(self) -> None:
        try:
            route = self._route()
            request = Request(self._parameters(), self._body(route.max_bytes))
            answer = route.answer(request)
        except Refused as refusal:
            answer = Answer.of({"error": str(refusal)}, refusal.status)
        except TimeoutError:
            answer = Answer.of({"error": "the request took too long to arrive"}, 408)
        except ValueError as error:
            answer = Answer.of({"error": str(error)}, 422)
        except Exception:
            self._send(Answer.of({"error": "the server failed at this; its terminal says how"}, 500))
            raise
        self._send(answer)

    do_POST = do_GET

    def _route(self) -> Route:
        """What answers the path, if whoever asks may ask at all. Raises Refused."""
        own = [f"{name}:{self.server.port}" for name in NAMES]
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1 or hosts[0].lower() not in own:
            raise Refused(403, "another host: open the address that was printed")
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            raise Refused(403, "asked by another site")
        if self.headers.get("Sec-Fetch-Site", "none").lower() not in ("none", "same-origin"):
            raise Refused(403, "asked by another site")
        token, slash, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(errors="replace"), self.server.token.encode()):
            raise Refused(403, "without the token: open the address that was printed")
        route = self.server.routes.get(name) if slash else None
        if route is None:
            raise Refused(404, "there is no such path")
        if route.method != self.command:
            raise Refused(405, f"this path takes {route.method}")
        return route

    def _parameters(self) -> dict[str, str]:
        """Raises Refused for too many of them, and for what is no UTF-8."""
        try:
            return dict(parse_qsl(self.path.partition("?")[2], keep_blank_values=True, errors="strict",
                                  max_num_fields=PARAMETERS))
        except ValueError:
            raise Refused(400, "parameters that cannot be read") from None

    def _body(self, max_bytes: int) -> bytes:
        """Raises Refused where it has no known length or is longer than `max_bytes`, or has not come whole."""
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers:
            raise Refused(411, "a body must say its length")
        if len(lengths) > 1 or not all(text.isascii() and text.isdigit() and len(text) < 20 for text in lengths):
            raise Refused(400, "a Content-Length that cannot be read")
        number = int(lengths[0]) if lengths else 0
        if number > max_bytes:
            raise Refused(413, f"{number} bytes, more than {max_bytes}")
        body = self.rfile.read(number)
        if len(body) < number:
            raise Refused(400, "the request ended before its body")
        self.is_read = True
        return body

    def _send(self, answer: Answer) -> None:
        self.connection.settimeout(self.server.config.request_seconds)
        self.send_response(answer.status)
        for name, value in self.server.headers_of(answer).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses by itself: a request line or headers that are too long or no HTTP."""
        self._send(Answer.of({"error": message or HTTPStatus(code).phrase}, int(code)))

    def version_string(self) -> str:
        return "framealign"

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: their paths have the token."""
