"""Named teachers: each sample is scored by the one that its prompt is routed to."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_uniopd.errors import UserError
from lit_uniopd.loading import load_processor
from lit_uniopd.microbatch import token_budget_batches
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.progress import bar
from lit_uniopd.prompting import EncodedPrompt, tokenizer_of
from lit_uniopd.rollout import write_answers
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import Prompt, Rollouts

log = logging.getLogger(__name__)

_Work = tuple[str, list[EncodedPrompt], list[int]]

DEFAULT = "default"
"""A teacher of this name takes every prompt that names no teacher and whose domain has none of its own."""


class TeacherPool:
    """Frozen teachers by name.

    Deliberately not an ``nn.Module``: teachers must reach neither the optimizer, nor a checkpoint, nor a wrapper that
    synchronises gradients.

    Args:
        args: name -> where the teacher comes from.

    Attributes:
        failures: why answers of the last ``score`` were not scored -> how many.
    """

    def __init__(self, args: Mapping[str, PolicyArgs]) -> None:
        self.args = dict(args)
        self.failures: Counter[str] = Counter()
        self._policies: dict[str, Policy] = {}
        self._foreign_ids: dict[str, Tensor] = {}

    @property
    def names(self) -> list[str]:
        return list(self.args)

    def __getitem__(self, name: str) -> Policy:
        return self._policies[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.args)

    def __len__(self) -> int:
        return len(self.args)

    def route(self, prompt: Prompt) -> str:
        """Name of the teacher for a prompt: its ``teacher``, else the one named like its domain, else ``default``.

        Raises:
            UserError: if there is no such teacher. A fallback would distil the wrong model without a word.
        """
        for name in (prompt.teacher,) if prompt.teacher is not None else (prompt.domain, DEFAULT):
            if name in self.args:
                return name
        wanted = f"teacher {prompt.teacher!r}" if prompt.teacher is not None else f"domain {prompt.domain!r}"
        raise UserError(
            f"Prompt {prompt.id!r} has {wanted}, but --model.teachers has only {', '.join(self.args)}; add a teacher "
            f"of that name, or one called '{DEFAULT}'."
        )

    def routes(self, prompts: Iterable[Prompt]) -> Counter[str]:
        """How many prompts go to each teacher; checks every route."""
        return Counter(self.route(prompt) for prompt in prompts)

    def load(self, student: Policy) -> list[str]:
        """Load every teacher that is not loaded yet, after comparing all tokenizers with the student's.

        Returns:
            Names of those that were loaded now.

        Raises:
            UserError: naming the teacher, if it cannot be had or speaks other tokens.
        """
        for name, args in self.args.items():
            flag = f"model.teachers.{name}"
            tokenizer = tokenizer_of(load_processor(args, flag))
            self._foreign_ids[name] = foreign_ids(student.tokenizer, tokenizer, name)
        new = [name for name in self.args if name not in self._policies]
        for name in new:
            self._policies[name] = Policy.load(self.args[name], trainable=False, flag=f"model.teachers.{name}")
        return new

    def to(self, device: torch.device) -> None:
        """Move every teacher; quantised ones stay where bitsandbytes put them."""
        for policy in self._policies.values():
            if policy.args.quantization == "none":
                policy.to(device)

    def score(self, rollouts: Rollouts, *, temperature: float, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Log-prob of every sampled token under its prompt's teacher.

        Each teacher reads the prompt in its own chat template; only the response tokens are shared.

        Args:
            rollouts: what the student wrote.
            temperature: the student's sampling temperature, applied to the teacher alike.
            max_tokens: token budget of one forward pass.

        Returns:
            ``teacher_logps_BT`` (float32, 0 in padding and where scoring failed) and ``teacher_ok_B``, which is False
            for answers that hold a token unknown to the teacher, or that got too many or too few log-probs, or one that
            is not finite, or none in time. ``failures`` counts them by reason.
        """
        self.failures = Counter()
        logps_BT = torch.zeros_like(rollouts.student_logps_BT)
        ok_B = torch.ones(len(rollouts), dtype=torch.bool, device=logps_BT.device)
        work = self._work(rollouts, max_tokens)
        for name, prompts, rows in self._in_turn(work):
            part, teacher = rollouts[rows], self._policies[name]
            foreign_B = (torch.isin(part.tokens_BT.cpu(), self._foreign_ids[name]) & part.mask_BT.cpu()).any(dim=1)
            tokens_BT = part.tokens_BT.masked_fill(foreign_B[:, None].to(part.tokens_BT.device), 0)
            found_BT, problem = self._ask(teacher, prompts, tokens_BT, part.mask_BT, temperature)
            if found_BT is None:
                ok_B[rows] = False
                self.failures[f"{name}, {problem}"] += len(rows)
                continue
            found_BT, foreign_B = found_BT.to(logps_BT.device), foreign_B.to(logps_BT.device)
            finite_B = found_BT.isfinite().all(dim=1)
            good_B = finite_B & ~foreign_B
            logps_BT[rows, : found_BT.shape[1]] = found_BT.masked_fill(~good_B[:, None], 0.0).to(logps_BT.dtype)
            ok_B[rows] = good_B
            self.failures[f"{name}, tokens it does not know"] += int(foreign_B.sum())
            self.failures[f"{name}, log-probs that are not finite"] += int((~finite_B & ~foreign_B).sum())
        self.failures = +self.failures
        return logps_BT, ok_B

    def _ask(
        self, teacher: Policy, prompts: list[EncodedPrompt], tokens_BT: Tensor, mask_BT: Tensor, temperature: float
    ) -> tuple[Tensor | None, str]:
        """Log-probs of one forward pass, or why there are none. A teacher may be a server that does not answer."""
        try:
            with teacher.answering():
                found_BT, _ = teacher.token_logps(
                    [prompt.tokens for prompt in prompts],
                    tokens_BT,
                    mask_BT,
                    vision=[prompt.vision for prompt in prompts],
                    temperature=temperature,
                )
        except (TimeoutError, ConnectionError) as error:
            return None, f"no answer ({type(error).__name__})"
        if found_BT.shape != mask_BT.shape:
            return None, "too many or too few log-probs"
        return found_BT, ""

    def write(
        self,
        student: Policy,
        prompts: Sequence[Prompt],
        args: SamplingArgs,
        *,
        seed: int,
        keys: Sequence[int] | None = None,
    ) -> Rollouts:
        """Let each prompt's teacher answer it, for distillation off-policy; not graded and not scored yet.

        Args:
            student: reads the prompts in its own chat template when it learns.
            prompts: at least one.
            args: how to sample.
            seed: of the sampling noise.
            keys: number each prompt, as in ``write_answers``.

        Returns:
            Rollouts of ``len(prompts) * args.n`` samples, in the order of the keys; ``student_logps_BT`` is to be
            filled in.
        """
        keys = range(len(prompts)) if keys is None else keys
        routes = [self.route(prompt) for prompt in prompts]
        parts = []
        for name, policy in self._policies.items():
            rows = [row for row, route in enumerate(routes) if route == name]
            with policy.gathered():  # also where there is nothing to write: other ranks may have something
                if rows:
                    asked, numbers = [prompts[row] for row in rows], [keys[row] for row in rows]
                    parts.append(write_answers(policy, asked, args, seed=seed, keys=numbers))
        rollouts = Rollouts.cat(parts)
        rollouts = rollouts[rollouts.group_B.argsort(stable=True)]
        encoded = encode_each(student, rollouts.prompts)
        rollouts.prompt_tokens = [prompt.tokens for prompt in encoded]
        rollouts.vision = [prompt.vision for prompt in encoded]
        return rollouts

    def _in_turn(self, work: Sequence[_Work]) -> Iterator[_Work]:
        """Teacher after teacher, on all ranks alike: its weights are gathered even where it has nothing to score."""
        with bar(len(work), "scoring answers", unit="batch") as shown:
            for name, policy in self._policies.items():
                with policy.gathered():
                    for item in (item for item in work if item[0] == name):
                        yield item
                        shown.update()

    def _work(self, rollouts: Rollouts, max_tokens: int) -> list[_Work]:
        """(teacher, prompts, rows) of every forward pass; one teacher after the other."""
        by_teacher: dict[str, list[int]] = {}
        for row, prompt in enumerate(rollouts.prompts):
            by_teacher.setdefault(self.route(prompt), []).append(row)
        lengths = rollouts.lengths_B.tolist()
        work = []
        for name, rows in by_teacher.items():
            prompts = encode_each(self._policies[name], [rollouts.prompts[row] for row in rows])
            totals = [len(prompt.tokens) + lengths[row] for prompt, row in zip(prompts, rows, strict=True)]
            for group in token_budget_batches(totals, max_tokens):
                work.append((name, [prompts[i] for i in group], [rows[i] for i in group]))
        return work


