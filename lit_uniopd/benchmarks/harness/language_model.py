"""Our policy as lm-eval's language model: its tokenisation and truncation, our engines and log-probs."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.models import huggingface
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from torch.nn.utils.rnn import pad_sequence

from lit_uniopd.benchmarks.harness.args import PREFIX
from lit_uniopd.benchmarks.harness.tasks import quiet
from lit_uniopd.errors import UserError
from lit_uniopd.functional.logps import linear_token_logps
from lit_uniopd.functional.projection import Projection, chunks
from lit_uniopd.policy.backbone import head_of, unwrap
from lit_uniopd.policy.chat_template import tokenizer_of
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engines import sample

DECODING = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")
"""What of a task's `generation_kwargs` our engines know, in lm-eval's normal form."""
GREEDY_TOKENS = 256
"""Tokens whose logits are held at a time to see whether each is the most probable one."""


HFLM: Any = huggingface.HFLM
"""Its decorator hides the type."""


@dataclass(frozen=True, slots=True)
class Written:
    """One answer, cut before the first stop sequence."""

    text: str
    tokens: int
    """Up to the end of the stop sequence."""
    finish: str
    """``stop | length``."""


class HarnessModel(HFLM):
    """lm-eval's Hugging Face model without a model of its own.

    Requests are tokenised, cut on the left and rendered by lm-eval's code; log-probs are the policy's, and answers are
    written by its engine.

    Args:
        processor: of the policy.
        config: of its model.
        chat_template_kwargs: further arguments of the chat template.
        task: that asks, for messages.

    Attributes:
        policy: who answers; None: requests are measured only.
        rows: texts of a batch whose log-probs are computed together.
    """

    def __init__(self, processor: Any, config: Any, chat_template_kwargs: dict[str, Any], task: str = "") -> None:
        tokenizer = copy.deepcopy(tokenizer_of(processor))  # lm-eval may give it a token for padding
        if tokenizer.chat_template is None:
            tokenizer.chat_template = getattr(processor, "chat_template", None)
        stand_in: Any = SimpleNamespace(config=config, device=torch.device("cpu"))
        with quiet():
            super().__init__(
                pretrained=stand_in,
                tokenizer=tokenizer,  # type: ignore[arg-type]
                backend="causal",
                chat_template_args=dict(chat_template_kwargs),
            )
        self.policy: Policy | None = None
        self.rows = 64
        self.task = task

    # --- log-probs ---

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probs of continuations, and whether greedy decoding writes them.

        Raises:
            UserError: if a continuation is empty.
        """
        for request in requests:
            if not request.args[1]:
                _refuse_empty(self.task, request.args[0])
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """The same for token ids: a name, the context's and the continuation's."""
        del disable_tqdm, override_bs
        prompts, answers = [], []
        for text, context, continuation in requests:
            if not continuation:
                _refuse_empty(self.task, "" if text is None else text[0])
            if len(continuation) > self.max_length:
                raise UserError(
                    f"Benchmark {PREFIX}{self.task}: a continuation of {len(continuation)} tokens is longer than the "
                    f"{self.max_length} positions of the model; leave the task out or take a model with more."
                )
            prompts.append(context[-(self.max_length + 1 - len(continuation)) :])
            answers.append(continuation)
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]) - len(answers[i]), prompts[i]))
        results: list[tuple[float, bool]] = [(0.0, False)] * len(order)
        for batch in chunks(len(order), self.rows):
            rows = order[batch]
            scored = self._scored([prompts[i] for i in rows], [answers[i] for i in rows])
            for i, result in zip(rows, scored, strict=True):
                results[i] = result
        return results

    def _scored(self, prompts: list[list[int]], answers: list[list[int]]) -> list[tuple[float, bool]]:
        """Sum of log-probs of each answer, and whether each of its tokens is the most probable one."""
        policy = self._answering()
        tokens_BT = pad_sequence([torch.tensor(answer) for answer in answers], batch_first=True).to(policy.device)
        lengths_B = torch.tensor([len(answer) for answer in answers], device=policy.device)
        mask_BT = torch.arange(tokens_BT.shape[1], device=policy.device) < lengths_B[:, None]

        def compute() -> tuple[torch.Tensor, torch.Tensor]:
            head = head_of(policy.model)
            hidden_NH = policy.response_hidden(prompts, tokens_BT, mask_BT)[mask_BT] * head.scale
            tokens_N, projection = tokens_BT[mask_BT], Projection(head.weight_VH, head.bias_V, head.softcap)
            logps_N = linear_token_logps(hidden_NH, head.weight_VH, tokens_N, bias_V=head.bias_V, softcap=head.softcap)
            return logps_N, _most_probable(hidden_NH, projection) == tokens_N

        with policy.gathered(), policy.answering():
            logps_N, greedy_N = policy(compute)
        sizes = lengths_B.tolist()
        return [
            (float(logps.double().sum()), bool(greedy.all()))
            for logps, greedy in zip(logps_N.split(sizes), greedy_N.split(sizes), strict=True)
        ]

    # --- answers ---

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Texts of answers by the loop; see ``write``."""
        del disable_tqdm
        keys = list(range(len(requests)))
        return [written.text for written in self.write(requests, SamplingArgs(engine="loop"), keys, seed=0)]

    def write(
        self,
        requests: Sequence[Any],
        sampling: SamplingArgs,
        keys: Sequence[int],
        *,
        seed: int,
        most_tokens: int = 2**31,
    ) -> list[Written]:
        """Let the policy's engine answer.

        Args:
            requests: `lm_eval.api.instance.Instance` of the kind `generate_until`.
            sampling: whose engine writes; the tasks bring their own decoding settings.
            keys: of the sampling noise, one for each.
            seed: of the sampling noise.
            most_tokens: limit of a profile.

        Raises:
            UserError: if a task asks for decoding that our engines do not know, or for more tokens than the model has.
        """
        settings = [decoding(request.args[1], request.task_name, self.max_gen_toks) for request in requests]
        written: list[Written | None] = [None] * len(requests)
        for setting in {repr(setting): setting for setting in settings}.values():
            rows = [i for i, other in enumerate(settings) if other == setting]
            answers = self._write_alike(
                [requests[i].args[0] for i in rows], setting, sampling, [keys[i] for i in rows], seed, most_tokens
            )
            for i, answer in zip(rows, answers, strict=True):
                written[i] = answer
        return [answer for answer in written if answer is not None]

    def _write_alike(
        self,
        contexts: list[str],
        setting: dict[str, Any],
        sampling: SamplingArgs,
        keys: list[int],
        seed: int,
        most_tokens: int,
    ) -> list[Written]:
        policy = self._answering()
        new_tokens = min(setting["max_gen_toks"], most_tokens)
        args = replace(
            sampling,
            n=1,
            max_new_tokens=new_tokens,
            temperature=setting["temperature"],
            top_p=setting.get("top_p", 1.0),
            top_k=setting.get("top_k", 0),
        )
        with policy.gathered(), policy.answering():
            answers = sample(
                policy.model,
                [self.context_tokens(context, new_tokens) for context in contexts],
                args,
                eos_ids=self._eos_ids(policy),
                pad_id=policy.pad_id,
                seed=seed,
                keys=keys,
                processor=policy.processor,
            )
        until = handle_stop_sequences(list(setting["until"]), self.tok_decode(self.eot_token_id, False))  # type: ignore[arg-type]
        ids = [row[mask].tolist() for row, mask in zip(answers.tokens_BT.cpu(), answers.mask_BT.cpu(), strict=True)]
        return [self._cut(tokens, until, finish) for tokens, finish in zip(ids, answers.finish, strict=True)]

    def context_tokens(self, context: str, new_tokens: int) -> list[int]:
        """Token ids of a context, cut on the left so that an answer fits.

        Raises:
            UserError: if no prompt fits beside so long an answer.
        """
        room = self.max_length - new_tokens
        if room < 1:
            raise UserError(
                f"Benchmark {PREFIX}{self.task}: answers of {new_tokens} tokens leave no room for a prompt in the "
                f"{self.max_length} positions of the model; leave the task out or take a model with more."
            )
        return self._encoded(context)[-room:] or [self.prefix_token_id]

    def _encoded(self, context: str) -> list[int]:
        as_is = has_bos_prefix(context, self.tokenizer.bos_token)
        return self.tokenizer(context, **({"add_special_tokens": False} if as_is else {})).input_ids  # type: ignore[return-value]

    def _cut(self, tokens: list[int], until: list[str], finish: str) -> Written:
        """The answer up to the token with which it holds a stop sequence, as lm-eval's text of it."""

        def stopped(count: int) -> bool:
            text = self.tok_decode(tokens[:count], False)  # type: ignore[arg-type]
            return any(stop and stop in text for stop in until)

        if stopped(len(tokens)):
            low, high = 1, len(tokens)
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if stopped(middle) else (middle + 1, high)
            tokens, finish = tokens[:low], "stop"
        text = postprocess_generated_text(self.tok_decode(tokens), until, None)  # type: ignore[arg-type]
        return Written(text, len(tokens), finish)

    def _eos_ids(self, policy: Policy) -> set[int]:
        """Where transformers' `generate` stops: the chat template's own end of a turn is not asked for by lm-eval."""
        generation: Any = unwrap(policy.model).generation_config
        ids = None if generation is None else generation.eos_token_id
        return {self.eot_token_id, *([] if ids is None else [ids] if isinstance(ids, int) else ids)}

    def _answering(self) -> Policy:
        assert self.policy is not None, "only its tokenizer is there"
        return self.policy

    def measure(self, request: Any, most_tokens: int) -> int:
        """Tokens of a request's context with what is scored, or with the longest answer; the model may have fewer.

        Raises:
            UserError: if nothing would be scored, or the answer leaves no room for a context.
        """
        if request.request_type == "generate_until":
            new_tokens = min(
                decoding(request.args[1], request.task_name, self.max_gen_toks)["max_gen_toks"], most_tokens
            )
            self.context_tokens("", new_tokens)  # refuses answers that leave no room
            return new_tokens + self._length(request.args[0], self.max_length - new_tokens)
        if request.request_type == "loglikelihood" and not request.args[1]:
            _refuse_empty(self.task, request.args[0])
        # The last token is scored and not read; windows of whole texts are never too long.
        return self._length("".join(request.args[:2]), self.max_length) - 1

    def _length(self, text: str, enough: int) -> int:
        """Tokens of a text; the number of its bytes, which is cheap, where that is less."""
        size = len(text.encode()) + 1
        return size if size <= enough else len(self._encoded(text))


