"""A page of another site, in the same browser as the app: it may link to the page, and that is all."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

from selenium.webdriver.common.by import By

from apt_engine.runs.store import RunStore
from tests.browser import NEEDS_BROWSER
from tests.ui.test_page import tell_a_run
from tools.browser import Page, opened

pytestmark = NEEDS_BROWSER
STRANGER = """<!doctype html><title>stranger</title>
<a href="{address}">a link</a> <a id="picture" href="{picture}">a picture</a>
<img src="{picture}"> <iframe src="{address}"></iframe>
<script src="{address}assets/{script}"></script>
"""
ASK = """
const [url, mode, method, done] = arguments;
fetch(url, {mode, method, credentials: "include"}).then(answer => done(answer.type), () => done("refused"));
"""


@contextlib.contextmanager
def strange_site(page: Page, picture: str) -> Iterator[str]:
    """Another site, by another name of this machine: its address."""
    source = page.browser.find_element(By.CSS_SELECTOR, "script[src*=assets]").get_attribute("src") or ""
    content = STRANGER.format(address=page.address, picture=picture, script=source.rpartition("/")[2]).encode()

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


def test_a_stranger_may_link_to_the_page_and_nothing_else(tmp_path: Path) -> None:
    run = tell_a_run(RunStore(tmp_path / "data"), steps=10)
    with opened(tmp_path) as page:
        picture = f"{page.address}gradio_api/file={run.path}/photos/01.png"
        browser = page.browser
        browser.get(picture)
        assert browser.find_element(By.TAG_NAME, "img").get_property("naturalWidth") == 64
        page.open()
        with strange_site(page, picture) as site:
            browser.get(site)
            assert browser.find_element(By.TAG_NAME, "img").get_property("naturalWidth") == 0
            for path, method in (("pulse?run=", "GET"), ("", "GET"), ("gradio_api/queue/join", "POST")):
                for mode in ("cors", "no-cors"):
                    answer = browser.execute_async_script(ASK, page.address + path, mode, method)
                    assert answer == "refused", (path, mode)  # not even an answer that it may not read
            browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))
            assert "gradio" not in browser.page_source
            browser.switch_to.default_content()
            browser.find_element(By.ID, "picture").click()
            page.until(lambda: "takes no orders from another site" in page.text("body"))
            browser.get(site)
            browser.find_element(By.LINK_TEXT, "a link").click()
            page.until(lambda: bool(page.find("#train")))
