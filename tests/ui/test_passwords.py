"""Passwords: which are taken, and how long whoever guesses one waits."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.visitors import page_of
from ui.launch import LaunchError, choose_credentials
from ui.serving.logins import LONGEST_WAIT, Logins
from ui.serving.tenants import SingleTenant


def test_whoever_guesses_waits_longer_and_longer() -> None:
    now = 0.0
    logins = Logins(lambda: now)
    waits = []
    for _ in range(20):
        assert logins.wait("1.2.3.4") == 0
        waits.append(logins.wait("1.2.3.4") if logins._tries["1.2.3.4"][1] > now else 0.0)
        now = max(now, logins._tries["1.2.3.4"][1])
    assert waits[:5] == [0, 0, 0, 1, 2]
    assert waits[-1] == LONGEST_WAIT
    assert logins.wait("5.6.7.8") == 0
    logins.succeed("1.2.3.4")
    assert logins.wait("1.2.3.4") == 0
    for number in range(5):
        logins.wait(f"2001:db8::{number}")
    assert logins.wait("2001:db8::ffff") > 0


def test_wrong_passwords_are_soon_not_looked_at(data_dir: Path) -> None:
    client = TestClient(page_of(SingleTenant(data_dir), data_dir), base_url="http://box.lan:7860")
    answers = [client.post("/login", content=b"wrong").status_code for _ in range(50)]
    assert answers[:4] == [400] * 4
    assert answers.count(429) >= 44
    assert client.post("/login", content=b"right").status_code == 429
    fresh = TestClient(page_of(SingleTenant(data_dir), data_dir), base_url="http://box.lan:7860")
    assert [fresh.post("/login", content=b"right").status_code for _ in range(9)] == [200] * 9


def test_a_short_password_is_refused_and_none_is_made_up() -> None:
    with pytest.raises(LaunchError, match="a password of 11 characters is soon guessed; take 12 or more"):
        choose_credentials("a" * 11, is_open=True)
    first, second = choose_credentials("", is_open=True), choose_credentials("", is_open=True)
    assert first and second and first[1] != second[1] and len(first[1]) >= 20
    assert choose_credentials("a" * 12, is_open=True) == ("apt", "a" * 12)
    assert choose_credentials("", is_open=False) is None
