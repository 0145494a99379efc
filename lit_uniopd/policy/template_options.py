"""The options of a chat template: which it reads, which are set, and which are left open."""

import re
from typing import Any

from lit_uniopd.policy.chat_template import tokenizer_of

SWITCH = re.compile(r"\b(?:enable_thinking|reasoning_effort|thinking_budget)\b|\bthinking\b(?=\s+is\s+)")
"""Options of the templates of Qwen3, GLM, gpt-oss, Seed-OSS and DeepSeek-V3.1."""
OFF = {"enable_thinking": False, "thinking": False}
"""Values with which a switch asks for what every template without it does."""


def template_text(processor: Any) -> str:
    """The chat template; empty: there is none."""
    template: Any = tokenizer_of(processor).chat_template or getattr(processor, "chat_template", None)
    return "" if template is None else str(template)


def reads(processor: Any, option: str) -> bool:
    """Whether the chat template reads an option of this name."""
    return re.search(rf"\b{re.escape(option)}\b", template_text(processor)) is not None


def unread_options(processor: Any, options: dict[str, Any]) -> list[str]:
    """Options that are set and that the template never reads, but for a switch that is off.

    `enable_thinking: false` of a config for Qwen3 changes nothing for a model that has no such mode, and that is what
    it asks for. With a template that names its switch otherwise it is a mistake.
    """
    switches = switches_of(processor)
    return [
        name
        for name in sorted(options)
        if not reads(processor, name) and (switches or name not in OFF or options[name] != OFF[name])
    ]


def switches_of(processor: Any) -> list[str]:
    """The switches of thinking that the template has."""
    code = " ".join(re.findall(r"{[%{].*?[%}]}", template_text(processor), flags=re.DOTALL))
    return sorted(set(SWITCH.findall(code)))
