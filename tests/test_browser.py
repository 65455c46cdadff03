"""A person's path through the page in headless Chromium: photos, Train, watch, reload, Generate; and a killed engine."""

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

import psutil
import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from apt_engine.runs import RunStore, summarize
from apt_engine.worker import ROOT

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE_SECONDS = 90
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

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not ((CHROMIUM and DRIVER) or os.environ.get("CI")), reason="no chromium and chromedriver here"),
]


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
                self.browser.execute_script(
                    "arguments[0].scrollIntoView({block: 'center'})", button
                )  # clear of messages
                button.click()
                return True
            return False

        self.until(pressed)

    def drop(self, paths: list[Path]) -> None:
        self.browser.find_element(By.CSS_SELECTOR, "#photos input[type=file]").send_keys("\n".join(map(str, paths)))

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
        """Photos, name and number of steps, on the Train tab."""
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
        self.until(lambda: f"at most {steps:,} steps" in self.text(".go"))


@pytest.fixture
def photos(photo_dir: Path) -> list[Path]:
    return sorted(photo_dir.iterdir())


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    assert CHROMIUM, "chromium is missing; install Debian's chromium"
    assert DRIVER, "chromedriver is missing; install Debian's chromium-driver"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--no-browser", "--port", str(port), "--data-dir", str(tmp_path / "data")]
    process = subprocess.Popen(command, cwd=ROOT)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, "--window-size=1280,1000", f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(service=webdriver.ChromeService(DRIVER), options=options)
    address = f"http://127.0.0.1:{port}/"
    page = Page(browser, address, RunStore(tmp_path / "data"), process)
    try:
        page.until(lambda: _answers(address))
        page.open()
        yield page
    finally:
        browser.quit()
        process.terminate()  # Ctrl-C would be ignored where the tests run in the background
        process.wait(20)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def _engine(page: Page) -> psutil.Process:
    children = psutil.Process(page.process.pid).children(recursive=True)
    return next(child for child in children if "apt_engine.worker_child" in " ".join(child.cmdline()))


def test_a_person_goes_from_photos_to_pictures(page: Page, photos: list[Path], tmp_path: Path) -> None:
    wrong = tmp_path / "notes.jpg"
    wrong.write_text("no picture")
    page.drop([wrong])
    page.until(lambda: "notes.jpg cannot be opened" in page.text("body"))
    page.click("#train")
    page.until(lambda: "The subject is empty" in page.toasts())
    assert page.store.list() == []

    page.fill_in(photos, steps=40)
    page.click("#train")
    page.until(lambda: page.pictures_of_grid() > 0)
    before = page.pictures_of_grid()
    page.until(lambda: "step" in page.text("#progress") and page.text("#progress").count("loss") == 1)
    drawn = page.browser.find_element(By.CSS_SELECTOR, "#loss .line").get_attribute("d")
    page.until(lambda: page.browser.find_element(By.CSS_SELECTOR, "#loss .line").get_attribute("d") != drawn)

    page.open()  # a reload in the middle of it
    page.tab("Watch")
    page.until(lambda: "car" in page.sentence())
    page.until(lambda: page.pictures_of_grid() > before)
    page.until(lambda: "It knows your car" in page.sentence())
    page.tab("Train")
    assert page.field("2. What is it?").get_attribute("value") == "car"
    assert len(page.find("#photos img.photo")) == len(photos)

    page.tab("Watch")
    links = {name: page.browser.find_element(By.CSS_SELECTOR, f"#{name}") for name in ("kohya", "diffusers")}
    assert all(link.is_displayed() for link in links.values())

    _draw_two_pictures(page)
    _put_the_run_into_the_bin(page)


def _draw_two_pictures(page: Page) -> None:
    page.tab("Generate")
    page.write("Prompt", " ")
    page.click("#generate")
    page.until(lambda: "The prompt is empty" in page.toasts())
    page.write("Prompt", "a photo of a {subject} on the beach")
    page.write("Count", "2")
    page.write("Steps", "4")
    page.click("#generate")
    page.until(lambda: len(page.find("#pictures img")) == 2)
    assert len(list((page.store.data_dir / "generated").rglob("*.png"))) == 2
    page.until(lambda: len(page.find("#history img")) == 2)


def _put_the_run_into_the_bin(page: Page) -> None:
    page.tab("Runs")
    page.until(lambda: "finished" in page.text("#runs"))
    page.browser.find_element(By.XPATH, "//summary[text()='More']").click()
    page.browser.find_element(By.XPATH, "//button[text()='Put into the bin']").click()
    page.browser.switch_to.alert.accept()
    page.until(lambda: "Bin (1)" in page.text("#runs"))
    assert page.store.list() == []


def test_a_killed_engine_is_told_and_the_run_resumes(page: Page, photos: list[Path]) -> None:
    page.fill_in(photos, steps=3000)
    page.write("Save every steps", "5")
    page.click("#train")
    page.until(lambda: bool(page.store.list()) and summarize(page.store.list()[0]).step >= 6)
    page.browser.switch_to.new_window("tab")
    page.open()
    page.until(lambda: page.text("#train") == "Train: wait for the run")
    assert not page.browser.find_element(By.ID, "train").is_enabled()
    page.tab("Watch")
    page.until(lambda: "Learning your car" in page.sentence())  # the other tab's run

    _engine(page).kill()
    page.until(lambda: "The engine was killed" in page.sentence())
    assert page.process.poll() is None
    page.click("#resume")
    page.until(lambda: "Learning your car" in page.sentence())
    page.click("#stop")
    page.until(lambda: "Stopped at step" in page.sentence())
    summary = summarize(page.store.list()[0])
    assert (summary.state, summary.step >= 5) == ("stopped", True)
