"""Headless Chromium, driven over a pipe (the DevTools protocol): open a page, run script in it, click, look at it."""
import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-component-update", "--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage",
         "--mute-audio", "--hide-scrollbars", "--remote-debugging-pipe",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


class Browser:
    """One Chromium with one page. `complaints`: what the page wrote to the console, or threw, or failed to load."""

    def __init__(self, profile: Path, flags: Sequence[str] = ()):
        here_reads, there_writes = os.pipe()
        there_reads, here_writes = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4; the shell puts the pipes there.
        command = ["bash", "-c", f'exec "$@" 3<&{there_reads} 4>&{there_writes}', "bash", CHROMIUM, *FLAGS,
                   *flags, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=(there_reads, there_writes), stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        os.close(there_reads), os.close(there_writes)
        self.reads, self.writes, self.number, self.rest, self.session = here_reads, here_writes, 0, b"", None
        self.complaints: list[str] = []
        self.loaded, self.own = False, ("file:", "data:")           # own: how addresses begin that may be asked for
        target = next(x for x in self.send("Target.getTargets")["targetInfos"] if x["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        os.close(self.writes), os.close(self.reads)
        self.process.terminate()
        self.process.wait(20)

    def send(self, method: str, **params) -> dict:
        """One command; its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def receive(self, seconds: float = 60) -> dict:
        """The next message; events are noted. Raises TimeoutError where none comes."""
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            if not select.select([self.reads], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            piece = os.read(self.reads, 1 << 20)
            if not piece:
                raise RuntimeError("Chromium has ended")
            self.rest += piece
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:400])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params["args"])[:400])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"][:400])
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(self.own):
            self.complaints.append(f"asks for {params['request']['url'][:200]}")
        return message

    def open(self, page: Path | str, width: int, height: int = 900, dark: bool = False, media: str = "screen") -> None:
        """Load a file, or the page of an address, in a window of that width (CSS pixels)."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.send("Emulation.setEmulatedMedia", media=media,
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.loaded, self.complaints = False, []
        address = page if isinstance(page, str) else page.resolve().as_uri()
        self.own = ("file:", "data:") if isinstance(page, Path) else (page, "data:", "blob:")
        self.send("Page.navigate", url=address)
        while not self.loaded:
            self.receive()
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str):
        """The value of an expression in the page (of a promise: what it comes to)."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
                           userGesture=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:600])
        return answer["result"].get("value")

    def click(self, x: float, y: float) -> None:
        """Press and release the left button at a point of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, buttons=1)

    def press(self, key: str) -> None:
        """Press and release Tab or Enter."""
        code, text = {"Tab": (9, {}), "Enter": (13, {"text": "\r"})}[key]
        for kind, typed in (("keyDown", text), ("keyUp", {})):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    def download_to(self, folder: Path) -> None:
        """Where what is saved from now on goes."""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """A PNG of the page as it is."""
        options = {}
        if whole:
            options["clip"] = {"x": 0, "y": 0, "scale": 1, "width": self.run("document.documentElement.clientWidth"),
                               "height": self.run("document.documentElement.scrollHeight")}
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=whole, **options)
        path.write_bytes(base64.b64decode(answer["data"]))
