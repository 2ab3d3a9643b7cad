"""Headless Firefox, driven by WebDriver BiDi over a WebSocket of the standard library: as `browser.Browser` drives
Chromium, with the same methods.
"""
import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

FIREFOX = next(filter(None, map(shutil.which, ("firefox", "firefox-esr"))), None)
# Nothing is fetched from elsewhere, and the microphone is a tone of Firefox's own that may be used.
PREFERENCES = {"media.navigator.streams.fake": True, "media.navigator.permission.disabled": True,
               "media.autoplay.default": 0,
               "app.update.enabled": False, "app.normandy.enabled": False,
               "browser.shell.checkDefaultBrowser": False, "datareporting.policy.dataSubmissionEnabled": False,
               "network.captive-portal-service.enabled": False, "network.connectivity-service.enabled": False,
               "toolkit.telemetry.reportingpolicy.firstRun": False, "services.settings.server": "data:,#none"}


class Browser:
    """One Firefox with one page. `complaints`: what the page wrote to the console, or threw, or failed to load."""

    def __init__(self, profile: Path):
        profile.mkdir(parents=True)
        (profile / "user.js").write_text("\n".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});"
                                                   for name, value in PREFERENCES.items()))
        self.log = (profile / "firefox.log").open("w+")
        self.process = subprocess.Popen([FIREFOX, "--headless", "--no-remote", "--profile", profile,
                                         "--remote-debugging-port", "0", "about:blank"], stdout=subprocess.DEVNULL,
                                        stderr=self.log, env=os.environ | {"HOME": str(profile)})
        self.connection, self.number, self.rest, self.own = None, 0, b"", ()
        self.complaints: list[str] = []
        try:
            self._connect(self._port())
            self.send("session.new", capabilities={})
            self.context = self.send("browsingContext.getTree")["contexts"][0]["context"]
            self.send("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
        except BaseException:
            self.close()
            raise

    def _port(self) -> int:
        """Where Firefox listens, as it says itself. Raises TimeoutError where it does not."""
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            self.log.seek(0)
            said = self.log.read().partition("WebDriver BiDi listening on ws://127.0.0.1:")[2]
            if "\n" in said:
                return int(said.split()[0])
            time.sleep(0.05)
        raise TimeoutError("Firefox does not start")

    def _connect(self, port: int) -> None:
        """The handshake of a WebSocket (RFC 6455, section 4)."""
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.connection.sendall(f"GET /session HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
                                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                                "Sec-WebSocket-Version: 13\r\n\r\n".encode())
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.connection.recv(1 << 16)
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise RuntimeError(f"Firefox: {head[:200]}")

    def close(self) -> None:
        if self.connection:
            self.connection.close()
        self.process.terminate()
        self.process.wait(20)
        self.log.close()

    def send(self, method: str, **params) -> dict:
        """One command; its answer."""
        self.number += 1
        content = json.dumps({"id": self.number, "method": method, "params": params}).encode()
        size = len(content)
        length = bytes([0x80 | size]) if size < 126 else (
            b"\xfe" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xff" + size.to_bytes(8, "big"))
        mask = secrets.token_bytes(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(content))
        self.connection.sendall(b"\x81" + length + mask + masked)               # one message of text
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if answer["type"] == "error":
                    raise RuntimeError(f"{method}: {answer['error']}: {answer['message'][:600]}")
                return answer["result"]

    def receive(self) -> dict:
        """The next message; events are noted."""
        parts, is_last = [], False
        while not is_last:
            first, size = self._bytes(2)
            is_last, size = bool(first & 0x80), size & 0x7f
            if size >= 126:
                size = int.from_bytes(self._bytes(2 if size == 126 else 8), "big")
            content = self._bytes(size)
            if first & 0x0f == 8:
                raise RuntimeError("Firefox has ended")
            if first & 0x0f in (0, 1):              # text, or more of it; the rest are pings
                parts.append(content)
        message = json.loads(b"".join(parts))
        params = message.get("params", {})
        if message.get("method") == "log.entryAdded" and params["level"] in ("error", "warn"):
            self.complaints.append(str(params["text"])[:400])
        elif message.get("method") == "network.beforeRequestSent" and self.own:
            if not params["request"]["url"].startswith(self.own):
                self.complaints.append(f"asks for {params['request']['url'][:200]}")
        return message

    def _bytes(self, size: int) -> bytes:
        """The next bytes of the socket. Raises TimeoutError where none come for a minute."""
        while len(self.rest) < size:
            piece = self.connection.recv(1 << 20)
            if not piece:
                raise RuntimeError("Firefox has ended")
            self.rest += piece
        found, self.rest = self.rest[:size], self.rest[size:]
        return found

    def open(self, page: Path | str, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a file, or the page of an address, in a window of that width (CSS pixels)."""
        self.send("browsingContext.setViewport", context=self.context, viewport={"width": width, "height": height})
        self.own = ()
        address = page if isinstance(page, str) else page.resolve().as_uri()
        self.send("browsingContext.navigate", context=self.context, url="about:blank", wait="complete")
        self.complaints, self.own = [], ("file:", "data:") if isinstance(page, Path) else (page, "data:", "blob:")
        self.send("browsingContext.navigate", context=self.context, url=address, wait="complete")
        if dark:
            self.run("document.documentElement.dataset.theme = 'dark'; 0")
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str):
        """The value of an expression in the page (of a promise: what it comes to)."""
        answer = self.send("script.evaluate", expression=script, target={"context": self.context}, awaitPromise=True,
                           userActivation=True)
        if answer["type"] == "exception":
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:600])
        return value_of(answer["result"])

    def press(self, key: str) -> None:
        """Press and release Tab or Enter."""
        code = {"Tab": "\ue004", "Enter": "\ue007"}[key]
        actions = [{"type": kind, "value": code} for kind in ("keyDown", "keyUp")]
        self.send("input.performActions", context=self.context,
                  actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def download_to(self, folder: Path) -> None:
        """Where what is saved from now on goes."""
        self.send("browser.setDownloadBehavior",
                  downloadBehavior={"type": "allowed", "destinationFolder": str(folder)})

    def starts_sound(self) -> bool:
        """Whether there is something to play sound to; without it no microphone starts either."""
        return self.run("""new Promise((done) => {
            const context = new AudioContext();
            context.resume().then(() => done(true));
            setTimeout(() => done(false), 15000);
        })""")


def value_of(remote: dict):
    """The Python value of what a script gave, as BiDi describes it; None for what has none (a node, a function)."""
    kind, value = remote["type"], remote.get("value")
    if kind == "array":
        return [value_of(one) for one in value]
    if kind in ("object", "map"):
        return {key if isinstance(key, str) else value_of(key): value_of(one) for key, one in value}
    if kind == "number" and isinstance(value, str):                             # NaN, -0, Infinity
        return float(value)
    return value if kind in ("string", "number", "boolean") else None
