"""From an example to pictures of the kept step, and through the other tabs, without a mouse."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from apt_engine.runs.history import summarize
from tests.browser import NEEDS_BROWSER
from tools.browser import Page, opened

pytestmark = NEEDS_BROWSER
MOST_KEYS = 120
IS_THERE = "return document.activeElement?.matches(arguments[0]) ?? false"
IS_SEEN = (  # by the outline that the style sheet or the browser draws, or by the border of an input
    "const style = getComputedStyle(document.activeElement);"
    "return style.outlineStyle !== 'none' || style.boxShadow !== 'none' || document.activeElement.matches('input')"
)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with opened(tmp_path) as page:
        yield page


def press(page: Page, *keys: str) -> None:
    ActionChains(page.browser).send_keys(*keys).perform()


def go_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus, which must be seen."""
    for _ in range(MOST_KEYS):
        if page.browser.execute_script(IS_THERE, selector):
            assert page.browser.execute_script(IS_SEEN), f"the focus on {selector} cannot be seen"
            return
        press(page, Keys.TAB)
    raise AssertionError(f"{selector} is not reached by Tab; the focus is on {_focused(page)}")


def _focused(page: Page) -> str:
    return str(page.browser.execute_script("return document.activeElement.outerHTML.slice(0, 200)"))


def go_to_tab(page: Page, name: str) -> None:
    """Press Tab until a tab's own button has the focus, then Enter."""
    for _ in range(MOST_KEYS):
        words = "return document.activeElement?.role === 'tab' ? document.activeElement.textContent.trim() : ''"
        if page.browser.execute_script(words) == name:
            press(page, Keys.ENTER)
            return
        press(page, Keys.TAB)
    raise AssertionError(f"the tab {name} is not reached")


def crop_and_caption_the_first_photo(page: Page) -> None:
    whole = page.find("#photos img.photo")[0].get_attribute("src")
    go_to(page, "#photos .frame")
    press(page, Keys.ENTER)
    go_to(page, "dialog.large input[type=range]")
    press(page, *(Keys.ARROW_LEFT,) * 20)
    ActionChains(page.browser).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert page.browser.execute_script(IS_THERE, "dialog.large .square")
    press(page, Keys.ARROW_RIGHT)
    go_to(page, "dialog.large button.close")
    press(page, Keys.ENTER)
    page.until(lambda: page.find("#photos img.photo")[0].get_attribute("src") not in (whole, ""))
    go_to(page, "#photos .captions summary")
    press(page, Keys.ENTER)
    go_to(page, "#photos .captions input")
    press(page, "a {subject} at home", Keys.TAB)
    go_to(page, "#photos .captions summary")
    press(page, Keys.ENTER)


def first_photo(page: Page) -> tuple[str, list[float]]:
    """What it was learnt with: its caption; left and top of its square, and side."""
    (run,) = page.store.list()
    return run.captions[0], run.originals[0][1]


def test_the_whole_way_by_keyboard_alone(page: Page) -> None:
    go_to(page, ".examples button")
    press(page, Keys.ENTER)
    page.until(lambda: len(page.find("#photos img.photo")) == 5)
    crop_and_caption_the_first_photo(page)
    go_to(page, "input[type=radio]:checked")  # one stop a group; arrows choose in it
    press(page, Keys.ARROW_LEFT)
    page.until(lambda: "all 200 steps" in page.text(".go"))
    go_to(page, "#train")
    press(page, Keys.ENTER)
    page.until(lambda: bool(page.store.list()) and summarize(page.store.list()[0]).step >= 2)
    assert first_photo(page) == ("a {subject} at home", pytest.approx([0.02, 0, 0.8], abs=0.01))
    go_to(page, "#stop")
    press(page, Keys.SPACE)
    page.until(lambda: "Stopped at step" in page.sentence())

    go_to(page, "#make-pictures")
    press(page, Keys.ENTER)
    page.until(lambda: page.browser.find_element("id", "generate").is_displayed())
    go_to(page, "#model summary")
    press(page, Keys.ENTER)
    page.until(lambda: bool(page.find("#model .menu[open]")))
    press(page, Keys.ESCAPE)
    page.until(lambda: not page.find("#model .menu[open]"))
    go_to(page, "#checkpoint input")
    ActionChains(page.browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    page.until(lambda: len(page.find("#pictures button.tile")) == 4)
    go_to(page, "#pictures button.tile")
    press(page, Keys.ENTER)
    page.until(lambda: bool(page.find("dialog.large")))
    press(page, Keys.ESCAPE)
    page.until(lambda: not page.find("dialog.large"))

    page.browser.execute_script("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    go_to_tab(page, "Runs")
    page.until(lambda: bool(page.find("#runs input[type=checkbox]")))
    go_to(page, "#runs .menu summary")
    press(page, Keys.ENTER)
    page.until(lambda: bool(page.find("#runs .menu[open]")))
    press(page, Keys.ESCAPE)
    page.until(lambda: not page.find("#runs .menu[open]"))
