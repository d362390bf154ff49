"""The run directory: who may work in it, and how what it holds is set aside."""

from pathlib import Path

import pytest

from bonbon.console import Console
from bonbon.errors import ConfigError
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.recipe import Recipe, load_run_recipe


def run_directory(directory: Path) -> RunDirectory:
    return RunDirectory(directory, Recipe(), Console())


def test_a_directory_in_which_nothing_came_about_goes_again(tmp_path: Path) -> None:
    made = run_directory(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), made.opened():
        raise ZeroDivisionError

    assert not (tmp_path / "run").exists()


def test_what_came_about_stays(tmp_path: Path) -> None:
    made = run_directory(tmp_path / "run")
    with made.opened():
        made.write_recipe()

    assert load_run_recipe(tmp_path / "run") == Recipe()


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    made = run_directory(tmp_path / "run")
    with (
        made.opened(),
        pytest.raises(ConfigError, match="in use by another bonbon process"),
        run_directory(tmp_path / "run").opened(),
    ):
        pass


def test_nothing_foreign_is_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with (
        pytest.raises(ConfigError, match=r"holds 'thesis\.tex' and no recipe\.yaml"),
        run_directory(tmp_path).opened(fresh=True),
    ):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_hidden_files_are_no_reason_to_refuse(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    with run_directory(tmp_path).opened():
        pass

    assert (tmp_path / ".DS_Store").exists()


def test_fresh_numbers_what_it_sets_aside(tmp_path: Path) -> None:
    made = run_directory(tmp_path / "run")
    for number in range(3):
        with made.opened(fresh=True):
            made.write_recipe()
            (tmp_path / "run" / f"{number}.txt").touch()

    superseded = tmp_path / "run" / "superseded"
    assert sorted(path.name for path in superseded.iterdir()) == ["1", "2"]
    assert {path.name for path in (superseded / "2").iterdir()} == {"recipe.yaml", "1.txt"}
    assert (tmp_path / "run" / "2.txt").exists()


def test_a_directory_with_nothing_but_what_was_set_aside_is_a_run_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "superseded" / "1").mkdir(parents=True)
    with run_directory(tmp_path).opened():
        pass

    assert (tmp_path / "superseded" / "1").is_dir()


def test_setting_aside_moves_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    made = run_directory(tmp_path)
    kept = made.set_aside(["model", "metrics.json"])

    assert kept is not None
    assert kept == tmp_path / "superseded" / "1"
    assert (kept / "model" / "weights").read_text() == "w"
    assert not (tmp_path / "model").exists()
    assert made.set_aside(["model", "metrics.json"]) is None
