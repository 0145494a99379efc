"""Models in GGUF files, the format of llama.cpp: converted once into directories that every part of the house reads.

Weights come out as the numbers that the file stands for, dequantised; training goes on from there.
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from lit_uniopd.errors import UserError, first_line

DIGITS_FIRST = frozenset({"codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder"})
"""Splits of llama.cpp's that take every digit apart and then split as GPT-2 does. Transformers forgets the digits: two
newlines before a number would be other tokens than those that the model has learned."""
OTHER_SPLITS = frozenset(
    {
        *("deepseek-r1-qwen", "falcon-h1", "falcon3", "gpt-4o", "kormo", "lfm2", "llama-bpe", "llama-v3", "llama3"),
        *("llama4", "pixtral", "qwen2", "qwen35", "smaug-bpe", "tekken"),  # as transformers splits them
        *("gpt-2", "jais", "mpt", "olmo", "phi-2"),  # as it splits all others, and these are right so
    }
)
READ_ERRORS = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, NotImplementedError, struct.error)
"""What reading a damaged or strange file ends in."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself."""

    architecture: str
    tokenizer: str
    """`gpt2` for byte-level BPE, `llama` for SentencePiece ..."""
    split: str
    """How byte-level BPE splits a text before it merges; empty: it does not say."""
    parts: int
    """How many files the model is spread over."""
    scales_rope: bool
    """Whether positions are scaled, as for long contexts; transformers reads nothing of it."""


def gguf_files(path: str | Path) -> list[Path]:
    """The GGUF files behind a path: itself, or those of a directory that has no config of transformers'."""
    path = Path(path)
    if path.suffix == ".gguf":
        return [path] if path.is_file() else []
    return sorted(path.glob("*.gguf")) if path.is_dir() and not (path / "config.json").exists() else []


def choose(path: Path) -> Path:
    """The one GGUF file behind a path.

    Raises:
        UserError: if there is none, or more than one.
    """
    files = gguf_files(path)
    if not files:
        raise UserError(f"{path} is no GGUF file and no directory of one; give the path of a file.gguf.")
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{path} has {len(files)} GGUF files; give the path of one of them ({names}).")
    return files[0]


def convert(file: Path, directory: Path, *, dtype: torch.dtype = torch.float32, original: str | None = None) -> None:
    """Write the model of a GGUF file, its tokenizer, chat template and generation config as a directory.

    Args:
        file: the GGUF file.
        directory: where to write.
        dtype: of the written weights.
        original: directory or hub id of the model that the file was made from; config and tokenizer are then those,
            since a GGUF file tells only a part of them. None: as the file tells them.

    Raises:
        UserError: if it cannot be read, or not faithfully.
    """
    header = read_header(file)
    if header.parts > 1:
        raise UserError(
            f"{file} is one of {header.parts} parts; give the file that llama.cpp's `llama-gguf-split --merge "
            "FIRST_PART OUT.gguf` makes of them."
        )
    if original is None:
        _refuse_what_would_differ(file, header)
    source, own_parts = (str(file.parent), {"gguf_file": file.name}) if original is None else (original, {})
    with _as_user_error(file):
        config = AutoConfig.from_pretrained(source, **own_parts)
        tokenizer: Any = AutoTokenizer.from_pretrained(source, **own_parts)
        model = _dequantised(file, config, dtype)
    if original is None and header.split in DIGITS_FIRST:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def read_header(file: Path) -> Header:
    """What a file says of itself.

    Raises:
        UserError: if it is damaged or no GGUF file.
    """
    with _as_user_error(file):
        reader = GGUFReader(file)

        def field(key: str, default: Any) -> Any:
            return reader.fields[key].contents() if key in reader.fields else default

        architecture = field("general.architecture", "")
        tensors = {tensor.name for tensor in reader.tensors}
        scaling = field(f"{architecture}.rope.scaling.type", "none")
        return Header(
            architecture=architecture,
            tokenizer=field("tokenizer.ggml.model", ""),
            split=field("tokenizer.ggml.pre", ""),
            parts=int(field("split.count", 1)),
            scales_rope=scaling != "none" or any(name.startswith("rope_f") for name in tensors),
        )


def _refuse_what_would_differ(file: Path, header: Header) -> None:
    """Refuse a file that transformers would read as another model, in silence."""
    remedy = "name the model it was made from by --original, whose config and tokenizer are then taken"
    if header.scales_rope:
        raise UserError(f"{file} scales its positions, which cannot be read from a GGUF file; {remedy}.")
    if header.tokenizer == "gpt2" and header.split not in DIGITS_FIRST | OTHER_SPLITS:
        split = f"{header.split!r}" if header.split else "nobody says how"
        raise UserError(f"{file} has a tokenizer that splits texts in a way not known here ({split}); {remedy}.")


def _dequantised(file: Path, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A model like any other, with the weights of the file.

    Raises:
        UserError: if the file lacks some.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, config=config, dtype=dtype, output_loading_info=True
    )
    stored, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing:
        raise UserError(f"{file} lacks {len(missing)} tensors of the model ({missing[0]}, say); give a complete file.")
    # What was loaded from GGUF refuses to be saved; a model that was not takes its weights, each by its name.
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(stored.state_dict())
    model.generation_config = stored.generation_config
    return model


@contextmanager
def _as_user_error(file: Path) -> Iterator[None]:
    """Turn what reading ends in into one sentence that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, on the overflow of damaged lengths
            yield
    except UserError:
        raise
    except READ_ERRORS as error:
        with file.open("rb") as content:
            is_gguf = content.read(4) == b"GGUF"
        problem = f"cannot be converted ({first_line(error)})" if is_gguf else "is no GGUF file"
        raise UserError(f"{file} {problem}; give another file, or download it again if it is damaged.") from error
