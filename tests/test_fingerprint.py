"""Fingerprints: same content gives the same digest, and a comment is no change of code."""

import hashlib
from pathlib import Path

import pytest

from fadepth import fingerprint
from fadepth.fingerprint import canonical_json, code_fingerprint, digest

CODE = '''"""Module."""
import math

SCALE = 0.5


class A:
    """Class."""

    def f(self, x: float) -> float:
        """Function."""
        return SCALE * math.sin(x)  # comment


async def g() -> None:
    """Only a docstring."""
'''


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    one = {"b": [1, 2, {"y": None, "x": True}], "a": 0.1}
    other = {"a": 0.1, "b": [1, 2, {"x": True, "y": None}]}
    assert canonical_json(one) == canonical_json(other) == '{"a":0.1,"b":[1,2,{"x":true,"y":null}]}'
    assert canonical_json([2, 1]) != canonical_json([1, 2])
    assert canonical_json("µ").isascii()


def test_digest_is_the_sha256_of_that_json() -> None:
    text = '{"a":0.1,"b":[1,2]}'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert digest({"b": [1, 2], "a": 0.1}) == expected[:10]
    assert digest({"b": [1, 2], "a": 0.1}, 64) == expected
    # sha256 of the two characters {}, as `printf '{}' | sha256sum` prints it.
    assert digest({}) == "44136fa355"
    assert digest((1, 2)) == digest([1, 2])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fingerprint, "PACKAGE", tmp_path)
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "b.py").write_text("x = 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Module."""', '"""Another text."""'),
        ('"""Module."""\n', ""),
        ('"""Function."""', '"""Better."""'),
        ('    """Class."""\n', "    # no docstring\n"),
        ('"""Only a docstring."""', '"""Only another docstring."""'),
        ("# comment", "# a better comment"),
        ("SCALE * math.sin(x)", "(\n            SCALE * math.sin(x)\n        )"),
        ("SCALE = 0.5\n", "\n\n\nSCALE = 0.50\n"),
    ],
)
def test_words_and_layout_do_not_count(old: str, new: str, package: Path) -> None:
    before = code_fingerprint(["a.py", "b.py"])
    assert old in CODE
    (package / "a.py").write_text(CODE.replace(old, new))
    assert code_fingerprint(["a.py", "b.py"]) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("math.sin", "math.cos"),
        ("SCALE * math", "SCALE + math"),
        ("def f", "def h"),
    ],
)
def test_formulas_count(old: str, new: str, package: Path) -> None:
    before, other = code_fingerprint(["a.py", "b.py"]), code_fingerprint(["b.py"])
    (package / "a.py").write_text(CODE.replace(old, new))
    assert code_fingerprint(["a.py", "b.py"]) != before
    assert code_fingerprint(["b.py"]) == other


def test_order_of_modules_does_not_count_but_their_place_does(package: Path) -> None:
    assert code_fingerprint(["a.py", "b.py"]) == code_fingerprint(["b.py", "a.py"])
    (package / "c.py").write_text(CODE)
    assert code_fingerprint(["a.py"]) != code_fingerprint(["c.py"])


def test_docstrings_of_attributes_do_not_count(package: Path) -> None:
    """The package writes constants as `X = 1` with a string below (models/posenet.py)."""
    (package / "a.py").write_text('X = 1\n"""Old words."""\n')
    before = code_fingerprint(["a.py"])
    (package / "a.py").write_text('X = 1\n"""New words."""\n')
    assert code_fingerprint(["a.py"]) == before
