"""From one's own photos to pictures of them: one file choice, one word, three clicks. And captions beside the photos."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from apt_engine.runs.history import summarize
from tests.browser import NEEDS_BROWSER
from tools.browser import Page, opened

pytestmark = NEEDS_BROWSER


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with opened(tmp_path) as page:
        yield page


def test_from_own_photos_with_one_choice_of_files_one_word_and_three_clicks(
    page: Page, photo_dir: Path, tmp_path: Path
) -> None:
    page.count_clicks()
    page.open()
    photos = sorted(photo_dir.iterdir())
    caption = tmp_path / f"{photos[0].stem}.txt"
    caption.write_bytes("a red {subject} at the café".encode("utf-16"))
    stranger = tmp_path / "nobody.txt"
    stranger.write_text("a {subject}")
    page.drop([*photos, caption, stranger])
    page.until(lambda: len(page.find("#photos img.photo")) == len(photos))
    page.until(lambda: "nobody.txt lies beside none of these photos" in page.text("#photos [role=alert]"))
    page.write("2. What is it?", "car")

    # To look at, no click counts.
    page.browser.execute_script("document.querySelector('#photos .captions').open = true")
    brought = ["a red {subject} at the café", "", "", ""]
    page.until(lambda: [field.get_attribute("value") for field in page.find("#photos .captions input")] == brought)
    # By keyboard: the next field has the focus, and keeps it.
    page.find("#photos .captions input")[1].send_keys("a {subject} from behind", Keys.TAB)
    page.until(lambda: page.browser.switch_to.active_element == page.find("#photos .captions input")[2])

    page.click("#train")
    page.until(lambda: bool(page.store.list()) and summarize(page.store.list()[0]).step >= 2)
    run = page.store.list()[0]
    assert run.captions[:3] == ["a red {subject} at the café", "a {subject} from behind", "a photo of a {subject}"]
    before = page.clicks()
    denied = {"permission": {"name": "notifications"}, "setting": "denied"}
    page.browser.execute_cdp_cmd("Browser.setPermission", denied)
    page.click(".bell")
    page.until(lambda: "allow notifications for it" in page.text(".bell"))
    page.click("#stop")  # a run that ends by itself takes none
    page.until(lambda: "Stopped at step" in page.sentence())
    aside = page.clicks() - before
    page.click("#make-pictures")
    page.click("#generate")
    page.until(lambda: len(page.find("#pictures img")) == 4)
    assert page.clicks() - aside == 3
    step = summarize(run).step
    assert {at for at, _ in summarize(run).samples} == {0, step}  # the press of Stop drew the step it stopped at
