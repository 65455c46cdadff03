"""A person's path through the page in headless Chromium: photos, Train, watch, reload, Generate; and a killed engine."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image
from selenium.webdriver.common.by import By

from apt_engine.runs.history import summarize
from tests.browser import NEEDS_BROWSER
from tools.browser import Page, opened

pytestmark = NEEDS_BROWSER


@pytest.fixture
def photos(photo_dir: Path) -> list[Path]:
    return sorted(photo_dir.iterdir())


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with opened(tmp_path) as page:
        yield page


def _engine(page: Page) -> psutil.Process:
    children = psutil.Process(page.process.pid).children(recursive=True)
    return next(child for child in children if "apt_engine.jobs.worker_process" in " ".join(child.cmdline()))


def test_a_person_goes_from_photos_to_pictures(page: Page, photos: list[Path], tmp_path: Path) -> None:
    wrong = tmp_path / "notes.jpg"
    wrong.write_text("no picture")
    page.drop([wrong])
    page.until(lambda: "notes.jpg cannot be opened" in page.text("body"))
    page.click("#train")
    page.until(lambda: "The subject is empty" in page.text("#train-meaning [role=alert]"))
    field = page.field("2. What is it?")
    assert field.get_attribute("list") == "known-words"
    assert len(page.find("#known-words option")) == 40
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
    page.until(lambda: "Trained on your car" in page.sentence())
    page.tab("Train")
    assert page.field("2. What is it?").get_attribute("value") == "car"
    assert len(page.find("#photos img.photo")) == len(photos)

    page.tab("Watch")
    assert page.browser.find_element(By.CSS_SELECTOR, "#diffusers").is_displayed()
    assert not page.find("#kohya")  # no other program has the pocket model

    _draw_two_pictures(page)
    _put_the_run_into_the_bin(page)


def _draw_two_pictures(page: Page) -> None:
    page.tab("Generate")
    page.write("Prompt", " ")
    page.click("#generate")
    page.until(lambda: "The prompt is empty" in page.toasts())
    page.write("Prompt", "a photo of a {subject} on the beach")
    page.write("Pictures", "2")
    page.write("Steps", "4")
    page.click("#generate")
    page.until(lambda: len(page.find("#pictures img")) == 2)
    assert len(list((page.store.data_dir / "generated").rglob("*.png"))) == 2
    page.until(lambda: len(page.find("#history img")) == 2)
    page.open()
    page.tab("Generate")
    page.until(lambda: len(page.find("#history img")) == 2)  # over a reload, as over a restart
    page.click("#history button.tile")
    page.until(lambda: page.field("Steps").get_attribute("value") == "4")


def _put_the_run_into_the_bin(page: Page) -> None:
    page.tab("Runs")
    page.until(lambda: "finished" in page.text("#runs"))

    def is_asked_for() -> bool:  # the table is drawn anew now and then, and its menu is closed then
        button = page.browser.find_element(By.XPATH, "//button[text()='Put into the bin']")
        if not button.is_displayed():
            page.browser.find_element(By.XPATH, "//summary[text()='More']").click()
            return False
        button.click()
        return True

    page.until(is_asked_for)
    page.browser.switch_to.alert.accept()
    page.until(lambda: "Bin (1)" in page.text("#runs"))
    assert page.store.list() == []


def test_two_clicks_to_a_run_and_two_more_to_a_picture(page: Page, tmp_path: Path) -> None:
    page.count_clicks()
    downloads = tmp_path / "downloads"
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    page.open()
    page.click(".examples button")
    page.until(lambda: len(page.find("#photos img.photo")) == 5)
    page.click("#train")
    page.until(lambda: "Learning your" in page.sentence())
    assert page.clicks() == 2
    page.until(lambda: summarize(page.store.list()[0]).step >= 3)
    page.click("#stop")
    page.until(lambda: "Stopped at step" in page.sentence())

    before = page.clicks()
    page.click("#make-pictures")  # one that ends by itself takes no click to stop
    page.click("#generate")
    page.until(lambda: len(page.find("#pictures img")) == 4)
    assert page.clicks() - before == 2
    assert page.text("#pictures").count("teddy bear, kept, seed ") == 4
    page.until(lambda: page.browser.find_element(By.ID, "generate").is_enabled())
    page.open()  # no choice is left from before
    page.slow_down(300)
    page.tab("Generate")
    page.click("#generate")  # at once: it waits until the run is chosen
    page.slow_down(0)
    page.until(lambda: len(page.find("#pictures img")) == 4)
    assert "teddy bear, " in page.text("#pictures")
    page.click("#pictures figcaption a")
    page.until(lambda: bool(list(downloads.glob("*.png"))))
    with Image.open(next(downloads.glob("*.png"))) as picture:
        assert "a photo of a {subject}" in "".join(str(words) for words in picture.info.values())

    for tab, there in (
        ("Train", "#photos img.photo"),
        ("Watch", "#samples img"),
        ("Generate", "#history img"),
        ("Runs", "tr"),
    ):
        page.open()
        page.tab(tab)
        page.until(lambda there=there: bool(page.find(there)))


def test_a_killed_engine_is_told_and_the_run_resumes(page: Page, photos: list[Path]) -> None:
    page.fill_in(photos, steps=3000)
    page.write("Save every steps", "5")
    page.click("#train")
    page.until(lambda: bool(page.store.list()) and summarize(page.store.list()[0]).step >= 6)
    page.browser.switch_to.new_window("tab")
    page.open()
    page.tab("Train")  # while a run trains, a page opens on Watch
    page.until(lambda: page.text("#train") == "Train next: put in line")
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


def test_an_answer_that_comes_late_undoes_no_newer_change(page: Page, photos: list[Path]) -> None:
    page.drop(photos)
    page.until(lambda: len(page.find("#photos img.photo")) == len(photos))
    page.slow_down(800)
    for _ in range(2):  # the second before the answer to the first
        page.click("#photos .remove")
    page.until(lambda: f"{len(photos) - 2} photos" in page.text(".go"))
    assert len(page.find("#photos img.photo")) == len(photos) - 2
