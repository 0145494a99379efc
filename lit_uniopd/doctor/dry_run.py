"""What is examined: a run's module, data and trainer, put together as ``fit`` would, with nothing started."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerState
from lightning.pytorch.utilities.model_helpers import is_overridden
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.doctor.findings import Finding, complaint
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.detectors import Detector
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import tokenizer_of
from lit_uniopd.policy.loading import load_processor, model_config
from lit_uniopd.policy.policy import Policy
from lit_uniopd.scorers import Scorer
from lit_uniopd.teachers import RemoteTeacher
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import EncodedPair, Prompt
from lit_uniopd.utils.paths import resolve_path
from lit_uniopd.utils.run_directory import make_nothing, run_root
from lit_uniopd.utils.trainer_data import TrainerData

Stage = Literal["fit", "validate", "test", "predict"]
STATES = {
    "fit": TrainerFn.FITTING,
    "validate": TrainerFn.VALIDATING,
    "test": TrainerFn.TESTING,
    "predict": TrainerFn.PREDICTING,
}
OUR_PACKAGES = {"lit_uniopd", "datamodules", "callbacks"}


@dataclass
class Model:
    """A model of the run, of which only tokenizer and config are read."""

    name: str
    """As findings call it: `student`, `policy`, `teacher math`."""
    args: PolicyArgs
    flag: str
    """The option that ``args`` came from."""

    @cached_property
    def processor(self) -> Any:
        return load_processor(self.args, self.flag)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return tokenizer_of(self.processor)

    @cached_property
    def config(self) -> PretrainedConfig:
        return model_config(self.args, self.flag)

    @cached_property
    def generation_config(self) -> GenerationConfig | None:
        """What its generation_config.json says; None: it has none."""
        if self.args.config is not None:
            return None
        try:
            path, revision = resolve_path(self.args.path), self.args.revision or "main"
            return GenerationConfig.from_pretrained(path, revision=revision)
        except OSError:
            return None


class DryTrainer(Trainer):
    """The settings of a trainer, as one process sees them that starts nothing: without loggers, with the data attached.

    Args:
        trainer: whose settings and strategy are shared; it is left as it is.
        module: to connect.
        data: its datamodule, or None.
        stage: what is to be done.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, data: Any, stage: Stage) -> None:
        self.__dict__.update(vars(trainer))
        make_nothing(self)
        self.loggers = []  # nothing of this belongs to a run
        self.state = TrainerState(fn=STATES[stage])
        self.datamodule = data
        self.strategy.connect(module)
        module.trainer = self
        if data is not None:
            data.trainer = self

    @property
    def distributed_sampler_kwargs(self) -> None:
        """FSDP would ask a mesh of devices that does not exist yet; one process reads all rows."""
        return None


