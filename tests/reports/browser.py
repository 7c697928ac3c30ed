"""A Chromium that tests ask and press keys in, over the pipe that its developer tools speak. Not a test.

https://chromedevtools.github.io/devtools-protocol/; with ``--remote-debugging-pipe`` no port is opened, and no library
is needed.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Space": (" ", 32, " "),
    "Escape": ("Escape", 27, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
}
_PATIENCE_S = 60


def chromium() -> str | None:
    """Where Chromium is, if it is here."""
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), None)


_LEFT = ("navigated", "execution context", "Execution context", "Promise was collected")
"""What Chromium says of a command that meets a page which is being left."""


class PageLeftError(Exception):
    """The page was left, or loaded anew, while it was asked."""


class Browser:
    """One page of a Chromium without a screen."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._rest = commands, answers, b""
        self._number, self._session = 0, ""
        self.complaints: list[str] = []
        """What the console was told since the page was opened: errors of scripts and of the page's policy."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        # Without a screen no window has the focus otherwise.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if any(words in str(answer.get("error")) for words in _LEFT):
                    raise PageLeftError
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE_S
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], max(0, end - time.monotonic()))[0], "Chromium says nothing"
            part = os.read(self._answers, 1 << 20)
            assert part, "Chromium ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(text)
        if answer.get("method") == "Log.entryAdded":
            self.complaints.append(answer["params"]["entry"]["text"])
        if answer.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(answer["params"]["exceptionDetails"]))
        return answer

    def open(self, page: Path, width: int = 1300) -> None:
        """Load a page in a window of this width."""
        self.complaints.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=page.as_uri())
        self.wait("document.readyState === 'complete'")

    def wait(self, condition: str) -> Any:
        """Until an expression is true; returns its value."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            with suppress(PageLeftError):
                if value := self.ask(condition):
                    return value
            assert time.monotonic() < end, f"never: {condition}"
            time.sleep(0.02)

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page, also of a promise; the page's policy does not apply to it."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def ask_loaded(self, *expressions: str, condition: str = "true") -> Any:
        """The value of the last of these expressions, of a page that loads itself anew from time to time.

        All are evaluated at once, on a page that is loaded and where the condition holds.
        """
        return self.wait(f"document.readyState === 'complete' && ({condition}) && [({', '.join(expressions)})]")[0]

    def press(self, key: str) -> None:
        """Press a key, as a person does."""
        name, code, text = _KEYS[key]
        common = {"key": name, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def point(self, selector: str) -> None:
        """Move the pointer to the middle of an element."""
        box = self.ask(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center'});"
            "const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A Chromium for a while.

    Args:
        profile: a folder of its own.
    """
    path = chromium()
    assert path
    (commands, to_chromium), (from_chromium, answers) = os.pipe(), os.pipe()
    process = os.posix_spawn(
        path,
        [
            path,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ],
        os.environ,
        # It reads commands from descriptor 3 and answers on 4.
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, _high(commands), 3),
            (os.POSIX_SPAWN_DUP2, _high(answers), 4),
        ],
    )
    try:
        yield Browser(to_chromium, from_chromium)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(to_chromium)
        os.close(from_chromium)


def _high(descriptor: int) -> int:
    """The same end of a pipe under a number that is not in the way."""
    number = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return number
