"""Named teachers: each sample is scored by the one that its prompt is routed to."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import EncodedPrompt
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import CachedTeacher, LocalTeacher, RemoteTeacher, SelfTeacher, StudentAverage, TeacherArgs
from lit_uniopd.teachers.answer_alignment import AnswerAligner
from lit_uniopd.teachers.base import Scorer, Teacher, TeacherPass, encode_each
from lit_uniopd.teachers.log_linear import LogLinearMixture
from lit_uniopd.teachers.refusals import refuse_all
from lit_uniopd.teachers.routing import Routing
from lit_uniopd.teachers.scored_answers import ScoredAnswers, mixed, scores
from lit_uniopd.types import Prompt, Rollouts
from lit_uniopd.utils.progress import progress_bar
from lit_uniopd.utils.stop_request import poll

log = logging.getLogger(__name__)


class TeacherPool:
    """Frozen teachers by name.

    Deliberately not an ``nn.Module``: teachers must reach neither the optimizer, nor a checkpoint, nor a wrapper that
    synchronises gradients.

    Args:
        args: name -> where the teacher comes from and lives; those of a policy make a resident teacher, null none.
        top_k: how many of its likeliest tokens each server is asked for, beside the sampled ones.

    Raises:
        UserError: naming the flag, if a teacher's options contradict each other.

    Attributes:
        args: of those that are models.
        routing: from a prompt to the name of its teacher.
        failures: reason why answers of the last ``score`` were not scored -> how many.
    """

    def __init__(self, args: Mapping[str, PolicyArgs | None], *, top_k: int = 0) -> None:
        given = {name: teacher for name, teacher in args.items() if teacher is not None}
        checked = {name: TeacherArgs.of(teacher, f"model.teachers.{name}") for name, teacher in given.items()}
        self.routing = Routing(checked)
        self.args = self.routing.models
        self.failures: Counter[str] = Counter()
        self._teachers = {name: _teacher(name, teacher_args) for name, teacher_args in self.args.items()}
        self._log_linear = {
            name: LogLinearMixture.of(name, [self._teachers[part] for part in mixture.shares], mixture.shares.values())
            for name, mixture in self.routing.mixtures.items()
            if mixture.kind == "log_linear" and len(mixture.shares) > 1
        }
        self._cached: Counter[bool] = Counter()
        self._checked = False
        for teacher in self.remote.values():
            teacher.top_k = top_k

    @classmethod
    def of(cls, policies: Mapping[str, Policy]) -> "TeacherPool":
        """A pool of models that are loaded already; several names may share one.

        Args:
            policies: name -> model, which stays where it is.
        """
        pool = cls({name: replace(policy.args, lora=None) for name, policy in policies.items()})
        pool._teachers = {name: LocalTeacher(name, pool.args[name], policy) for name, policy in policies.items()}
        return pool

    @property
    def names(self) -> list[str]:
        """Of all that a prompt may be routed to, models first."""
        return self.routing.names

    def shares(self, name: str) -> Mapping[str, float]:
        """The models that a teacher is made of and their shares: itself, or those of the mixture."""
        return self.routing.made_of(name).shares

    def _asked(self, prompt: Prompt) -> Mapping[str, float]:
        """Those that score the answers to a prompt, and their shares in the mean of what they say."""
        name = self.route(prompt)
        return {name: 1.0} if name in self._log_linear else self.shares(name)

    @property
    def _scorers(self) -> dict[str, Scorer]:
        """All that answers may be given to; in the same order on every rank."""
        return {**self._teachers, **self._log_linear}

    def __getitem__(self, name: str) -> Policy:
        """The teacher's model, on the device; teachers that only visit the device make room for it.

        Raises:
            UserError: if it is not in this process.
        """
        for other in self._teachers.values():
            if other.name != name:
                other.send_away()
        self._teachers[name].fetch()
        return self._teachers[name].policy

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def is_here(self, name: str) -> bool:
        """Whether the teacher's model is in this process, or can be; of a mixture, all of them."""
        return all(self.args[part].placement != "http" for part in self.shares(name))

    @property
    def remote(self) -> dict[str, RemoteTeacher]:
        """Those on servers."""
        return {name: t for name, t in self._teachers.items() if isinstance(t, RemoteTeacher)}

    @property
    def _self_teachers(self) -> list[SelfTeacher]:
        return [teacher for teacher in self._teachers.values() if isinstance(teacher, SelfTeacher)]

    @property
    def averages(self) -> dict[str, StudentAverage]:
        """Of the student, by the teachers that are one; empty before ``load``."""
        return {teacher.name: teacher.average for teacher in self._self_teachers if teacher.average is not None}

    @property
    def loaded(self) -> dict[str, Policy]:
        """The models that are in this process now."""
        policies = {name: teacher.loaded for name, teacher in self._teachers.items()}
        return {name: policy for name, policy in policies.items() if policy is not None}

    @property
    def aligners(self) -> dict[str, AnswerAligner]:
        """Of the teachers with other tokenizers; empty before ``check``."""
        return {name: teacher.aligner for name, teacher in self._teachers.items() if teacher.aligner is not None}

    def route(self, prompt: Prompt) -> str:
        """Name of the teacher for a prompt; see ``Routing``."""
        return self.routing(prompt)

    def routes(self, prompts: Iterable[Prompt]) -> Counter[str]:
        """How many prompts each teacher scores, by itself or in a mixture; checks every route."""
        return self.routing.count(prompts)

    def learn_rows(self, prompts: Sequence[Prompt], seed: int) -> None:
        """Give the training rows to the teachers that read some of them (``Reading.learn_rows``)."""
        for teacher in self._teachers.values():
            teacher.reading.learn_rows(prompts, seed)

    def shows_best(self, prompt: Prompt) -> bool:
        """Whether a teacher of a prompt reads a right answer of the student's own (``reads.template``)."""
        return any(self._teachers[name].reading.shows_best for name in self.shares(self.route(prompt)))

    @property
    def showing_best(self) -> list[str]:
        """Names of the models that read such an answer."""
        return [name for name, teacher in self._teachers.items() if teacher.reading.shows_best]

    def reading(self, prompt: Prompt) -> Prompt:
        """A prompt as its teacher reads it; the same object, if that is as the student does.

        Of a mixture: as the first of its teachers reads it that reads something else.

        Raises:
            UserError: naming the prompt, if its row lacks what the teacher is to read, or there is no such teacher.
        """
        readings = self.readings(prompt)
        return next((read for read in readings.values() if read is not prompt), prompt)

    def readings(self, prompt: Prompt) -> dict[str, Prompt]:
        """A prompt as each model reads it that it is routed to."""
        return {name: self._teachers[name].reading(prompt) for name in self.shares(self.route(prompt))}

    def encode(self, name: str, prompts: Iterable[Prompt]) -> list[EncodedPrompt]:
        """Student's prompts as one teacher takes them, whichever they are routed to."""
        return encode_each(self._teachers[name], prompts)

    def passes(self, name: str, prompts: Iterable[Prompt]) -> list[TeacherPass]:
        """What a loss over whole distributions needs of a teacher, with its weights on the device."""
        prompts, mixture = list(prompts), self.routing.made_of(name)
        passes = []
        for part, share in mixture.shares.items():
            # Of several, all are on the device; one alone may have to be brought there.
            policy = self[part] if len(mixture.shares) == 1 else self._teachers[part].policy
            in_place = self._teachers[part].in_place
            passes.append(TeacherPass(policy, self.encode(part, prompts), in_place, share, mixture.kind))
        return passes

    def longest_prompts(
        self, prompts: Sequence[Prompt], student_processor: Any, student_args: PolicyArgs, answer: int = 0
    ) -> dict[str, int]:
        """Tokens of the longest prompt of each teacher that reads another than the student, as far as those of most
        characters tell; before anything is loaded.

        Args:
            prompts: each has a teacher.
            student_processor: tokenizer or processor of the student.
            student_args: of the student.
            answer: tokens of the longest answer, which some read as well.
        """
        prompts = [replace(p, best_answer="-") for p in prompts] if self.showing_best else prompts
        candidates: dict[str, list[tuple[int, int]]] = {}
        for i, prompt in enumerate(prompts):
            for name, read in self._unlike_readings(prompt).items():
                candidates.setdefault(name, []).append((-len(str(read.messages)), i))
        for name in candidates:
            self._teachers[name].processor_beside(student_processor, student_args)
        return {
            name: max(len(each.tokens) for each in self.encode(name, [prompts[i] for _, i in sorted(sizes)[:4]]))
            + (answer if name in self.showing_best else 0)
            for name, sizes in candidates.items()
        }

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt as its teacher reads it; 0 where those are the student's."""
        lengths: dict[int, int] = {}
        for prompt in prompts:
            if id(prompt) not in lengths:
                names = self._unlike_readings(prompt)
                lengths[id(prompt)] = max((len(self._teachers[n].encode(prompt).tokens) for n in names), default=0)
        return [lengths[id(prompt)] for prompt in prompts]

    def _unlike_readings(self, prompt: Prompt) -> dict[str, Prompt]:
        """What teachers read whose tokens of this prompt are others than the student's."""
        readings = self.readings(prompt) if self.args else {}
        return {n: read for n, read in readings.items() if read is not prompt or self.args[n].cross_tokenizer}

    def refuse(
        self,
        temperature: float,
        loss: str,
        *,
        direction: str = "reverse",
        writer: str = "student",
        baseline: str = "none",
    ) -> None:
        """Refuse what teachers cannot do in their placements or together; see ``refuse_all``."""
        options = {"direction": direction, "writer": writer, "baseline": baseline}
        refuse_all(self._teachers, self.routing, temperature, loss, **options)

    def check(self, student_processor: Any, student_args: PolicyArgs) -> None:
        """Check, before any weights are loaded, that every teacher exists and uses the student's tokens.

        Args:
            student_processor: tokenizer or processor of the student.
            student_args: of the student.

        Raises:
            UserError: naming the teacher, if it does not exist or uses other tokens.
        """
        for teacher in self._teachers.values():
            teacher.check(student_processor, student_args)
        self._checked = True

    def attach(self, student: Policy) -> None:
        """Give the student to the teachers that are it, before it is trained or sharded."""
        for teacher in self._self_teachers:
            teacher.attach(student)

    def load(self, student: Policy, ranks: int = 1) -> list[str]:
        """Load every teacher that belongs in this process and is not there yet.

        Args:
            student: as it was given to ``attach``, or whole and not trained yet.
            ranks: that will share the weights of those that stay on the device; see ``Policy.load``.

        Returns:
            Names of those that were loaded now and stay on the device, so that they may be sharded.

        Raises:
            UserError: as in ``check``, if that was not called.
        """
        if not self._checked:
            self.check(student.processor, student.args)
        self.attach(student)
        new = [name for name in self.args if name not in self.loaded and not self.args[name].is_student]
        for teacher in self._teachers.values():
            teacher.ranks = ranks if self.args[teacher.name].placement == "resident" else 1
            teacher.load()
        return [name for name in new if self.args[name].placement in ("resident", "quantized")]

    def to(self, device: torch.device) -> None:
        """Set where teachers compute, and move resident ones there; quantised ones stay where they were made."""
        for teacher in self._teachers.values():
            teacher.device = device
            if self.args[teacher.name].placement == "resident":
                teacher.fetch()

    def rest(self) -> None:
        """Free the device of teachers that only visit it."""
        for teacher in self._teachers.values():
            teacher.send_away()

    def score(self, rollouts: Rollouts, *, temperature: float, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Log-prob of every sampled token under its prompt's teacher, or its share in that of a piece of text.

        Each teacher reads what it is to read in its own chat template; only the response tokens are shared. Teachers
        score one after the other, so that several can take turns on one device.

        Args:
            rollouts: what the student wrote.
            temperature: the student's sampling temperature, applied to the teacher alike.
            max_tokens: token budget of one forward pass.

        Returns:
            ``teacher_logps_BT`` (float32, 0 in padding and where scoring failed) and ``teacher_ok_B``, which is False
            for answers that hold a token unknown to the teacher, and for those whose log-probs are too many, too few,
            not finite, or did not come in time. ``failures`` counts them by reason. The likeliest tokens, where servers
            are asked for them, are written into the rollouts.
        """
        self.failures, self._cached, rollouts.scored_BT = Counter(), Counter(), rollouts.mask_BT.clone()
        by_teacher = self._by_teacher(rollouts.prompts)
        answers = {n: ScoredAnswers(scorer, rollouts, self.failures) for n, scorer in self._scorers.items()}
        with progress_bar(sum(map(len, by_teacher.values())), "scoring answers", unit="answer") as bar:
            for name, teacher in self._scorers.items():
                rows = answers[name].readable(by_teacher[name])
                with teacher.gathered():  # also where there is nothing to score: other ranks may have something
                    routed = rollouts[rows]
                    for scored in scores(teacher, routed, temperature=temperature, max_tokens=max_tokens):
                        answers[name].store(scored, rows)
                        bar.update(len(scored.rows))
                        poll()
                        if all(self.args[part].placement == "disk_cache" for part in self.shares(name)):
                            self._cached[scored.cached] += len(scored.rows)
                teacher.send_away()
        logps_BT, ok_B = mixed(answers, [self._asked(prompt) for prompt in rollouts.prompts], rollouts)
        if self.failures:
            reasons = "; ".join(f"{reason}: {n}" for reason, n in sorted(self.failures.items()))
            log.warning("Teachers could not score %d of %d answers (%s).", (~ok_B).sum(), len(ok_B), reasons)
        return logps_BT, ok_B

    def cache_counts(self) -> tuple[int, int] | None:
        """How many answers of the last ``score`` were read from disk, and how many not; None: there is no cache."""
        cached = any(args.placement == "disk_cache" for args in self.args.values())
        return (self._cached[True], self._cached[False]) if cached else None

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
            student: reads the prompts, and nothing that only teachers read, when it learns.
            prompts: at least one.
            args: how to sample.
            seed: of the sampling noise.
            keys: number each prompt, as in ``write_answers``.

        Returns:
            Rollouts of ``len(prompts) * args.n`` samples, in the order of the keys; the caller fills in
            ``student_logps_BT``.
        """
        keys = range(len(prompts)) if keys is None else keys
        results = []
        for name, rows in self._by_teacher(prompts).items():
            with self._scorers[name].gathered():
                if rows:
                    routed, routed_keys = [prompts[row] for row in rows], [keys[row] for row in rows]
                    encoded = self.encode(name, routed)
                    results.append(
                        write_answers(self[name], routed, args, seed=seed, keys=routed_keys, encoded=encoded)
                    )
        self.rest()
        rollouts = Rollouts.cat(results)
        rollouts = rollouts[rollouts.group_B.argsort(stable=True)]
        encoded = encode_each(student, rollouts.prompts)
        rollouts.prompt_tokens = [prompt.tokens for prompt in encoded]
        rollouts.vision = [prompt.vision for prompt in encoded]
        return rollouts

    def _by_teacher(self, prompts: Sequence[Prompt]) -> dict[str, list[int]]:
        """Scorer -> the rows of its prompts, arithmetic mixtures' too; the same in the same order on every rank."""
        rows: dict[str, list[int]] = {name: [] for name in self._scorers}
        for row, prompt in enumerate(prompts):
            for name in self._asked(prompt):
                rows[name].append(row)
        return rows


def _teacher(name: str, args: TeacherArgs) -> Teacher:
    kinds: dict[str, type[Teacher]] = {"disk_cache": CachedTeacher, "http": RemoteTeacher}
    return SelfTeacher(name, args) if args.is_student else kinds.get(args.placement, LocalTeacher)(name, args)
