"""The chat that asks for a program."""

from lit_uniopd.benchmarks.spec import PromptFormat
from lit_uniopd.types import Message


def user_turn(prompt: PromptFormat, question: str) -> tuple[Message, ...]:
    """The chat about a question. Braces of the question stay as they are."""
    system = ({"role": "system", "content": prompt.system},) if prompt.system else ()
    return (*system, {"role": "user", "content": prompt.template.replace("{question}", question)})
