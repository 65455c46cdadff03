"""The app in headless Chromium, and the words of a person for what can be done there."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from apt_engine.jobs.worker import ROOT
from apt_engine.runs.store import RunStore

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE_SECONDS = 300  # on a machine that does other things as well
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Page:
    """The app in a browser, and the words of a person for what can be done there."""

    browser: webdriver.Chrome
    address: str
    store: RunStore
    process: subprocess.Popen[bytes]

    def until(self, fact: Callable[[], bool]) -> None:
        """Wait for something to become true; elements may be replaced meanwhile."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if fact():
                    return
            except (StaleElementReferenceException, NoSuchElementException):
                pass
            assert time.monotonic() < end, f"it never came; the page says: {self.text('body')[:2000]}"
            time.sleep(0.1)

    def open(self) -> None:
        self.browser.get(self.address)
        self.until(lambda: bool(self.browser.find_elements(By.ID, "train")))

    def text(self, selector: str) -> str:
        return self.browser.find_element(By.CSS_SELECTOR, selector).text

    def find(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def tab(self, name: str) -> None:
        next(button for button in self.find("button[role=tab]") if button.text.strip() == name).click()

    def click(self, selector: str) -> None:
        def pressed() -> bool:
            button = self.browser.find_element(By.CSS_SELECTOR, selector)
            if button.is_displayed() and button.is_enabled():
                # Clear of messages.
                self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
                button.click()
                return True
            return False

        self.until(pressed)

    def drop(self, paths: list[Path]) -> None:
        def dropped() -> bool:
            field = self.browser.find_element(By.CSS_SELECTOR, "#photos input[type=file]")
            field.send_keys("\n".join(map(str, paths)))
            return True

        self.until(dropped)

    def field(self, label: str) -> WebElement:
        place = f"//label[.//span[starts-with(normalize-space(), '{label}')]]"
        slider = f"//input[starts-with(@aria-label, 'number input for {label}')]"
        return self.browser.find_element(By.XPATH, f"{place}//input | {place}//textarea | {slider}")

    def write(self, label: str, words: str) -> None:
        field = self.field(label)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(words)
        self.browser.execute_script("arguments[0].blur()", field)  # Tab would open the list that comes next

    def sentence(self) -> str:
        return self.text("#sentence")

    def pictures_of_grid(self) -> int:
        return len(self.find("#samples img"))

    def toasts(self) -> str:
        return " ".join(toast.text for toast in self.find(".toast-body"))

    def fill_in(self, photos: list[Path], *, steps: int) -> None:
        """Photos, name, number of steps, and samples that are soon drawn, on the Train tab."""
        self.drop(photos)
        self.until(lambda: len(self.find("#photos img.photo")) == len(photos))
        self.click("#photos .remove")
        self.until(lambda: len(self.find("#photos img.photo")) == len(photos) - 1)
        self.drop(photos[:1])
        self.until(lambda: len(self.find("#photos img.photo")) == len(photos))
        self.write("2. What is it?", "car")
        self.browser.find_element(By.XPATH, "//button[.//span[contains(., 'All settings')]]").click()
        self.until(lambda: self.field("Steps").is_displayed())
        self.write("Steps", str(steps))
        self.write("Sample every steps", "20")
        self.write("Sample steps", "5")
        self.until(lambda: f" {steps:,} steps" in self.text(".go"))

    def slow_down(self, milliseconds: int) -> None:
        """Let each answer of the app take so much longer from here on."""
        self.browser.execute_cdp_cmd("Network.enable", {})
        slow = {"offline": False, "latency": milliseconds, "downloadThroughput": -1, "uploadThroughput": -1}
        self.browser.execute_cdp_cmd("Network.emulateNetworkConditions", slow)

    def be_wide(self, width: int) -> None:
        """Let the window be so many px wide; below 500 it is a phone's."""
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def count_clicks(self) -> None:
        """From the next page on, over reloads."""
        listen = "addEventListener('click', (event) => event.isTrusted && localStorage.clicks++, true);"
        script = f"localStorage.clicks ??= 0; {listen}"
        self.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})

    def clicks(self) -> int:
        """How many there were since `count_clicks`."""
        return int(self.browser.execute_script("return localStorage.clicks"))

    def requests(self) -> list[str]:
        """The addresses of everything the browser has asked for since this was last called."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


@contextlib.contextmanager
def serving(data_dir: Path, *arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The app over a data directory: its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--no-browser", "--port", str(port), "--data-dir", str(data_dir)]
    command += arguments
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
    address = f"http://127.0.0.1:{port}/"
    try:
        end = time.monotonic() + PATIENCE_SECONDS
        while not _answers(address):
            assert time.monotonic() < end, "the app does not answer"
            time.sleep(0.1)
        yield address, process
    finally:
        process.terminate()  # Ctrl-C would be ignored where the tests run in the background
        process.wait(PATIENCE_SECONDS)


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser that nobody has used before."""
    assert CHROMIUM, "chromium is missing; install Debian's chromium"
    assert DRIVER, "chromedriver is missing; install Debian's chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    for flag in (*FLAGS, "--window-size=1280,1000", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(service=webdriver.ChromeService(DRIVER), options=options)
    try:
        yield browser
    finally:
        browser.quit()


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Page]:
    """The app and a browser that has opened it."""
    with serving(folder / "data") as (address, process), browsing(folder / "profile") as browser:
        page = Page(browser, address, RunStore(folder / "data"), process)
        page.open()
        yield page


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False