@dataclass
class Case:
    """A run before its first step.

    Args:
        module: one of ours.
        data: its datamodule; None: there is none.
        trainer: of which only the settings are used; checks see a `DryTrainer` in its place.
        stage: what is to be run. None: fit what can be trained; else validate, or predict where the data serve
            nothing else.
        trainer_problem: what is wrong with the trainer of the run, if ``trainer``, one for the CPU, stands in for it.
    """

    module: Any
    data: Any
    trainer: Trainer
    stage: Stage | None = None
    trainer_problem: Finding | None = None
    directory: Path = field(init=False)
    """Where the run's files would go."""
    missing: set[str] = field(init=False, default_factory=set)
    """Names of models whose config or tokenizer cannot be read; filled in by the check of the models."""
    objected: bool = field(init=False, default=False)
    """Whether the settings were objected to; filled in by their check."""
    unreachable: set[str] = field(init=False, default_factory=set)
    """Teachers whose servers did not answer well; no other check asks them."""

    def __post_init__(self) -> None:
        self.stage = self.stage or _stage_of(self.module, self.data)
        self.directory = run_root(self.trainer)
        self.trainer = DryTrainer(self.trainer, self.module, self.data, self.stage)
        self._sampling = getattr(self.module, "sampling", None)
        server = getattr(self._sampling, "server", None)
        if self._sampling is not None and server is not None:  # the doctor does not wait for servers to come up
            self.module.sampling = replace(self._sampling, server=replace(server, retries=0))
        for remote in self._remote_teachers:
            remote.servers.retries = 0

    def release(self) -> None:
        """Leave the module ready for the run itself."""
        if self._sampling is not None:
            self.module.sampling = self._sampling
        for remote in self._remote_teachers:
            remote.servers.retries = remote.http.retries
        self.module.graders.close()

    # --- data: empty until the check of the data has read it ---

    @property
    def trainer_data(self) -> TrainerData:
        return TrainerData(self.trainer)

    @property
    def train_prompts(self) -> Sequence[Prompt]:
        return self.trainer_data.prompts("train")

    @property
    def val_prompts(self) -> Sequence[Prompt]:
        return self.trainer_data.prompts("val")

    @property
    def predict_prompts(self) -> Sequence[Prompt]:
        return self.trainer_data.prompts("predict") if self.stage == "predict" else []

    @property
    def train_pairs(self) -> Sequence[EncodedPair]:
        return self.trainer_data.train_pairs

    @property
    def benchmarks(self) -> list[Benchmark]:
        return self.trainer_data.benchmarks or []

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The prompts that the policy trains on, else those of prediction, validation or benchmarks."""
        examples = [example for benchmark in self.benchmarks for example in benchmark.examples[:4]]
        return (
            self.train_prompts
            or [encoded.pair.prompt for encoded in self.train_pairs]
            or self.predict_prompts
            or self.val_prompts
            or [Prompt(id=e.id, messages=e.messages, images=e.images) for e in examples]
        )

    # --- models ---

    @cached_property
    def student(self) -> Model:
        flag = self.module.policy_flag
        return Model(flag.rpartition(".")[2], self.module.policy_args, flag)

    @property
    def teachers(self) -> dict[str, Model]:
        """Name -> teacher, of those that can be read; empty for objectives without teachers."""
        return {name: model for name, model in self._all_teachers.items() if model.name not in self.missing}

    @cached_property
    def _all_teachers(self) -> dict[str, Model]:
        teachers = {}
        for name, args in ({} if self.pool is None else self.pool.args).items():
            source = args.source(f"model.teachers.{name}", self.student.args, self.student.flag)
            teachers[name] = Model(f"teacher {name}", *source)
        return teachers

    @property
    def pool(self) -> TeacherPool | None:
        pool: TeacherPool | None = getattr(self.module, "teachers", None) or None
        if pool is not None:
            pool.learn_rows(self.train_prompts, self.module.seed)
        return pool

    @property
    def _remote_teachers(self) -> list[RemoteTeacher]:
        return [] if self.pool is None else list(self.pool.remote.values())

    @property
    def on_policy(self) -> bool:
        """Whether the student learns from answers that it writes."""
        return hasattr(self.module, "sampling")

    @property
    def detectors(self) -> list[Detector]:
        """What looks for objects in images, for objectives that check sentences."""
        return list(getattr(self.module, "detectors", ()))

    @property
    def scorers(self) -> list[Any]:
        """What judges answers, where a callback makes pairs of them."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback.scorer for callback in callbacks if isinstance(getattr(callback, "scorer", None), Scorer)]

    @property
    def paths(self) -> list[str]:
        """Every model and table that the settings name."""
        models = [path for model in self.named_models for path in (model.args.path, model.args.tokenizer or "")]
        judges = [getattr(judge, "path", "") for judge in (*self.detectors, *self.scorers)]
        sources: Any = getattr(self.data, "sources", {})
        tables = [source.path for split in sources.values() for source in split.values()]
        bundled = getattr(self.data, "profile", "") == "fixture"
        specs = [] if bundled else [spec.hub.id for spec in getattr(self.data, "specs", ())]
        return [path for path in (*models, *judges, *tables, *specs) if isinstance(path, str)]

    def teacher_of(self, prompt: Prompt) -> str | None:
        """The teacher that a prompt is routed to; None if there is none, which the check of the routes reports."""
        try:
            return None if self.pool is None else self.pool.route(prompt)
        except UserError:
            return None

    def readings(self, prompt: Prompt) -> dict[str, Prompt]:
        """A prompt as each teacher reads it that scores its answers; none if it has no teacher."""
        return {} if self.pool is None or self.teacher_of(prompt) is None else self.pool.readings(prompt)

    @property
    def models(self) -> list[Model]:
        """Those whose config and tokenizer can be read."""
        return [model for model in self.named_models if model.name not in self.missing]

    @property
    def named_models(self) -> list[Model]:
        """All that the settings name."""
        models = [self.student, *self._all_teachers.values()]
        if (vision := getattr(self.module, "vision_args", None)) is not None:
            models.append(Model("vision policy", vision, "model.vision_policy"))
        return models

    @property
    def device(self) -> torch.device:
        return self.trainer.strategy.root_device

    @cached_property
    def policy(self) -> Policy:
        """The student with its weights, as it will be trained; loaded on first use."""
        if self.module.policy is not None:
            return self.module.policy
        torch.manual_seed(self.module.seed)
        loaded = Policy.load(self.student.args, trainable=True, flag=self.student.flag)
        if not getattr(self.module, "keeps_dropout", True):
            loaded.switch_off_dropout()
        policy: Any = self.trainer.precision_plugin.convert_module(loaded)
        return policy if self.student.args.quantization != "none" else policy.to(self.device)

    def first_prompts(self, count: int, condition: Callable[[Prompt], bool]) -> list[Prompt]:
        """The first prompts that meet a condition."""
        return [prompt for prompt in self.prompts if condition(prompt)][:count]


def _stage_of(module: Any, data: Any) -> Stage:
    if is_overridden("training_step", module, LightningModule):
        return "fit"
    if data is None:
        return "validate"
    sources: Any = getattr(data, "sources", {})
    only_predicts = bool(sources.get("predict")) and not sources.get("val")
    return "validate" if is_overridden("val_dataloader", data, LightningDataModule) and not only_predicts else "predict"


@contextmanager
def complaints(name: str) -> Iterator[list[Finding]]:
    """Collect the warnings and the `UserError` of our own code as findings of that name."""
    findings: list[Finding] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield findings
        except UserError as error:
            findings.append(complaint(name, "red", str(error)))
    messages = [str(w.message) for w in caught if not OUR_PACKAGES.isdisjoint(Path(w.filename).parts)]
    findings.extend(complaint(name, "yellow", message) for message in dict.fromkeys(messages))


def count_names(names: Sequence[str]) -> str:
    """``code 3, math 5``."""
    return ", ".join(f"{name} {names.count(name):,}" for name in sorted(set(names)))
