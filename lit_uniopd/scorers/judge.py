"""A judge: a language model behind an OpenAI-compatible endpoint that gives marks."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

import torch

from lit_uniopd.errors import UserError
from lit_uniopd.scorers.base import Scorer, refuse_pictures
from lit_uniopd.types import Rollouts
from lit_uniopd.utils.http import ServerError, Servers

INSTRUCTION = """You are a strict and fair judge. Read the conversation and the answer to its last message.
Judge whether the answer is correct, helpful, complete and honest; length alone is no merit.
Give one short reason. Then end with your mark from 1 (useless or wrong) to 10 (could not be better), in double
brackets, for example [[4]].

<conversation>
{conversation}
</conversation>

<answer>
{answer}
</answer>"""
"""What the judge is asked. `{conversation}` and `{answer}` are filled in."""

MARK = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")


class Judge(Scorer):
    """Asks an OpenAI-compatible server (vLLM, SGLang, or a provider) for a mark from 1 to 10.

    An answer that the judge does not mark has no score.

    Args:
        url: of the API, up to and with `/v1`.
        model: name of the model at the server.
        api_key_variable: environment variable with the key; if it is not set, none is sent.
        instruction: what the judge is asked, with `{conversation}` and `{answer}`.
        max_tokens: of its reply.
        requests: at the same time.
        timeout: seconds for one reply.
        retries: further attempts where the server is busy or does not answer, each after about twice as long a pause.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_variable: str = "OPENAI_API_KEY",
        instruction: str = INSTRUCTION,
        max_tokens: int = 512,
        requests: int = 16,
        timeout: float = 120.0,
        retries: int = 4,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"Judge.url {url} must begin with http:// or https://, and end in /v1.")
        if "{conversation}" not in instruction or "{answer}" not in instruction:
            raise UserError("Judge.instruction must have {conversation} and {answer}.")
        self.url = url.rstrip("/")
        self.model = self.name = model
        self.api_key_variable = api_key_variable
        self.instruction = instruction
        self.max_tokens = max_tokens
        self.requests = requests
        key = os.environ.get(api_key_variable)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.server = Servers([url], timeout=timeout, retries=retries, headers=headers)

    def __call__(self, rollouts: Rollouts, device: torch.device) -> list[float]:
        refuse_pictures(rollouts, f"The judge {self.model}")
        conversations = [
            "\n".join(f"{m['role']}: {m['content']}" for m in prompt.messages) for prompt in rollouts.prompts
        ]
        with ThreadPoolExecutor(self.requests) as pool:
            return list(pool.map(self.mark, conversations, rollouts.text))

    def mark(self, conversation: str, answer: str) -> float:
        """The last mark in the judge's reply; NaN if there is none from 1 to 10.

        Raises:
            UserError: if the server refuses, or cannot be reached.
        """
        # Filled in one pass, so that braces in an answer are left alone.
        values = {"conversation": conversation, "answer": answer}
        question = re.sub(r"\{(conversation|answer)\}", lambda match: values[match[1]], self.instruction)
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0.0,
            "max_tokens": self.max_tokens,
        }
        try:
            reply = self.server.post("/chat/completions", body)
        except ServerError as error:
            raise UserError(
                f"Judge.url {self.url} {error}; check url, model and the key in ${self.api_key_variable}."
            ) from error
        try:
            text = reply["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"Judge.url {self.url} replies with something else than a chat completion; check it."
            ) from error
        marks = [float(mark) for mark in MARK.findall(text)]
        return marks[-1] if marks and 1 <= marks[-1] <= 10 else float("nan")
