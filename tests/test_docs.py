"""README and docs: snippets run, commands parse, links and names resolve, quoted messages are ours."""

import argparse
import ast
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from first_run import FirstRun
from markdown.extensions.toc import slugify
from parsing import uniopd_parser
from tiny import make_model

from docs import hooks  # what `make docs` runs
from lit_uniopd.cli import main
from lit_uniopd.cli.commands import COMMANDS, TRAINER_COMMANDS
from lit_uniopd.cli.early_check import refuse_wrong_options
from lit_uniopd.cli.early_run_check import refuse_vain_run
from lit_uniopd.cli.entry_point import spell_out
from lit_uniopd.cli.error_messages import OneSentenceParser
from lit_uniopd.errors import UserError

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("lit_uniopd", "callbacks", "datamodules")
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    title: str | None
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    name = str(page.relative_to(ROOT))
    return [
        Block(name, found[1], found[2], found[3], text.count("\n", 0, found.start()) + 1)
        for found in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """Without blocks of code and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", page.read_text()), flags=re.DOTALL)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SNIPPETS = [block for block in BLOCKS if block.language == "python" and block.page != "CONTRIBUTING.md"]


def lines_of(block: Block) -> list[str]:
    lines = [line for line in re.sub(r"\\\n\s*", "", block.text).splitlines() if line and not line.startswith("#")]
    if "#SBATCH" in block.text:  # a script: what it starts, without its variables
        return [re.sub(r"\s\$\w+", "", line.removeprefix("srun ")) for line in lines if line.startswith("srun uniopd ")]
    return lines


SHELL = {line: str(block) for block in BLOCKS if block.language == "bash" for line in lines_of(block)}
HEADS = {path: hooks.read_head(path) for path in (p.relative_to(ROOT) for p in sorted(ROOT.glob("configs/**/*.yaml")))}
IN_CONFIGS = {re.sub(r"\\\n\s*", "", line): str(head.path) for head in HEADS.values() for line in head.commands}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, quickstart: FirstRun) -> Iterator[Path]:
    """A directory with what the pages assume: the quickstart's playground, the configs, two models, and their files."""
    root = tmp_path_factory.mktemp("desk")
    quickstart.lend_playground(root)
    (root / "configs").symlink_to(ROOT / "configs")
    for seed, name in enumerate(["my-student", "my-math-expert"]):
        make_model(root / name, seed=seed)
    for block in BLOCKS:
        if block.title is not None:
            (root / block.title).write_text(block.text)
    before = os.getcwd()
    os.chdir(root)
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))
    os.chdir(before)
    for block in BLOCKS:
        sys.modules.pop(str(block.title).removesuffix(".py"), None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # a notebook shows warnings and goes on
@pytest.mark.parametrize("block", SNIPPETS, ids=str)
def test_snippets_run(block: Block, desk: Path):
    exec(compile(block.text, str(block), "exec"), {"__name__": "snippet"})


@pytest.mark.slow
def test_what_the_pages_show_satisfies_a_type_checker(tmp_path):
    """Snippets of README and docs, and the notebooks, as whoever writes their own would have them checked."""
    for block in SNIPPETS:
        name = block.title or f"{Path(block.page).stem}_{block.line}.py"
        (tmp_path / name).write_text(block.text)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [c["source"] for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
        lines = [line for cell in cells for line in ["", *"".join(cell).splitlines()]]
        code = "\n".join(re.sub(r"^(\s*)%.*", r"\1pass", line) for line in lines)
        (tmp_path / f"notebook_{notebook.stem}.py").write_text(code)
    wrong = "from lit_uniopd.modules import UniOPD\nUniOPD(student='a model', teachers={})\n"
    (tmp_path / "wrong.py").write_text(wrong)  # or is nothing checked?
    settings = {"pythonVersion": "3.11", "extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    lenient = {"reportUnusedExpression": False, "reportMissingImports": False}  # a last line that is shown; YOLO
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings | lenient))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [f"{Path(d['file']).name}:{d['range']['start']['line'] + 1} {d['message']}" for d in findings(done.stdout)]
    assert [line for line in said if line.startswith("wrong.py:2 ")], done.stdout + done.stderr
    assert not [line for line in said if not line.startswith("wrong.py")]


def findings(output: str) -> list[Any]:
    """What pyright objects to."""
    return [d for d in json.loads(output)["generalDiagnostics"] if d["severity"] == "error"]


def test_titles_name_one_file_each():
    titles = [block.title for block in BLOCKS if block.title is not None]
    assert len(titles) == len(set(titles))


class Understood(Exception):
    """The arguments were parsed; nothing more is wanted."""


@pytest.fixture(scope="module")
def parser() -> OneSentenceParser:
    """The parser of `uniopd`, built once."""
    return uniopd_parser()


def words_of(line: str) -> list[str]:
    """What stands behind `uniopd`."""
    command = line.replace("-c ... ", "-c configs/sft.yaml ")
    return [word for word in shlex.split(command, comments=True)[1:] if word != "..."]


def understand(line: str, parser: OneSentenceParser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command of `uniopd`, to the end or to its help."""
    arguments = words_of(line)
    try:
        if arguments[0] in COMMANDS:
            with monkeypatch.context() as patch:
                parse = argparse.ArgumentParser.parse_args

                def and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
                    parse(self, *args, **kwargs)
                    raise Understood

                patch.setattr(argparse.ArgumentParser, "parse_args", and_stop)
                importlib.import_module(COMMANDS[arguments[0]].module).main(arguments[1:])
        elif arguments != ["--version"]:  # before any parser
            parser.parse_args(spell_out(arguments))
    except SystemExit as stop:
        if stop.code:
            raise AssertionError(line) from stop
    except Understood:
        pass


COMMAND_LINES = {
    re.sub(r"^torchrun .* -m lit_uniopd ", "uniopd ", line): at for line, at in {**IN_CONFIGS, **SHELL}.items()
}
# A parser that has written a completion parses no more; tests/cli/test_commands.py has that command.
UNIOPD = [line for line in COMMAND_LINES if line.startswith("uniopd ") and "--print_completion" not in line]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(4))
@pytest.mark.thinned(4)
def test_every_command_is_understood(part, parser, desk, monkeypatch, capsys):
    wrong = {}
    for line in UNIOPD[part::4]:
        try:
            understand(line, parser, monkeypatch)
        except Exception as error:
            wrong[f"{COMMAND_LINES[line]}: {line}"] = str(error)
    assert not wrong, json.dumps(wrong, indent=1)
    assert len(UNIOPD) > 60


def test_no_command_is_refused_early(monkeypatch):
    monkeypatch.chdir(ROOT)
    refused = []
    for words in map(words_of, UNIOPD):
        if words[0] in TRAINER_COMMANDS:
            with suppress(UserError):  # of a config that the page has the reader write
                words = spell_out(words)
            refuse_wrong_options(words)
            with monkeypatch.context() as there:
                there.setattr(Path, "exists", lambda _: True)  # the files of the reader's
                refuse_vain_run(words)
            with suppress(UserError):
                refuse_wrong_options([*words, "--trainer.nonsense", "3", "--model.nonsense", "3"])
                continue
            refused.append(words)
    assert len(refused) > 40  # the others ask for help, or end in a flag


@pytest.mark.slow
def test_a_wrong_command_would_be_seen(parser, desk, monkeypatch):
    for line in (
        "uniopd fit -c configs/quickstart.yaml --model.samplin.n 3",
        "uniopd fit -c configs/none.yaml",
        "uniopd view",
    ):
        with pytest.raises((Exception, AssertionError)):
            understand(line, parser, monkeypatch)


def test_other_commands_name_what_is_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line, where in SHELL.items():
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        if words[0] == "make":
            assert words[1] in targets, f"{where}: {line}"
        elif words[0].endswith("python") and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), f"{where}: {line}"
        elif words[:2] == ["python", "-c"]:
            ast.parse(words[2])
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]) or words[2].startswith("sglang"), f"{where}: {line}"
        elif words[0] == "torchrun":
            assert words[words.index("-m") + 1] == "lit_uniopd", f"{where}: {line}"
        else:
            assert words[0] in ("uniopd", "git", "source", "tensorboard", "mkdir", "pip", "vllm"), f"{where}: {line}"


def run_command(start: str) -> None:
    (line,) = [line for line in SHELL if line.startswith(start)]
    main(shlex.split(line)[1:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ones_own_prompts_are_trained_on(desk):
    run_command("uniopd fit -c configs/quickstart.yaml --trainer.logger.name mine")
    assert set(json.loads((desk / "runs/mine/version_0/summary.json").read_text())["after"]) == {"math", "code"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ones_own_parts_are_taken(desk, capsys):
    run_command("uniopd fit -c configs/quickstart.yaml --data my_data.Sums")
    for name in ("capitals", "last_word"):
        with pytest.raises(SystemExit) as done:
            run_command(f"uniopd benchmarks check ./{name}.yaml")
        assert done.value.code == 0
        assert name in capsys.readouterr().out


def anchors_of(page: Path) -> Callable[[str], bool]:
    """Whether a page has an anchor: of a heading, or of an object that `make docs` describes there."""
    text = prose(page)
    headings = {slugify(CODE.sub(r"\1", heading), "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    described = re.findall(r"^::: (\S+)$", text, re.MULTILINE)

    def known(anchor: str) -> bool:
        if anchor in headings:
            return True
        return any(anchor == name or anchor.startswith(name + ".") for name in described) and resolved(anchor)

    return known


def resolved(dotted: str) -> bool:
    """Whether a name can be imported."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if name not in fields and not hasattr(found, name):
                return False
            found = getattr(found, name, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_names_resolve(page: Path):
    text = prose(page)
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path)
        assert file.exists(), target
        assert not anchor or anchors_of(file)(anchor), target
    for code in CODE.findall(text):
        path, _, name = code.partition("::")
        if re.fullmatch(
            r"(\.ci|configs|tests|benchmarks|docs|notebooks|lit_uniopd|callbacks|datamodules)/[\w./-]+", path
        ):
            file = ROOT / path
            assert file.exists() or list(ROOT.glob(f"{path}.*")), code
            assert not name or re.search(
                rf"^\s*(def|class) {name.rpartition('.')[2]}\b", file.read_text(), re.MULTILINE
            ), code
        elif re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", code):
            assert resolved(code), code
    for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE):
        assert resolved(name), name


def test_every_page_is_in_the_navigation():
    shown = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in shown


@pytest.mark.parametrize("package", ["callbacks", "datamodules", "lit_uniopd.functional", "lit_uniopd.modules"])
def test_the_reference_has_every_public_name(package: str):
    page = (ROOT / f"docs/api/{package.rsplit('.')[-1]}.md").read_text()
    described = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    there = importlib.import_module(package)
    for name in there.__all__:
        module = getattr(there, name).__module__
        assert module in described or f"{module}.{name}" in described, name


def test_every_config_is_shown_with_its_command():
    page = (ROOT / "docs/configs.md").read_text()
    shown = [path for folder in hooks.MARK.findall(page) for path in hooks.configs_in(folder)]
    assert sorted(shown) == sorted(HEADS)
    filled = hooks.on_page_markdown(page, None, None, None)
    for path, head in HEADS.items():
        assert head.lines, f"{path} opens with no comment"
        assert head.commands, f"{path} names no command"
        assert f"### {path.relative_to('configs')}\n" in filled
        assert all(command.splitlines()[0] in filled for command in head.commands)


def our_sentences() -> str:
    """Every text in the code, with … for each value."""
    found = []
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%\.?\d*[sdrgf]", "…", node.value))
    return "\n".join(found)


def test_quoted_messages_are_in_the_code():
    ours = our_sentences()
    quoted = re.findall(r"^> (.+)$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    missing = [message for message in quoted if message not in ours]
    assert not missing
    assert len(quoted) >= 20
