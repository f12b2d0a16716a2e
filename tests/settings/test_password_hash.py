from __future__ import annotations

import re

import pytest

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.load import check_value
from cyber_inference_tui.settings.password_hash import hashed, is_hash, matches

# By OpenSSL's command: openssl kdf -keylen 32 -kdfopt pass:sesame -kdfopt salt:0123456789abcdef
# -kdfopt n:1024 -kdfopt r:8 -kdfopt p:1 -binary SCRYPT | base64
KNOWN = "$scrypt$ln=10,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$ukX7cyqRoUiS6plgP6hZLHKULzAv50+CTuuzxVC42W8"


def test_a_hash_matches_its_password_alone() -> None:
    password = "öpen sesame"
    stored = hashed(password)
    assert is_hash(stored)
    assert password not in stored
    assert matches(password, stored)
    assert not any(matches(other, stored) for other in ("", "open sesame", password + " ", stored))
    assert hashed(stored) == stored


def test_each_hash_has_its_own_salt() -> None:
    assert hashed("x") != hashed("x")


def test_a_hash_of_another_program_is_known() -> None:
    assert matches("sesame", KNOWN)
    assert not matches("Sesame", KNOWN)


def test_a_password_that_is_no_hash_is_compared_as_it_is() -> None:
    assert matches("öpen", "öpen")
    assert not matches("öpen", "open")
    assert not is_hash("öpen")


@pytest.mark.parametrize(
    "text",
    [
        KNOWN[:-1],
        KNOWN + "\n",
        KNOWN.replace("ln=10", "ln=9"),
        KNOWN.replace("ln=10", "ln=18"),
        KNOWN.replace("r=8", "r=17"),
        KNOWN.replace("p=1", "p=0"),
        "$scrypt$",
    ],
)
def test_a_part_of_a_hash_and_one_that_would_take_too_much_are_no_passwords(text: str) -> None:
    assert not is_hash(text)
    with pytest.raises(ConfigError, match=re.escape("expected a password, or a whole scrypt hash")):
        check_value("admin_password", text)


def test_the_most_expensive_hash_can_be_compared() -> None:
    largest = re.sub(r"ln=.*?\$", "ln=17,r=16,p=1$", KNOWN)
    assert not matches("sesame", largest)
