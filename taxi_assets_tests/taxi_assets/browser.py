"""Chromium over its DevTools protocol: pages opened, clicked, sized and read as people do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from taxi_assets_tests.waiting import until

SECONDS = 60
BROKEN = "[...document.images].filter((one) => !one.naturalWidth).map((one) => one.alt)"
# The contrast of each text with what lies behind it (WCAG 2.2, 1.4.3), as [contrast, text].
CONTRASTS = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const painted = (color, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return "rgb(" + canvas.getImageData(0, 0, 1, 1).data.slice(0, 3).join(" ") + ")";
  };
  const behind = (one) => one
    ? painted(getComputedStyle(one).backgroundColor, behind(one.parentElement)) : paper;
  const light = (color) => color.match(/\\d+/g).map((one) => one / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.backgroundColor = "Canvas";
  const paper = getComputedStyle(probe).backgroundColor;
  probe.remove();
  const texts = [...document.body.querySelectorAll("*")].filter((one) => one.checkVisibility()
    && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return texts.map((one) => {
    const style = getComputedStyle(one), under = behind(one);
    const ink = one instanceof SVGElement ? style.fill : style.color;
    const two = [light(painted(ink, under)), light(under)].sort((a, b) => b - a);
    return [(two[0] + 0.05) / (two[1] + 0.05), one.textContent.trim().slice(0, 60)];
  });
})()"""
AA = 4.5
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class Browser:
    """A running browser. What it answers to one question is read before the next is asked."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._asked = 0
        self.exceptions: list[str] = []

    def ask(self, method: str, session: str | None = None, **given: Any) -> Any:
        self._asked += 1
        asked = {"id": self._asked, "method": method, "params": given}
        self._connection.send(json.dumps(asked | ({"sessionId": session} if session else {})))
        while True:
            said = json.loads(self._connection.recv(timeout=SECONDS))
            if said.get("method") == "Runtime.exceptionThrown":
                self.exceptions.append(json.dumps(said["params"]["exceptionDetails"]))
            if said.get("id") == self._asked:
                assert "error" not in said, said["error"]
                return said["result"]

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A page without cookies of others; no script of it may raise what nobody catches."""
        context = self.ask("Target.createBrowserContext")["browserContextId"]
        target = self.ask("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        made = Page(self, attached["sessionId"])
        made.ask("Runtime.enable")
        self.exceptions.clear()
        yield made
        made.evaluate("1")  # reads what has been said until now
        self.ask("Target.disposeBrowserContext", browserContextId=context)
        assert self.exceptions == []


class Page:
    """One page of a browser. Scripts are JavaScript expressions."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def ask(self, method: str, **given: Any) -> Any:
        return self._browser.ask(method, self._session, **given)

    def open(self, address: str) -> None:
        assert "errorText" not in self.ask("Page.navigate", url=address), address
        self.until("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = SECONDS) -> Any:
        try:
            return until(lambda: self.evaluate(script), seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {script}\n{self.text()[:2000]}") from None

    def shows(self, words: str) -> None:
        """Waits for these words."""
        self.until(f"(document.body?.innerText ?? '').includes({json.dumps(words)})")

    def text(self) -> str:
        return str(self.evaluate("document.body?.innerText ?? ''"))

    def html(self) -> str:
        return str(self.evaluate("document.documentElement.outerHTML"))

    def links(self) -> list[str]:
        """Where its links lead, each once."""
        found = self.evaluate("[...document.querySelectorAll('a[href]')].map((a) => a.href)")
        return list(dict.fromkeys(found))

    def click(self, words: str, of: str = "a, button") -> None:
        """Clicks the first that says these words, once it is there and can be clicked."""
        found = (
            f"[...document.querySelectorAll({json.dumps(of)})].find((one) =>"
            f" !one.disabled && one.innerText.includes({json.dumps(words)}))"
        )
        self.until(f"Boolean({found})")
        self.evaluate(f"{found}.click()")

    def faint(self) -> list[list[Any]]:
        """Texts whose contrast is below AA, with it."""
        found = self.evaluate(CONTRASTS)
        assert found, "no text"
        return [each for each in found if each[0] < AA]

    def look(self, width: int, dark: bool = False) -> None:
        """Looked at on a screen so many pixels wide, light or dark."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])


@contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in the folder; skips where none is installed."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no browser: Chromium is not installed (Debian: apt-get install chromium)")
    # A proxy of the environment is not for pages of this machine.
    quiet = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    where = folder / "DevToolsActivePort"
    command = [program, *OPTIONS, "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "about:blank"], env=quiet, stdout=log, stderr=log)
    try:
        until(lambda: where.exists() and where.read_text().count("\n"), SECONDS)
        port, path = where.read_text().split()
        address = f"ws://127.0.0.1:{port}{path}"
        with connect(address, max_size=None, proxy=None) as connection:
            yield Browser(connection)
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The one browser of a run of tests."""
    with running(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page."""
    with browser.page() as made:
        yield made
