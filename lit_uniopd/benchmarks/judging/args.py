"""How answers are judged. Without torch, so that every command can read it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from lit_uniopd.errors import UserError


@dataclass(frozen=True)
class JudgeArgs:
    """Who judges answers that no rule can, and how; the options of `uniopd judge` under their names."""

    judge: str
    """Hub id, directory or `playground:NAME`; with `url` the model's name there."""
    url: str | None = None
    """OpenAI-compatible address, up to and with `/v1`; null: the judge is loaded here, while it judges."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key of `url`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of each request with `url`, else of the model: `{dtype: bfloat16}`."""
    engine: Literal["auto", "loop", "generate", "vllm"] = "auto"
    """That writes replies here."""
    max_tokens: int | None = None
    """Of a reply; null: 1 for log-probs, 16 for a letter or mark, 512 for a list, else 4096."""
    rows: int = 16
    """Questions under way at the same time."""
    benchmark: str | None = None
    """The one that is judged, by name or YAML file; null: each that can be. The answers to the others are exported."""
    baseline: str | None = None
    """Answers to compare with: a file, or another run's directory."""
    template: str | None = None
    """Text or YAML file with another wording, or PACKAGE:PATH of one in an installed package; null: ours."""
    orders: Literal["both", "one"] = "both"
    """Show each pair in both orders, or in a drawn one."""
    verdict: Literal["logprobs", "text"] = "logprobs"
    """AlpacaEval 2: weighted, or as written."""
    length_control: str | None = None
    """AlpacaEval 2: its df_gamed.csv, for the official length control."""
    style_control: bool = False
    """Arena-Hard: also the win rate at the baseline's style."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "rows"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}.")


_OPTION = re.compile(rf"--({'|'.join(f.name for f in fields(JudgeArgs))})\b(?!\.\w+\.)(?:\.path)?")


@contextmanager
def options_named(prefix: str) -> Iterator[None]:
    """Errors name the options of `uniopd judge` as they are called here.

    Args:
        prefix: of each, ``--data.judge.`` say.
    """
    try:
        yield
    except UserError as error:
        raise UserError(_OPTION.sub(lambda match: f"{prefix}{match[1]}", error.args[0])) from error
