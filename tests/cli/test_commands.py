"""What the shell shows: versions, help, completion."""

import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest

from lit_uniopd.cli import main
from lit_uniopd.cli.commands import COMMANDS, TRAINER_COMMANDS
from lit_uniopd.utils.versions import STACK, versions


def help_text(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code
    return capsys.readouterr().out


def test_versions_of_the_stack_without_loading_it():
    command = [sys.executable, "-X", "importtime", "-m", "lit_uniopd", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = dict(line.rsplit(" ", 1) for line in done.stdout.strip().splitlines())
    assert set(lines) == {"python", *STACK}
    assert lines["torch"] == version("torch")
    assert "torch" not in {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        [],
        ["fitt"],
        ["doctor", "--help"],
        ["export", "--help"],
        ["export"],
        ["fit", "-c", "quickstart", "--model.sampling.nn", "3"],
        ["fit", "--trainr.max_steps", "3"],
    ],
    ids=" ".join,
)
def test_help_and_mistyped_commands_load_no_models(arguments):
    code = (
        "import sys; from lit_uniopd.__main__ import main\ntry: main()\nfinally: "
        "print([m for m in ('torch', 'lightning', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0 if "--help" in arguments else 2, "[]")


def test_what_is_not_installed_says_so():
    assert versions(["no-such-package"])["no-such-package"] == "not installed"


def test_help_names_every_command_with_a_whole_sentence(capsys):
    text = " ".join(help_text(["--help"], capsys).split())
    for name, sentence in {**TRAINER_COMMANDS, **{name: command.help for name, command in COMMANDS.items()}}.items():
        assert f"{name} {sentence}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_of_its_own(name, capsys):
    importlib.import_module(COMMANDS[name].module)
    text = help_text([name, "--help"], capsys)
    assert text.startswith(f"usage: uniopd {name}")
    assert "--help" in text


@pytest.mark.slow
def test_completion_knows_commands_and_flags(tmp_path):
    """In a process of its own: every class that other tests have imported would be asked for its options too."""
    command = [sys.executable, "-m", "lit_uniopd", "--print_completion=shtab-bash"]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (commands,) = [line for line in script.splitlines() if line.startswith("_shtab_uniopd_subparsers=")]
    assert commands == f"_shtab_uniopd_subparsers=({' '.join([*TRAINER_COMMANDS, *COMMANDS])})"
    assert "--trainer.max_steps" in script
    (tmp_path / "completion.bash").write_text(script)
    subprocess.run(["bash", "-n", str(tmp_path / "completion.bash")], check=True)


def test_the_help_of_a_run_begins_with_how_to_call_it(capsys):
    lines = help_text(["fit", "--help"], capsys).splitlines()
    assert lines[0].startswith("usage: uniopd fit -c CONFIG")
    assert TRAINER_COMMANDS["fit"] in "\n".join(lines[:5])
    assert any("--trainer.max_steps" in line for line in lines)


@pytest.mark.slow
def test_own_modules_are_found_in_the_working_directory_and_shadow_nothing(tmp_path):
    """As the installed script runs: the first place to look in is that of the script."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/uniopd"
    script.write_text("from lit_uniopd.__main__ import main\nmain()\n")
    (tmp_path / "my_file.py").write_text("from lit_uniopd.modules import UniOPD\n\n\nclass Mine(UniOPD):\n    pass\n")
    (tmp_path / "datasets.py").write_text("raise RuntimeError('taken for the package')\n")
    command = [sys.executable, str(script), "fit", "--model.help=my_file.Mine"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "my_file.Mine" in done.stdout
    importing = "from lit_uniopd.__main__ import find_own_modules as f; f(); import sys, datasets; print(sys.path)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", importing], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert str(tmp_path) not in done.stdout  # who asks for a safe path keeps it
