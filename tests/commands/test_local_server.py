"""The server of the page: hostile requests are refused in one line, and whoever has the address is still answered."""
import concurrent.futures
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from framealign.commands import local_server
from framealign.commands.local_server import Answer, LocalServer, Refused, Request, Route, Serving


def failing(request: Request) -> Answer:
    raise {"value": ValueError("a mistake"), "busy": Refused(503, "busy"), "bug": ZeroDivisionError("bug")}[
        request.parameters["how"]]


ROUTES = {"": Route(lambda request: Answer(b"the page", "text/html")),
          "echo": Route(lambda request: Answer.of([request.parameters, request.body.decode()]), "POST", 100),
          "fail": Route(failing, "POST")}


@pytest.fixture
def server() -> Iterator[LocalServer]:
    yield from started(Serving(connections=8, request_seconds=1))


def started(config: Serving) -> Iterator[LocalServer]:
    server = LocalServer(ROUTES, config, {"Content-Security-Policy": "default-src 'none'"}, lambda: None)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def exchange(server: LocalServer, content: bytes, seconds: float = 10) -> bytes:
    """What comes back for these bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        try:
            connection.sendall(content)
        except OSError:                             # refused before it was all sent
            pass
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
        return answer


def ask(server: LocalServer, method: str = "GET", name: str = "", body: bytes = b"", headers: dict | None = None,
        path: str | None = None) -> tuple[int, bytes]:
    """Status and content of an answer. headers: None as a value leaves one out."""
    lines = {"Host": f"127.0.0.1:{server.port}", "Content-Length": str(len(body))} | (headers or {})
    path = f"/{server.token}/{name}" if path is None else path
    head = "".join(f"{key}: {value}\r\n" for key, value in lines.items() if value is not None)
    answer = exchange(server, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


def still_answers(server: LocalServer) -> bool:
    return ask(server) == (200, b"the page")


def test_whoever_has_the_address_is_answered(server):
    assert server.address == f"http://127.0.0.1:{server.port}/{server.token}/" and len(server.token) >= 32
    assert server.server_address[0] == "127.0.0.1"  # of this machine alone
    assert still_answers(server)
    assert ask(server, "POST", "echo?a=1&b=%C3%A9", b"body") == (200, '[{"a": "1", "b": "é"}, "body"]'.encode())
    own = {"Origin": f"http://localhost:{server.port}", "Host": f"LOCALHOST:{server.port}",
           "Sec-Fetch-Site": "same-origin"}
    assert ask(server, headers=own) == (200, b"the page")


def test_two_servers_have_two_tokens(server):
    for other in started(Serving()):
        assert other.token != server.token and other.port != server.port
        assert ask(other, path=f"/{server.token}/")[0] == 403


def test_every_answer_has_the_headers_that_keep_it_in(server):
    for path in (f"/{server.token}/", "/", f"/{server.token}/none"):
        head = exchange(server, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()).decode()
        for line in ("Content-Security-Policy: default-src 'none'", "X-Content-Type-Options: nosniff",
                     "Referrer-Policy: no-referrer", "Cache-Control: no-store", "Connection: close"):
            assert f"\r\n{line}\r\n" in head, line
        assert "Access-Control" not in head and "Python" not in head


@pytest.mark.parametrize("headers", [
    {"Host": "evil.example"}, {"Host": "evil.example:{port}"}, {"Host": "127.0.0.1"}, {"Host": "127.0.0.1:1"},
    {"Host": "localhost.evil.example:{port}"}, {"Host": None}, {"Host": "127.0.0.1:{port}\r\nHost: evil.example"},
    {"Host": ""}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "https://127.0.0.1:{port}"},
    {"Origin": "http://127.0.0.1:1"}, {"Origin": "http://localhost:{port}"}, {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}])
def test_another_host_or_site_is_refused(server, headers):
    """The name that a request is sent to, and the site that sends it; on both paths, whatever the token."""
    headers = {name: value and value.format(port=server.port) for name, value in headers.items()}
    for method, name in (("GET", ""), ("POST", "echo")):
        status, content = ask(server, method, name, headers=headers)
        assert status == 403 and re.match("another host|asked by another site", json.loads(content)["error"])
    assert still_answers(server)


@pytest.mark.parametrize("path", ["/", "", "*", "/wrong/", "/{token}x/", "/{short}/", "/{token}%00/",
                                  "/{upper}/", "/\u00e9\u00e9/", "?{token}", "http://127.0.0.1/{token}/"])
def test_without_the_token_nothing_is_answered(server, path):
    token = server.token
    status, _ = ask(server, path=path.format(token=token, short=token[:-1], upper=token.swapcase()))
    assert status in (400, 403)
    assert still_answers(server)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "..%2f..%2fetc/passwd", "/etc/passwd", "echo/../", ".", "none",
                                  "recorder.js", "%2e%2e/", "\\..\\", "echo/", "ECHO", "echo%00"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_listed_paths_exist(server, name, method):
    assert ask(server, method, name)[0] == 404
    assert still_answers(server)


@pytest.mark.parametrize("method, name, status", [("GET", "echo", 405), ("POST", "", 405), ("PUT", "echo", 501),
                                                  ("OPTIONS", "echo", 501), ("HEAD", "", 501), ("TRACE", "", 501)])
def test_other_methods_are_refused(server, method, name, status):
    assert ask(server, method, name)[0] == status


@pytest.mark.parametrize("headers, body, status", [
    ({}, b"x" * 101, 413), ({"Content-Length": "99999999999999999999"}, b"", 400), ({"Content-Length": "-1"}, b"", 400),
    ({"Content-Length": "1\r\nContent-Length: 2"}, b"x", 400), ({"Content-Length": "0x1"}, b"x", 400),
    ({"Content-Length": "\u0661"}, b"x", 400),
    ({"Content-Length": None, "Transfer-Encoding": "chunked"}, b"", 411),
    ({"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n", 411), ({"Content-Length": "50"}, b"", 408)])
def test_bodies_without_a_sane_length_are_refused(server, headers, body, status):
    assert ask(server, "POST", "echo", body, headers)[0] == status
    assert still_answers(server)


@pytest.mark.parametrize("path", ["echo?" + "&".join(f"a{i}=1" for i in range(9)), "echo?a=%ff"])
def test_parameters_that_cannot_be_read_are_refused(server, path):
    assert ask(server, "POST", path)[0] == 400


@pytest.mark.parametrize("content", [
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: 1\r\n" % i for i in range(200)) + b"\r\n", b"\x16\x03\x01\x02\0\x01\0\x01",
    b"\r\n" * 9, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n", bytes(5000)])
def test_what_is_no_request_is_refused(server, content):
    answer = exchange(server, content)
    assert not answer or b"the page" not in answer
    assert still_answers(server)


def test_a_body_without_end_is_cut_off(server):
    """It claims a gigabyte, or has no length, and goes on: refused within the time that requests have."""
    for header in ("Content-Length: 1000000000", "Transfer-Encoding: chunked"):
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(f"POST /{server.token}/echo HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
                               f"{header}\r\n\r\n".encode())
            with pytest.raises(OSError):
                while time.monotonic() - start < 8:
                    connection.sendall(b"5\r\nhello\r\n" * 100)
        assert time.monotonic() - start < 5
    assert still_answers(server)


@pytest.mark.parametrize("piece", [b"G", b"GET / HTTP/1.1\r\nX: 1\r\n"])
def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(server, piece):
    """The whole request has a second, not each byte."""
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        with pytest.raises(OSError):
            connection.sendall(piece)
            while time.monotonic() - start < 8:
                connection.sendall(b"a")
                time.sleep(0.1)
    assert time.monotonic() - start < 5


def test_two_hundred_at_once_are_answered_or_refused(server):
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        answers = [one.result() for one in [pool.submit(ask, server) for _ in range(200)]]
    assert {status for status, _ in answers} <= {200, 503} and (200, b"the page") in answers
    assert all("try again" in json.loads(content)["error"] for status, content in answers if status == 503)
    assert still_answers(server)


def test_connections_that_do_nothing_give_way(server):
    """Eight that say nothing take every place: others are refused at once, and answered once those are cut off."""
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
    time.sleep(0.3)
    start = time.monotonic()
    assert ask(server)[0] == 503 and time.monotonic() - start < 0.9
    while not (answered := still_answers(server)) and time.monotonic() - start < 8:
        time.sleep(0.1)
    assert answered and server.slots.acquire(blocking=False)
    for one in idle:
        one.close()


def test_refused_connections_are_closed_before_long(server, monkeypatch):
    monkeypatch.setattr(local_server, "LINGER", 0.2)
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    time.sleep(0.6)
    assert not server.refused
    for one in idle:
        one.close()


def test_errors_are_one_line_each(server, capfd):
    """A mistake, a refusal, and a fault of the program, which alone is said on the terminal; never a traceback."""
    assert ask(server, "POST", "fail?how=value") == (422, b'{"error": "a mistake"}')
    assert ask(server, "POST", "fail?how=busy") == (503, b'{"error": "busy"}')
    status, content = ask(server, "POST", "fail?how=bug")
    assert status == 500 and b"bug" not in content
    assert capfd.readouterr() == ("", "error: a request failed: ZeroDivisionError: bug\n")


@pytest.mark.parametrize("changes, message", [
    ({"port": 70_000}, "port must be 0 to 65535, got 70000"), ({"connections": 0}, "connections must be at least 1"),
    ({"request_seconds": 0}, "request_seconds must be above 0")])
def test_settings_outside_their_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Serving(**changes)


def test_a_port_that_is_taken_costs_one_line(server):
    with pytest.raises(ValueError, match=f"^port {server.port} of 127.0.0.1 cannot be used .*--port 0 takes one"):
        LocalServer({}, Serving(port=server.port), {}, lambda: None)
