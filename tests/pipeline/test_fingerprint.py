"""Fingerprints of model directories and of reward functions."""

import shutil
from pathlib import Path

import pytest

from bonbon.data.fingerprint import fingerprint_model
from bonbon.rewards.code_fingerprint import fingerprint_source, source_of
from bonbon.rewards.function import load_function

pytestmark = pytest.mark.usefixtures("rewards_importable")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(bytes(3 * 2**20))
    return directory


def test_a_hub_name_has_none(tmp_path: Path) -> None:
    assert fingerprint_model("some/model") is None


def test_a_copy_is_the_same_model(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "README.md").write_text("a card")

    assert fingerprint_model(str(copy)) == fingerprint_model(str(model))


@pytest.mark.parametrize("place", [0, 4095, 3 * 2**20 - 1])
def test_other_weights_are_another_model(model: Path, place: int) -> None:
    before = fingerprint_model(str(model))
    with (model / "model.safetensors").open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\1")

    assert fingerprint_model(str(model)) != before


def test_another_config_is_another_model(model: Path) -> None:
    before = fingerprint_model(str(model))
    (model / "config.json").write_text('{"rope_theta": 1}')

    assert fingerprint_model(str(model)) != before


def test_a_function_that_stands_alone_is_known_by_its_file_wherever_that_is(tmp_path: Path) -> None:
    shutil.copy(
        source_of("digits:total", load_function("digits:total")).files["digits"],
        tmp_path / "figures.py",
    )
    (tmp_path / "wrapped.py").write_text("from figures import total\n")
    alone = fingerprint_source(source_of("figures:total", load_function("figures:total")))

    assert fingerprint_source(source_of("digits:total", load_function("digits:total"))) == alone
    assert fingerprint_source(source_of("wrapped:total", load_function("wrapped:total"))) != alone
    assert fingerprint_source(source_of("math:hypot", load_function("math:hypot"))) is None
