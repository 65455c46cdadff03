"""The page as a whole: reachable for everybody, nothing asked of the outside, two visitors of a Space apart."""

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_core_python.base import AXE_SCRIPT
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from apt_engine.runs.events import (
    CheckpointSaved,
    DriftMeasured,
    ExportReady,
    RunFinished,
    RunStarted,
    SampleReady,
    SplitMeasured,
    StepFinished,
)
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from tests.browser import NEEDS_BROWSER
from tests.holding import held
from tools.browser import Page, browsing, opened, serving

pytestmark = NEEDS_BROWSER
TABS = ("Train", "Watch", "Generate", "Runs")
WATCH_SHIFTS = (  # the sum that Chromium calls cumulative layout shift
    "window.shifted = 0; new PerformanceObserver((list) => list.getEntries().forEach((entry) => {"
    "if (!entry.hadRecentInput) window.shifted += entry.value; })).observe({type: 'layout-shift'})"
)
DROP_BESIDE = """
const canvas = document.createElement("canvas");
canvas.getContext("2d").fillRect(10, 10, 80, 80);
canvas.toBlob((blob) => {
  const carried = new DataTransfer();
  carried.items.add(new File([blob], "beside.png", { type: "image/png" }));
  document.querySelector("h1").dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
});
"""
HOLD_BACK = """
const ask = window.fetch, allowed = new Promise((resolve) => { window.letGo = resolve; });
window.fetch = async (address, ...more) => {
  if (String(address).includes("queue/join")) await allowed;
  return ask(address, ...more);
};
"""
RUN_AXE = (
    "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then((all) => done(all.violations))"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page with a finished run, so that every tab has something to show."""
    folder = tmp_path_factory.mktemp("page")
    tell_a_run(RunStore(folder / "data"))
    with opened(folder) as page:
        yield page


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), "teal").save(path)


def step_of(step: int, steps: int) -> StepFinished:
    """One of a run of so many steps, with an indicator that grows."""
    return StepFinished(
        step=step,
        loss=0.1,
        reference_loss=0.15,
        stabilization=0.2,
        alignment=0.1,
        gradient_norm=1,
        learning_rate=1e-3,
        seconds=0.2,
        gamma=tuple(min(0.99, step / steps * (1.2 - row / 10)) for row in range(10)),
        chances=(0.5,),
    )


def tell_a_run(store: RunStore, steps: int = 60) -> Run:
    """A finished run whose events were made up."""
    config = TrainingConfig(subject="teddy bear", steps=steps)
    run = store.create(config, lambda folder: picture(folder / "01.png"))
    run.append(
        RunStarted(run=run.id, base="pocket", subject="teddy bear", photo_count=1, first_step=0, last_step=steps)
    )
    for step in range(1, steps + 1):
        run.append(step_of(step, steps))
    for step in range(0, steps + 1, 10):
        picture(run.path / f"samples/{step:06d}-0.png")
        run.append(SampleReady(step=step, index=0, prompt="a photo", seed=0, path=f"samples/{step:06d}-0.png"))
        run.append(DriftMeasured(step=step, drift=step / 1000))
    run.save_checkpoint(steps, lambda folder: (folder / "lora.safetensors").touch())
    run.append(CheckpointSaved(step=steps, path=f"checkpoints/{steps:06d}"))
    (run.path / "exports").mkdir()
    (run.path / "exports" / "bear.safetensors").write_bytes(b"weights")
    run.append(ExportReady(step=steps, layout="kohya", path="exports/bear.safetensors", keys=1, difference=0.0))
    run.append(RunFinished(step=steps, reason="Done.", is_complete=True, seconds=9, peak_memory_bytes=1))
    return run


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_tab(page: Page, theme: str) -> None:
    page.browser.get(f"{page.address}?__theme={theme}")
    page.until(lambda: bool(page.find("#train")))
    found = []
    for tab in TABS:
        page.tab(tab)
        page.until(lambda tab=tab: len([panel for panel in page.find("[role=tabpanel]") if panel.is_displayed()]) == 1)
        if tab == "Watch":
            page.until(lambda: "Trained on your teddy bear" in page.sentence())
        page.browser.execute_script(AXE_SCRIPT)
        for width in (390, 1280):
            page.be_wide(width)
            violations = page.browser.execute_async_script(RUN_AXE)
            found += [
                (theme, tab, width, violation["id"], violation["nodes"][0]["html"][:200])
                for violation in violations
                if violation["impact"] in ("serious", "critical")
            ]
    assert found == []


def test_a_long_prompt_is_whole_when_the_window_gets_narrow(page: Page) -> None:
    page.open()
    page.tab("Generate")
    page.until(lambda: page.field("Prompt").is_displayed())
    page.write("Prompt", "a photo of a {subject} on the beach at sunset, with a sailing boat far away and some gulls")
    measure = """const done = arguments[1], box = arguments[0];
    requestAnimationFrame(() => requestAnimationFrame(() => done([box.clientHeight, box.scrollHeight])))"""
    wide, _ = page.browser.execute_async_script(measure, page.field("Prompt"))
    page.be_wide(390)
    seen, whole = page.browser.execute_async_script(measure, page.field("Prompt"))
    page.be_wide(1280)
    page.write("Prompt", "a photo")  # the form is kept over a reload
    assert seen > 1.5 * wide
    assert whole <= seen + 2  # its border


def test_a_tab_pressed_before_the_page_knows_that_a_run_trains_stays(page: Page) -> None:
    def open_tabs() -> list[str]:
        return [tab.text.strip() for tab in page.find("button[role=tab][aria-selected=true]")]

    (run,) = page.store.list()
    with held(page.store, run.id):
        page.open()
        page.until(lambda: open_tabs() == ["Watch"])
        script = page.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": HOLD_BACK})
        page.open()
        page.tab("Train")
        assert not page.find("h1[data-opens=watch]")
        page.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
        page.browser.execute_script("window.letGo()")
        page.until(lambda: bool(page.find("h1[data-opens=watch]")))
        page.browser.execute_async_script("setTimeout(arguments[0], 500)")  # a jump comes at once after the answer
        assert open_tabs() == ["Train"]


def test_the_samples_are_slid_through_and_compared_large(page: Page) -> None:
    page.open()
    page.tab("Watch")
    page.until(lambda: len(page.find("#samples td img")) == 3)
    slider = page.browser.find_element(By.CSS_SELECTOR, "#samples input[type=range]")
    page.browser.execute_script(
        "arguments[0].value = 5; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", slider
    )
    page.until(lambda: "step 50" in page.text("#samples th.chosen"))
    page.click("#samples button.tile")
    page.until(lambda: len(page.find("dialog.large img")) == 2)
    shown = [image.get_attribute("src") or "" for image in page.find("dialog.large img")]
    assert [re.findall(r"(\d{6})-0", source)[-1] for source in shown] == ["000000", "000060"]
    page.click("dialog.large .close")
    page.until(lambda: page.find("dialog.large") == [])


def test_the_pointer_reads_values_off_a_plot_and_a_click_moves_the_samples_there(page: Page) -> None:
    page.open()
    page.tab("Watch")
    page.until(lambda: len(page.find("#samples td img")) == 3)
    pointer = ActionChains(page.browser)
    drift = page.browser.find_element(By.CSS_SELECTOR, "#drift svg")
    pointer.move_to_element(drift).perform()  # its middle
    page.until(lambda: page.text("#pointed") == "step 30\ndrift 0.0300")
    cell = page.browser.find_element(By.CSS_SELECTOR, "#indicator rect[data-step='20']")
    pointer.move_to_element(cell).perform()
    page.until(lambda: page.text("#pointed").startswith("step 20, noise levels 0 to 99: 0.40"))
    cell.click()
    page.until(lambda: "step 20" in page.text("#samples th.chosen"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_ticked_box_looks_ticked_and_a_thumb_stands_out(page: Page, theme: str) -> None:
    page.browser.get(f"{page.address}?__theme={theme}")
    page.until(lambda: bool(page.find("#train")))
    page.tab("Runs")
    page.until(lambda: bool(page.find(".runs-root input")))
    box = page.browser.find_element(By.CSS_SELECTOR, ".runs-root input")
    clear = _ink(box)
    box.click()

    def is_ticked_under_a_pointer_at(selector: str) -> bool:
        ActionChains(page.browser).move_to_element(page.browser.find_element(By.CSS_SELECTOR, selector)).perform()
        return _ink(page.browser.find_element(By.CSS_SELECTOR, ".runs-root input")) > clear + 0.2

    for pointed_at in (".runs-root input", "h1.brand"):  # the table is drawn anew meanwhile
        page.until(lambda pointed_at=pointed_at: is_ticked_under_a_pointer_at(pointed_at))
    page.click(".runs-root input")
    page.tab("Generate")
    slider = page.browser.find_element(By.XPATH, "//input[@type='range'][contains(@aria-label, 'LoRA strength')]")
    page.until(slider.is_displayed)
    height = _ink(slider.find_element(By.XPATH, ".."), slider)
    assert height > slider.size["height"]  # the thumb, half way along the track


def _ink(element: WebElement, above: WebElement | None = None) -> float:
    """The share of an element's pixels that differ clearly from its corner; their count on the middle of another's if `above`."""
    picture = Image.open(io.BytesIO(element.screenshot_as_png)).convert("L")
    corner = picture.getpixel((0, 0))
    assert isinstance(corner, int)
    if above:
        x = round(above.rect["x"] + above.rect["width"] / 2 - element.rect["x"])
        picture = picture.crop((x, 0, x + 1, picture.height))
    counts = picture.histogram()
    count = sum(counts[shade] for shade in range(256) if abs(shade - corner) > 60)
    return count if above else count / (picture.width * picture.height)


def test_a_photo_dropped_beside_the_zone_is_taken(page: Page) -> None:
    page.open()
    page.tab("Train")
    page.browser.execute_script(DROP_BESIDE)
    page.until(lambda: [image.get_attribute("alt") for image in page.find("#photos img.photo")] == ["beside.png"])
    page.click("#photos .remove")  # the form is kept over a reload
    page.until(lambda: page.find("#photos img.photo") == [])


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_moves_while_a_run_goes_on_and_ends(page: Page, width: int) -> None:
    page.be_wide(width)
    run = page.store.create(TrainingConfig(subject="duck", steps=60), lambda folder: None)
    run.append(RunStarted(run=run.id, base="pocket", subject="duck", photo_count=5, first_step=0, last_step=60))
    page.open()
    page.tab("Watch")
    page.until(lambda: "interrupted" in page.sentence())
    page.browser.execute_script(WATCH_SHIFTS)
    for step in range(1, 61):
        run.append(step_of(step, 60))
        if step % 20 == 0:
            run.append(
                SplitMeasured(step=step, cells=(), gains=(), shots=0.3, views=0.2, kept_step=20, message="It learns.")
            )
            run.append(DriftMeasured(step=step, drift=0.001))
            picture(run.path / f"samples/{step:06d}-0.png")
            run.append(SampleReady(step=step, index=0, prompt="a photo", seed=0, path=f"samples/{step:06d}-0.png"))
            run.save_checkpoint(step, lambda folder: (folder / "lora.safetensors").touch())
            run.append(CheckpointSaved(step=step, path=f"checkpoints/{step:06d}"))
            page.until(lambda step=step: f"last saved: step {step}" in page.text("#progress"))
    run.append(RunFinished(step=60, reason="Enough.", is_complete=True, seconds=9, peak_memory_bytes=1))
    page.until(lambda: "Enough. Step 20 is kept." in page.sentence())
    page.until(lambda: page.browser.find_element(By.ID, "make-pictures").is_displayed())
    assert page.browser.execute_script("return window.shifted") <= 0.1
    assert len(page.find("path.kept")) >= 4
    shutil.rmtree(run.path)  # the other tests look at the first run
    page.be_wide(1280)


def test_the_browser_asks_nothing_of_the_outside(page: Page) -> None:
    page.requests()
    page.open()
    for tab in TABS:
        page.tab(tab)
        page.until(lambda: len([panel for panel in page.find("[role=tabpanel]") if panel.is_displayed()]) == 1)
    asked = page.requests()
    assert len(asked) > 10
    outside = [url for url in asked if not url.startswith((page.address, "data:", "blob:", "chrome"))]
    assert outside == []


def test_the_page_works_under_its_own_policy(page: Page) -> None:
    # The page that is left complains of its cut streams, at times; what it says is read before the next one opens.
    page.browser.get("about:blank")
    page.browser.get_log("browser")
    page.open()
    for tab in TABS:
        page.tab(tab)
        page.until(lambda: len([panel for panel in page.find("[role=tabpanel]") if panel.is_displayed()]) == 1)
    assert [entry["message"] for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_two_visitors_of_a_space_do_not_see_each_other(tmp_path: Path, photo_dir: Path) -> None:
    with (
        serving(tmp_path / "data", SPACE_ID="me/apt") as (served_at, process),
        browsing(tmp_path / "ada") as ada_browser,
        browsing(tmp_path / "bob") as bob_browser,
    ):
        address = served_at.replace("127.0.0.1", "localhost")  # where a browser keeps a Secure cookie without TLS
        store = RunStore(tmp_path / "data")
        ada, bob = (Page(browser, address, store, process) for browser in (ada_browser, bob_browser))
        for visitor in (ada, bob):
            visitor.open()
        photos = sorted(photo_dir.iterdir())
        ada.drop(photos)
        ada.until(lambda: len(ada.find("#photos img.photo")) == len(photos))
        ada.until(lambda: all(image.get_property("naturalWidth") for image in ada.find("#photos img.photo")))
        source = ada.find("#photos img.photo")[0].get_attribute("src") or ""
        bob.browser.get(source)
        assert "serves pictures and LoRA files only" in bob.text("body")
        folders = [folder for folder in (tmp_path / "data" / "visitors").iterdir() if folder.name != "nobody"]
        tell_a_run(RunStore(next(folder for folder in folders if (folder / "uploads").exists())))
        for visitor, sees in ((ada, True), (bob, False)):
            visitor.open()
            visitor.tab("Runs")
            visitor.until(lambda visitor=visitor: "run" in visitor.text("#runs") or "subject" in visitor.text("#runs"))
            visitor.until(lambda visitor=visitor, sees=sees: ("teddy bear" in visitor.text("#runs")) is sees)
        _stop_drawing(bob)


def _stop_drawing(visitor: Page) -> None:
    """Stop is the visitor's own, not that of whoever the page was built for."""
    visitor.tab("Generate")
    visitor.until(lambda: visitor.field("Steps").is_displayed())
    visitor.write("Steps", "50")  # the most that a guest may ask for
    visitor.write("Pictures", "8")
    visitor.click("#generate")
    visitor.until(lambda: visitor.text("#drawing").startswith("Drawing"))
    visitor.click("#stop-drawing")
    visitor.until(lambda: visitor.browser.find_element(By.ID, "generate").is_enabled())
    assert len(visitor.find("#pictures img")) < 8
