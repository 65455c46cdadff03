"""What marks the tests that drive the page in a browser."""

import os

import pytest

from tools.browser import CHROMIUM, DRIVER

NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(not ((CHROMIUM and DRIVER) or os.environ.get("CI")), reason="no chromium and chromedriver here"),
]
