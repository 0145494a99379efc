"""What is examined: a run's module, data and trainer, put together as ``fit`` would, but with nothing started."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
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

Stage = Literal["fit", "validate", "test", "predict"]
STATES = {
    "fit": TrainerFn.FITTING,
    "validate": TrainerFn.VALIDATING,
    "test": TrainerFn.TESTING,
    "predict": TrainerFn.PREDICTING,
}
OURS = {"lit_uniopd", "datamodules", "callbacks"}


@dataclass
class Model:
    """A model of the run, of which only tokenizer and config are read."""

    name: str
    """For people: `student`, `policy`, `teacher math`."""
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
        """Of its file; None if there is none."""
        if self.args.config is not None:
            return None
        try:
            where, revision = resolve_path(self.args.path), self.args.revision or "main"
            return GenerationConfig.from_pretrained(where, revision=revision)
        except OSError:
            return None


class Alone:
    """A mesh of one device in every dimension: who examines does not wait for other ranks."""

    def __getitem__(self, _: str) -> "Alone":
        return self

    def size(self) -> int:
        return 1

    def get_local_rank(self) -> int:
        return 0


@dataclass
class Case:
    """A run before its first step.

    Args:
        module: one of ours.
        data: its datamodule; None: there is none.
        trainer: of which only the settings are used.
        stage: what is to be done. None: train what can be trained; else validate; else, where the data are for nothing
            but that, predict.
        misfit: what is wrong with a trainer that ``trainer``, one for the CPU, stands in for.
    """

    module: Any
    data: Any
    trainer: Trainer
    stage: Stage | None = None
    misfit: Finding | None = None
    directory: Path = field(init=False)
    """Where the run's files would go."""
    loggers: Any = field(init=False)
    missing: set[str] = field(init=False, default_factory=set)
    """Names of models of which there is no config or tokenizer to be had; filled in by the check of the models."""
    silent: set[str] = field(init=False, default_factory=set)
    """Teachers on servers that did not answer well, which are not asked again."""

    def __post_init__(self) -> None:
        trainer, module = self.trainer, self.module
        self.stage = self.stage or _stage_of(module, self.data)
        self.directory = Path(trainer.log_dir or trainer.default_root_dir)
        self.loggers = trainer.loggers
        trainer.loggers = []  # nothing of this belongs to a run
        trainer.state.fn = STATES[self.stage]
        trainer.strategy.connect(module)
        module.trainer = trainer
        if self.data is not None:
            self.data.trainer = trainer
            trainer.datamodule = self.data  # type: ignore[attr-defined]
        strategy: Any = trainer.strategy
        self._alone = getattr(strategy, "_device_mesh", strategy) is None  # FSDP, before its ranks have met
        if self._alone:
            strategy._device_mesh = Alone()
        self._sampling = getattr(module, "sampling", None)
        server = getattr(self._sampling, "server", None)
        if self._sampling is not None and server is not None:  # who examines does not wait for servers to come up
            module.sampling = replace(self._sampling, server=replace(server, retries=0))
        for remote in self._remote_teachers:
            remote.servers.retries = 0

    def release(self) -> None:
        """Leave module and trainer ready for the run itself."""
        if self._alone:
            self.trainer.strategy._device_mesh = None  # type: ignore[attr-defined]
        if self._sampling is not None:
            self.module.sampling = self._sampling
        for remote in self._remote_teachers:
            remote.servers.retries = remote.http.retries
        self.trainer.loggers = self.loggers
        self.trainer.state.fn = None
        self.module.graders.close()

    # --- data: empty until the check of the data has read them ---

    @property
    def train_prompts(self) -> list[Prompt]:
        return list(getattr(self.data, "train_prompts", ()))

    @property
    def val_prompts(self) -> list[Prompt]:
        return list(getattr(self.data, "val_prompts", ()))

    @property
    def predict_prompts(self) -> list[Prompt]:
        return list(getattr(self.data, "predict_prompts", ())) if self.stage == "predict" else []

    @property
    def train_pairs(self) -> list[EncodedPair]:
        return list(getattr(self.data, "train_pairs", ()))

    @property
    def benchmarks(self) -> list[Benchmark]:
        return list(getattr(self.data, "benchmarks", ()))

    @property
    def asked(self) -> list[Prompt]:
        """The prompts that the policy trains on, else those that it is asked in validation."""
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
        """Name -> teacher, of those that can be had; empty for objectives without."""
        return {name: model for name, model in self._all_teachers.items() if model.name not in self.missing}

    @cached_property
    def _all_teachers(self) -> dict[str, Model]:
        found = {}
        for name, args in ({} if self.pool is None else self.pool.args).items():
            # A teacher on a server without a path of its own reads prompts as the student does.
            reads = args if args.placement != "http" or args.path or args.tokenizer else None
            given = (args, f"model.teachers.{name}") if reads else (self.student.args, self.student.flag)
            found[name] = Model(f"teacher {name}", *given)
        return found

    @property
    def pool(self) -> TeacherPool | None:
        return getattr(self.module, "teachers", None) or None

    @property
    def _remote_teachers(self) -> list[RemoteTeacher]:
        return [] if self.pool is None else list(self.pool.remote.values())

    @property
    def on_policy(self) -> bool:
        """Whether the student learns from answers that it writes itself."""
        return hasattr(self.module, "sampling")

    @property
    def detectors(self) -> list[Detector]:
        """What looks at pictures, where sentences are checked."""
        return list(getattr(self.module, "detectors", ()))

    @property
    def scorers(self) -> list[Any]:
        """What judges answers, where a callback makes pairs of them."""
        plugs: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [plug.scorer for plug in plugs if isinstance(getattr(plug, "scorer", None), Scorer)]

    @property
    def paths(self) -> list[str]:
        """Every model and table that the settings name."""
        models = [path for model in self.named_models for path in (model.args.path, model.args.tokenizer or "")]
        parts = [getattr(part, "path", "") for part in (*self.detectors, *self.scorers)]
        sources: Any = getattr(self.data, "sources", {})
        tables = [source.path for split in sources.values() for source in split.values()]
        bundled = getattr(self.data, "profile", "") == "fixture"
        specs = [] if bundled else [spec.hub.id for spec in getattr(self.data, "specs", ())]
        return [path for path in (*models, *parts, *tables, *specs) if isinstance(path, str)]

    def teacher_of(self, prompt: Prompt) -> str | None:
        """Where a prompt is routed to; None if there is no such teacher, which the check of the routes tells."""
        try:
            return None if self.pool is None else self.pool.route(prompt)
        except UserError:
            return None

    @property
    def models(self) -> list[Model]:
        """All that can be had."""
        return [model for model in self.named_models if model.name not in self.missing]

    @property
    def named_models(self) -> list[Model]:
        """All that the settings name."""
        found = [self.student, *self._all_teachers.values()]
        if (vision := getattr(self.module, "vision_args", None)) is not None:
            found.append(Model("vision policy", vision, "model.vision_policy"))
        return found

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

    def first_prompts(self, count: int, wanted: Callable[[Prompt], bool] = lambda _: True) -> list[Prompt]:
        """The first prompts of a kind."""
        return [prompt for prompt in self.asked if wanted(prompt)][:count]


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
    """Collect what our code warns of, or refuses, as findings of that name."""
    found: list[Finding] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield found
        except UserError as error:
            found.append(complaint(name, "red", str(error)))
    ours = [str(w.message) for w in caught if not OURS.isdisjoint(Path(w.filename).parts)]
    found.extend(complaint(name, "yellow", message) for message in dict.fromkeys(ours))


def counted(names: Sequence[str]) -> str:
    """``code 3, math 5``."""
    return ", ".join(f"{name} {names.count(name):,}" for name in sorted(set(names)))