def encode_each(policy: Policy, prompts: Iterable[Prompt]) -> list[EncodedPrompt]:
    """Prompts as a policy takes them; the answers of a group share one prompt object, which is encoded once."""
    encoded: dict[int, EncodedPrompt] = {}
    found = []
    for prompt in prompts:
        if id(prompt) not in encoded:
            encoded[id(prompt)] = policy.encode(prompt)
        found.append(encoded[id(prompt)])
    return found


def foreign_ids(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, name: str) -> Tensor:
    """Ids that the student can write and the teacher does not know.

    The token tables are compared, not ``vocab_size``: models of one family often pad their vocabularies differently,
    which is harmless.

    Raises:
        UserError: if an id means different tokens to the two.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    clash = {token: i for token, i in ours.items() if theirs.get(token, i) != i}
    taken = {i: token for token, i in theirs.items()}
    clash |= {token: i for token, i in ours.items() if token not in theirs and i in taken}
    if clash:
        token, i = min(clash.items(), key=lambda item: item[1])
        raise UserError(
            f"--model.teachers.{name} has another tokenizer than --model.student: token {i} is {token!r} to the "
            f"student and {taken.get(i)!r} to the teacher ({len(clash)} tokens differ); choose models of one family."
        )
    missing = sorted(i for token, i in ours.items() if token not in theirs)
    if missing:
        log.warning(
            "Teacher %r does not know %d of the student's tokens (%s ...); answers that use them are not scored.",
            name,
            len(missing),
            student.convert_ids_to_tokens(missing[0]),
        )
    return torch.tensor(missing, dtype=torch.long)
