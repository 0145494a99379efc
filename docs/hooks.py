"""What `make docs` adds to the pages: the configs, read from the files themselves, and equations that browsers draw.

`configs.md` has a line ``<!-- configs: FOLDER -->`` for each folder below `configs/`. It becomes one section a file,
with what the head of the file says, its commands, and the file itself. LaTeX in `math` fences and between dollar
signs, which GitHub draws by itself, becomes MathML here: it needs no script and no network.
"""

import html
import re
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parent.parent
EQUATION = re.compile(r'<(div|span) class="arithmatex">\\[(\[](.+?)\\[)\]]</\1>', re.DOTALL)
"""As `pymdownx.arithmatex` leaves it: a paragraph of its own, or within one."""
MARK = re.compile(r"^<!-- configs: (\S+) -->$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Head:
    """The comment that a config opens with."""

    path: Path
    """From the repository's root."""
    lines: tuple[str, ...]
    """Without their comment signs; indented ones are commands and arguments."""

    @property
    def summary(self) -> str:
        """Its first sentence."""
        return re.split(r"(?<!Eq)\.\s|:\n|[.:]$", "\n".join(self.lines), maxsplit=1)[0].replace("\n", " ")

    @property
    def commands(self) -> tuple[str, ...]:
        """As the head has them, or made of what it says that the file stands behind."""
        block = "\n".join(line[2:] if line.startswith("  ") else "" for line in self.lines)
        whole = re.split(r"(?<!\\)\n", block)  # a backslash goes on in the next line
        return tuple(line for line in whole if line.startswith("uniopd ")) or self._behind()

    def _behind(self) -> tuple[str, ...]:
        told = " ".join(self.lines)
        if self.path.parts[1] == "lab":
            return ("make lab",)
        if self.path.parts[1] == "trainer":
            return (f"uniopd fit -c configs/quickstart.yaml -c {self.path}",)
        if self.path.parts[1] == "optimizer":
            return (f"uniopd fit -c configs/uni_opd/multi_teacher.yaml -c {self.path} -c configs/trainer/gpu.yaml",)
        if "any UniOPD config" in told:
            return (f"uniopd fit -c configs/quickstart.yaml -c {self.path}",)
        if named := re.search(r"behind (\w+\.yaml)", told):
            # The base of a preset stands one folder above it.
            base = next(p / named[1] for p in self.path.parents if (ROOT / p / named[1]).is_file())
            verb = "predict" if "uniopd predict" in (ROOT / base).read_text() else "fit"
            return (f"uniopd {verb} -c {base} -c {self.path}",)
        return ()

    def markdown(self) -> str:
        """The head with its commands as code, and one where it has none."""
        parts: list[str] = []
        for indented, lines in groupby(self.lines, lambda line: line.startswith("  ")):
            text = "\n".join(line.removeprefix("  ").rstrip() for line in lines).strip("\n")
            parts.append(f"```bash\n{text}\n```" if indented else text.replace("<", "&lt;"))
        if not any(line.startswith("  ") for line in self.lines):
            parts.append("```bash\n" + "\n".join(self.commands) + "\n```")
        return "\n\n".join(part for part in parts if part)


def read_head(path: Path) -> Head:
    """The head of a config.

    Args:
        path: from the repository's root.
    """
    lines = takewhile(lambda line: line.startswith("#"), (ROOT / path).read_text().splitlines())
    return Head(path, tuple(line[1:].removeprefix(" ") for line in lines))


def configs_in(folder: str) -> list[Path]:
    """The configs of a folder and its `presets/`, from the repository's root; ``.`` is `configs/` itself."""
    root = ROOT / "configs" / folder
    pattern = "*.yaml" if folder == "." else "**/*.yaml"
    return sorted((path.relative_to(ROOT) for path in root.glob(pattern)), key=lambda path: (len(path.parts), path))


def section(path: Path) -> str:
    """One config as Markdown."""
    file = "\n".join("    " + line for line in (ROOT / path).read_text().splitlines())
    return (
        f"### {path.relative_to('configs')}\n\n{read_head(path).markdown()}\n\n"
        f'??? note "{path}"\n\n    ```yaml\n{file}\n    ```\n'
    )


def table(paths: list[Path]) -> str:
    """One line a config."""
    rows = [f"| `{path.relative_to('configs')}` | {read_head(path).summary} |" for path in paths]
    return "\n".join(["| file | what it is |", "|---|---|", *rows])


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs for each page."""

    def filled(mark: re.Match[str]) -> str:
        paths = configs_in(mark[1])
        return "\n\n".join([table(paths), *map(section, paths)])

    return MARK.sub(filled, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs with each page's HTML."""
    return EQUATION.sub(lambda match: mathml(html.unescape(match[2]), block=match[1] == "div"), content)


def mathml(latex: str, *, block: bool) -> str:
    """An equation as MathML, which the search leaves out.

    Args:
        latex: without its fence or dollar signs.
        block: a paragraph of its own.
    """
    drawn = convert(latex.strip(), display="block" if block else "inline")
    tag = "div" if block else "span"
    return f'<{tag} class="{"equation" if block else "symbol"}" data-search-exclude>{drawn}</{tag}>'
