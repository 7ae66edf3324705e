"""A page in a real browser, without a network: what it shows, what it says to the console, what a click does.

Chromium is spoken to through its debugging pipe (https://chromedevtools.github.io/devtools-protocol/), for what no
command line can do: the width of a phone, dark mode, keys and clicks as a person makes them, pictures.
"""

import atexit
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")

_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--lang=en", "--remote-debugging-pipe")
_HEIGHT = 900
_KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Tab": 9, "Escape": 27}
_TIMEOUT_SECONDS = 60

Listen = Callable[[Mapping[str, Any]], None]


class Browser:
    """A browser that runs until the tests end: to start one takes longer than most of what is asked of it."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        for_browser, self._to = os.pipe()
        self._from, of_browser = os.pipe()
        # The browser reads from 3 and writes to 4. Debian's sh can't name a file descriptor above 9, bash can.
        pipes = f'exec "$@" 3<&{for_browser} 4>&{of_browser}'
        profile = f"--user-data-dir={self._profile.name}"
        command = ["bash", "-c", pipes, "bash", str(CHROMIUM), *_OPTIONS, profile, "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=(for_browser, of_browser), stderr=subprocess.DEVNULL)
        for end in (for_browser, of_browser):
            os.close(end)
        self._rest, self._number = b"", 0

    def call(self, method: str, session: str = "", listen: Listen | None = None, **params: Any) -> dict[str, Any]:
        """The answer to a command; events of the session that come before it go to `listen`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        for told in self._messages():
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                return dict(told["result"])
            if listen is not None and told.get("sessionId") == session:
                listen(told)
        raise AssertionError("the browser has closed the pipe")

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for end in (self._to, self._from):
            os.close(end)
        self._profile.cleanup()

    def _messages(self) -> Iterator[dict[str, Any]]:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while (seconds_left := deadline - time.monotonic()) > 0:
            while b"\0" in self._rest:
                line, self._rest = self._rest.split(b"\0", 1)
                yield json.loads(line)
            if select.select([self._from], [], [], seconds_left)[0]:
                read = os.read(self._from, 1 << 20)
                if not read:
                    return
                self._rest += read
        raise TimeoutError(f"no answer of the browser in {_TIMEOUT_SECONDS} s")


@cache
def running_browser() -> Browser:
    """The browser of this process."""
    browser = Browser()
    atexit.register(browser.close)
    return browser


class Tab:
    """A tab that is open on a page; `faults` are all that its scripts or its loading complained of."""

    def __init__(self, browser: Browser, context: str) -> None:
        self.faults: list[str] = []
        self._browser, self._session = browser, ""
        target = self._call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, address: str, width: int, *, dark: bool) -> None:
        """Load it; a width below 600 is a phone's, which is touched."""
        phone = width < 600
        screen = {"width": width, "height": _HEIGHT, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self._call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=f"{page.as_uri()}#{address}")
        loaded = "new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))"
        self.run(f"return {loaded}")

    def run(self, steps: str) -> Any:
        """What `steps`, the body of a JavaScript function, returns, or what its promise comes to."""
        expression = f"(async () => {{ {steps} }})()"
        told = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if fault := told.get("exceptionDetails"):
            self.faults.append(_described(fault))
        return told["result"].get("value")

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of the first element that `selector` finds: what lies there is hit."""
        place = f"""const box = document.querySelector({json.dumps(selector)});
          box.scrollIntoView({{ block: 'center' }});
          const {{ x, y, width, height }} = box.getBoundingClientRect(); return [x + width / 2, y + height / 2]"""
        x, y = self.run(place)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key, where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=_KEYS[key], **text)

    def print_out(self) -> None:
        """Show it as it goes to paper."""
        self._call("Emulation.setEmulatedMedia", media="print")

    def picture(self, path: Path) -> None:
        """The whole page, as a PNG."""
        told = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, self._listen, **params)

    def _listen(self, event: Mapping[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.faults.append(_described(params["exceptionDetails"]))
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.faults.append(f"console: {params['args']}")
        elif event.get("method") == "Log.entryAdded":
            self.faults.append(f"log: {params['entry']['text']}")


def _described(fault: Mapping[str, Any]) -> str:
    return str(fault.get("exception", {}).get("description", fault["text"]))


@contextmanager
def opened(page: Path, *, address: str = "", width: int = 1200, dark: bool = False) -> Iterator[Tab]:
    """The page in a tab without a past, as in a private window; at the end nothing may have gone wrong on it."""
    browser = running_browser()
    context = browser.call("Target.createBrowserContext")["browserContextId"]
    try:
        tab = Tab(browser, context)
        tab.open(page, address, width, dark=dark)
        yield tab
        assert tab.faults == []
    finally:
        browser.call("Target.disposeBrowserContext", browserContextId=context)


def ask(page: Path, steps: str, *, address: str = "", width: int = 1200) -> Any:
    """What `steps`, the body of a JavaScript function, returns on the page."""
    with opened(page, address=address, width=width) as tab:
        return tab.run(steps)