def decoding(generation_kwargs: dict[str, Any], task: str | None, default_tokens: int = 256) -> dict[str, Any]:
    """A task's decoding settings in lm-eval's normal form: temperature 0 is greedy.

    Args:
        generation_kwargs: as the task's file has them.
        task: its name, for messages.
        default_tokens: of the longest answer.

    Raises:
        UserError: if they ask for what our engines do not do.
    """
    with quiet():
        settings: dict[str, Any] = dict(normalize_gen_kwargs(dict(generation_kwargs), default_tokens))
    unknown = sorted(name for name, value in settings.items() if name not in DECODING and value is not None)
    if unknown:
        raise UserError(
            f"Benchmark {PREFIX}{task}: its generation_kwargs ask for {', '.join(unknown)}, which our engines do not "
            "do; leave the task out, or take those out of a copy of its file, which is then another protocol."
        )
    temperature = float(settings.get("temperature") or 0.0)
    if settings["do_sample"] and temperature == 0:
        raise UserError(
            f"Benchmark {PREFIX}{task}: its generation_kwargs have do_sample without a temperature above 0, which "
            "samples nothing; give one, or set do_sample: false, in a copy of its file."
        )
    greedy = not settings["do_sample"]
    kept = {name: settings[name] for name in ("top_p", "top_k") if settings.get(name) is not None and not greedy}
    return {
        "until": [stop for stop in settings["until"] if stop],
        "max_gen_toks": int(settings["max_gen_toks"]),
        "temperature": 0.0 if greedy else temperature,
        **kept,
    }


def _most_probable(hidden_NH: torch.Tensor, projection: Projection) -> torch.Tensor:
    """The most probable token ``[N]`` after each hidden state."""
    dtype, weight_VH = projection.compute_dtype(), projection.weight_VH
    head = replace(projection, weight_VH=weight_VH.to(dtype))
    tokens_N = torch.empty(len(hidden_NH), dtype=torch.long, device=hidden_NH.device)
    with torch.autocast(weight_VH.device.type, enabled=False):
        for rows in chunks(len(hidden_NH), GREEDY_TOKENS):
            hidden = hidden_NH[rows].to(dtype)
            tokens_N[rows] = head.fill(hidden.new_empty(len(hidden), len(weight_VH)), hidden).argmax(dim=-1)
    return tokens_N


def _refuse_empty(task: str, context: str) -> None:
    raise UserError(
        f"Benchmark {PREFIX}{task} scores an empty continuation after {context[-60:]!r}, which has no log-prob; mend "
        "its choices or its target."
    )
