"""Configs by name, from any directory."""

import os
from pathlib import Path

import pytest

from lit_uniopd.errors import UserError
from lit_uniopd.utils.packaged_configs import config_names, config_path, with_config_paths

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_config_has_a_name():
    assert len(config_names()) == sum(
        len([f for f in files if f.endswith(".yaml")]) for _, _, files in os.walk(CONFIGS)
    )
    for name in config_names():
        for spelling in (name, f"{name}.yaml", f"configs/{name}.yaml", f"./configs/{name}"):
            assert Path(config_path(spelling)).samefile(CONFIGS / f"{name}.yaml")


def test_a_path_that_exists_wins(tmp_path):
    for path in ("quickstart", "configs/quickstart.yaml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("a: 1\n")
        assert config_path(path) == path


def test_only_what_stands_behind_the_option_is_a_config():
    quickstart, cpu = (str(CONFIGS / f"{name}.yaml") for name in ("quickstart", "trainer/cpu"))
    argv = ["fit", "-c", "quickstart", "--config=trainer/cpu", "--model", "quickstart", "--x=quickstart", "-c"]
    assert with_config_paths(argv) == [
        "fit", "-c", quickstart, f"--config={cpu}", "--model", "quickstart", "--x=quickstart", "-c"
    ]  # fmt: skip
    assert with_config_paths(["--config", "seed_everything: 3"]) == ["--config", "seed_everything: 3"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("quikstart", " (did you mean quickstart?)"),
        ("configs/trainer/cpus.yaml", " (did you mean trainer/cpu?)"),
        ("multi_teacher", " (did you mean uni_opd/multi_teacher?)"),
        ("mine.yaml", ""),
    ],
)
def test_an_unknown_name_is_answered_by_a_near_one(name, meant):
    with pytest.raises(UserError) as error:
        config_path(name)
    assert f"nor a config of this name{meant}; mend the path" in str(error.value)
