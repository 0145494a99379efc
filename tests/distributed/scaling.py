"""Every objective for five steps, on one process or on many under DDP or FSDP2.

    torchrun --nproc-per-node RANKS scaling.py ROOT KIND:NAME[@CHECKPOINT] ...

KIND is one, ddp, fsdp or hsdp (two copies of the weights). Rank 0 writes what each scenario came to into
ROOT/KIND-RANKS/NAME.pt: weights, the gradients of the first step, the answers of the first rollout, everything logged. Scenarios of `RESUMED` also leave a checkpoint of
their third step and an export beside it. With a checkpoint a scenario goes on from there, and is called NAME-resumed.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from lightning import Callback, Trainer
from PIL import Image
from tiny import CHARACTERS, Memory, make_model, make_tokenizer, module, sgd, trainer

from callbacks import MarginCalibration, PolicyExport
from datamodules import OnlineBalanceArgs, PairSourceArgs, PreferenceDataModule, PromptDataModule, SourceArgs
from datamodules.sentence_pairs import SentencePairDataModule, SentencePairSourceArgs
from lit_uniopd.distributed.fsdp import FSDP
from lit_uniopd.distributed.sharding import full_tensor, trained_state
from lit_uniopd.modules import SFT, LossArgs, OmniDPO, PairLossArgs, Sentinel, UniOPD
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import LoraArgs, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.args import ServerArgs
from lit_uniopd.teachers import HttpArgs, ReadsArgs, TeacherArgs
from lit_uniopd.types import PromptBatch, Rollouts

STEPS, ROWS = 5, 4
"""Rows of all ranks together in a step."""
LORA = LoraArgs(rank=4, alpha=8)
UNCALIBRATED = (
    "unscored",
    "divergence",
    "pictures",
    "pictures_in_teams",
    "top_logps",
    "averaged_lora",
    "start_lora",
    "start",
    "live",
    "mixed_lora",
    "kept",
    "baseline",
)
"""Whose loss reads no advantages, or has no use for sums of them."""
BASELINE = AdvantageArgs(baseline="kl", reference_weight=0.1)
FOUR_BITS = {"name": "wide", "lora": LORA, "quantization": "4bit"}


def adam(params: Any) -> torch.optim.Optimizer:
    """With an epsilon below which gradients are rounding: by the usual one it would be blown up."""
    return torch.optim.AdamW(params, lr=1e-3, eps=1e-4)


class Files:
    """Models and data below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self) -> None:
        for seed, name in enumerate(("student", "math", "code")):
            make_model(self.root / name, seed=seed)
            write_tiny_vision(self.root / f"seeing_{name}", seed)
        prompts = [
            {"prompt": "1+" * (i % 4) + f"{i}=", "answer": "a", "domain": ("math", "code")[i % 3 == 0]}
            for i in range(21)
        ]
        self._table("prompts", prompts)
        make_model(self.root / "wide", width=128)  # the least that can be held in 4 bits
        make_model(self.root / "fewer", seed=1, tokenizer=make_tokenizer(characters=CHARACTERS[:-20]))
        pairs = [
            {"prompt": f"{i}=", "chosen": "a" * (i % 7 + 1), "rejected": "b" * (i % 3 + 1)}
            | {"score_chosen": i / 4, "score_rejected": 1 + i / 8}
            for i in range(21)
        ]
        self._table("pairs", pairs)
        self._table("texts", [{"prompt": f"{i}=", "answer": "ab" * (i * i % 19 + 1)} for i in range(21)])
        for i in range(5):
            Image.new("RGB", (40, 40), (40 * i, 90, 200)).save(self.root / f"{i}.png")
        sentences = [
            {
                "prompt": "what is there?",
                "chosen": f"a dog{'s' * i}.",
                "rejected": "a big cat.",
                "images": f"{i % 5}.png",
            }
            | {"context": "Here is " * (i % 3)}
            for i in range(21)
        ]
        self._table("sentences", sentences)
        # Dealt out to two ranks, one of them gets all the pictures; the third step has none.
        pictured_rows = [
            {"prompt": f"{i}?", "domain": "math"} | ({"images": f"{i % 5}.png"} if i % 2 and i // ROWS != 2 else {})
            for i in range(20)
        ]
        self._table("pictures", pictured_rows)

    def _table(self, name: str, rows: list[dict[str, Any]]) -> None:
        self.table(name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def table(self, name: str) -> Path:
        return self.root / f"{name}.jsonl"

    def model(self, name: str, **options: Any) -> PolicyArgs:
        return PolicyArgs(path=str(self.root / name), **options)

    def cache(self, ranks: int) -> str:
        """Of reference log-probs."""
        return str(self.root / f"references-{ranks}")


class Recorder(Callback):
    """The first step's gradients and answers, and how many groups other ranks than their own have trained on,
    and how many answers balancing has removed."""

    def __init__(self) -> None:
        self.grads: dict[str, torch.Tensor] = {}
        self.answers: list[tuple[int, list[int]]] = []
        self.moved = 0
        self.removed = 0

    def on_rollouts_scored(self, trainer: Trainer, pl_module: Any, rollouts: Rollouts) -> None:
        rows = zip(rollouts.group_B.tolist(), rollouts.tokens_BT.tolist(), rollouts.lengths_B.tolist(), strict=True)
        samples = [(group, tokens[:length]) for group, tokens, length in rows]
        self.answers = self.answers or sorted(row for rank_samples in _over_ranks(samples) for row in rank_samples)
        away = {group for group in rollouts.group_B.tolist() if group % trainer.world_size != trainer.global_rank}
        self.moved += sum(_over_ranks(len(away)))
        self.removed += sum(_over_ranks(int((~rollouts.keep_B).sum())))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if not self.grads:
            gradients = [(name, p.grad) for name, p in pl_module.named_parameters() if p.requires_grad]
            self.grads = {name: full_tensor(grad).clone() for name, grad in gradients if grad is not None}


def _over_ranks(value: Any) -> list[Any]:
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


class Judged(PromptDataModule):
    """About half of the answers are right, so that balancing and calibration have something to do."""

    def on_rollouts_scored(self, trainer: Trainer, pl_module: Any, rollouts: Rollouts) -> None:
        rollouts.outcome_B = rollouts.tokens_BT.sum(dim=1) % 2
        super().on_rollouts_scored(trainer, pl_module, rollouts)


class SplitGroups(UniOPD):
    """The answers to a prompt are on different ranks, which have 6 and 5 of them."""

    def answer(self, batch: PromptBatch) -> Rollouts:
        local = super().answer(batch)
        shards = [shard.to("cpu") for shard in _over_ranks(local)]
        rollouts = Rollouts.cat(shards)
        order = rollouts.group_B.argsort(stable=True)[:11]
        return rollouts[order[self.global_rank :: self.trainer.world_size]]


def uni_opd(files: Files, ranks: int, **options: Any) -> tuple[Any, Any]:
    """Four prompts a step, three answers each, of differing length."""
    prompts = SourceArgs(path=str(files.table("prompts")), grader="exact")
    balance = OnlineBalanceArgs(scope="global")
    data = Judged(prompts, prompts, global_batch_size=ROWS, val_batch_size=3, seed=5, online_balance=balance)
    settings: dict[str, Any] = {"gradient_clip": 0.5, "micro_batch_tokens": 48, "optimizer": adam}
    settings |= {"sampling": SamplingArgs(n=3, max_new_tokens=8)} | options
    student = files.model(**{"name": "student"} | settings.pop("student", {}))
    paths = {name: str(files.root / name) for name in ("student", "math", "code")}
    return module(paths, **settings, **{"student": student}), data


def unscored(files: Files, ranks: int, **options: Any) -> tuple[Any, Any]:
    """One of the teachers does not have all of the student's tokens: of some steps a rank has no answer that it could score."""
    teachers = {"math": files.model("fewer"), "code": files.model("code")}
    loss = LossArgs(kind="reverse_kl")
    return uni_opd(files, ranks, teachers=teachers, loss=loss, max_teacher_failures=1.0, **options)


def by_layer(files: Files, ranks: int, **options: Any) -> tuple[Any, Any]:
    """Teachers' weights are gathered layer by layer, one of them where only some prompts are its."""
    teachers = {name: TeacherArgs(path=str(files.root / name), gather="layers") for name in ("math", "code")}
    return uni_opd(files, ranks, teachers=teachers, **options)


def served(files: Files, ranks: int, lag: Literal[0, 1] = 0, **options: Any) -> tuple[Any, Any]:
    """A server process writes the answers, with the weights that ranks bring it."""
    server = ServerArgs(
        json.loads((files.root / "servers.json").read_text()), "student", str(files.root / f"published-{ranks}")
    )
    sampling = SamplingArgs(n=3, max_new_tokens=8, engine="vllm", server=server, lag=lag)
    return uni_opd(files, ranks, sampling=sampling, **options)


def top_logps(files: Files, ranks: int, **options: Any) -> tuple[Any, Any]:
    """A server names the top tokens of one teacher; the other teacher is here."""
    http = HttpArgs(json.loads((files.root / "teachers.json").read_text()))
    teachers = {"code": PolicyArgs(path=str(files.root / "code")), "math": TeacherArgs(placement="http", http=http)}
    loss = LossArgs(kind="topk", top_k=5, top_k_direction="forward")
    return uni_opd(files, ranks, teachers=teachers, loss=loss, updates_per_rollout=2, **options)


def self_taught(files: Files, ranks: int, kind: Any, loss: LossArgs | None = None, **options: Any) -> tuple[Any, Any]:
    """The student is its own teacher, behind a prompt that says more."""
    decay: dict[str, Any] = {"decay": 0.5} if kind == "student_average" else {}
    itself = TeacherArgs(weights=kind, reads=ReadsArgs(template="say yes: {prompt}"), **decay)
    return uni_opd(files, ranks, teachers={"default": itself}, loss=loss or LossArgs(), **options)


def demonstrated(files: Files, ranks: int, **options: Any) -> tuple[Any, Any]:
    """An expert reads a right answer of the group."""
    expert = TeacherArgs(path=str(files.root / "code"), reads=ReadsArgs(template="see {best_answer} {prompt}"))
    return uni_opd(files, ranks, teachers={"default": expert}, updates_per_rollout=2, **options)


def mixed(
    files: Files, ranks: int, loss: LossArgs | None = None, mixture_kind: Any = "arithmetic", **options: Any
) -> tuple[Any, Any]:
    """An expert, and the student's average and start, for every other prompt."""
    hint = ReadsArgs(template="say yes: {prompt}")
    teachers = {
        "code": TeacherArgs(path=str(files.root / "code")),
        "average": TeacherArgs(weights="student_average", decay=0.5, reads=hint),
        "start": TeacherArgs(weights="student_at_start", reads=hint),
        "math": TeacherArgs(mixture={"code": 1, "average": 1, "start": 1}, mixture_kind=mixture_kind),
    }
    return uni_opd(files, ranks, teachers=teachers, loss=loss or LossArgs(), **options)


def split_groups(files: Files, ranks: int) -> tuple[Any, Any]:
    model, data = uni_opd(files, ranks, optimizer=sgd)
    model.__class__ = SplitGroups
    data.online_balance = None
    return model, data


def in_teams(files: Files, ranks: int, **options: Any) -> tuple[Any, Any]:
    """Two ranks, or all of four, each write a part of the answers to all prompts."""
    return uni_opd(files, ranks, sampling=SamplingArgs(n=4, max_new_tokens=8), split_groups=4, **options)


def pictures(files: Files, ranks: int, **options: Any) -> tuple[Any, Any]:
    """A tower that one of two ranks never uses."""
    data = PromptDataModule(
        SourceArgs(path=str(files.table("pictures"))), global_batch_size=ROWS, shuffle=False, seed=5
    )
    paths = {name: str(files.root / f"seeing_{name}") for name in ("student", "math", "code")}
    # Small steps: those of SGD would blow rounding up until another token is drawn. Decay shows parts of the tower that
    # an optimizer should leave alone: the last norm always, all of it in the step without a picture.
    adam = partial(torch.optim.AdamW, lr=1e-3, eps=1e-4, weight_decay=0.5)
    return module(
        paths, sampling=SamplingArgs(n=2, max_new_tokens=4), gradient_clip=None, optimizer=adam, **options
    ), data


def omni(files: Files, ranks: int, cached: bool = False, step: int = ROWS, **options: Any) -> tuple[Any, Any]:
    """Two pairs a pass: one process adds up the gradients of more passes than one of several."""
    pairs = PairSourceArgs(path=str(files.table("pairs")))
    data = PreferenceDataModule(train=pairs, val=pairs, batch_size=2, val_batch_size=2, seed=5, global_batch_size=step)
    policy = files.model("student", **options)
    cache = files.cache(ranks) if cached else None
    # Before the first step policy and reference are equal; read from disk, rounding says which is less, and so if the
    # NLL acts.
    loss = PairLossArgs(lam=0.2, tau_good=1.0, use_nll=not cached)
    return OmniDPO(policy, loss, optimizer=adam, reference_cache=cache, seed=3), data


def sentinel(files: Files, ranks: int, cached: bool = False, **options: Any) -> tuple[Any, Any]:
    pairs = SentencePairSourceArgs(path=str(files.table("sentences")))
    # The reference is read in batches of this size: the same on any number of ranks, since products of matrices of another
    # height are added up in another order.
    data = SentencePairDataModule(train=pairs, val_batch_size=2, seed=5, global_batch_size=ROWS)
    cache = files.cache(ranks) if cached else None
    return Sentinel(files.model("seeing_student", **options), optimizer=sgd, reference_cache=cache, seed=3), data


def sft(files: Files, ranks: int) -> tuple[Any, Any]:
    """Answers of very unlike lengths, which ranks and accumulated batches split unevenly."""
    texts = SourceArgs(path=str(files.table("texts")))
    data = PromptDataModule(texts, texts, batch_size=2, val_batch_size=3, seed=5, global_batch_size=2 * ROWS)
    return SFT(files.model("student"), optimizer=sgd, seed=3), data


class Timed(FSDP):
    """Remembers from when to when this rank was loading."""

    loading = (0.0, 0.0)

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        with super().model_sharded_context():
            start = time.monotonic()
            yield
            self.loading = (start, time.monotonic())


Scenario = Callable[[Files, int], tuple[Any, Any]]
SCENARIOS: dict[str, Scenario] = {
    "uni_opd": uni_opd,
    "uni_opd_lora": lambda f, r: uni_opd(f, r, student={"lora": LORA, "gradient_checkpointing": True}),
    "uni_opd_4bit": lambda f, r: uni_opd(f, r, student=FOUR_BITS, optimizer=sgd),
    "uni_opd_reused": lambda f, r: uni_opd(f, r, updates_per_rollout=3),
    "split_groups": split_groups,
    "unscored": lambda f, r: unscored(f, r, optimizer=sgd),
    "divergence": lambda f, r: uni_opd(f, r, loss=LossArgs(kind="jsd"), optimizer=sgd),
    "averaged": lambda f, r: self_taught(f, r, "student_average", optimizer=sgd),
    "averaged_lora": lambda f, r: self_taught(f, r, "student_average", LossArgs(kind="jsd"), student={"lora": LORA}),
    "start_lora": lambda f, r: self_taught(f, r, "student_at_start", LossArgs(kind="jsd"), student={"lora": LORA}),
    "start": lambda f, r: self_taught(f, r, "student_at_start", LossArgs(kind="jsd"), optimizer=sgd),
    "live": lambda f, r: self_taught(f, r, "student", LossArgs(kind="jsd"), optimizer=sgd),
    "mixed": lambda f, r: mixed(f, r, optimizer=sgd),
    "mixed_lora": lambda f, r: mixed(f, r, LossArgs(kind="jsd"), student={"lora": LORA}),
    "log_linear": lambda f, r: mixed(f, r, mixture_kind="log_linear", optimizer=sgd),
    "demonstrated": lambda f, r: demonstrated(f, r, optimizer=sgd),
    "kept": lambda f, r: uni_opd(f, r, loss=LossArgs(kind="jsd", keep_tokens=0.5, entry_clip=0.1), optimizer=sgd),
    "baseline": lambda f, r: uni_opd(f, r, loss=LossArgs(keep_tokens=0.5), advantage=BASELINE, optimizer=sgd),
    "top_logps": lambda f, r: top_logps(f, r, optimizer=sgd),
    "extrapolated": lambda f, r: uni_opd(f, r, advantage=AdvantageArgs(extrapolation=1.25), optimizer=sgd),
    "by_layer": lambda f, r: by_layer(f, r, optimizer=sgd),
    "served": lambda f, r: served(f, r, optimizer=sgd),
    "served_lora": lambda f, r: served(f, r, student={"lora": LORA}),
    "lagged": lambda f, r: served(f, r, lag=1, loss=LossArgs(importance_cap=2.0), optimizer=sgd),
    "in_teams": in_teams,
    "pictures": pictures,
    "pictures_in_teams": lambda f, r: pictures(f, r, split_groups=2),
    "omni_dpo": omni,
    "omni_dpo_lora": lambda f, r: omni(f, r, step=2 * ROWS, lora=LORA),
    "omni_dpo_cached": lambda f, r: omni(f, r, cached=True, lora=LORA),
    "sentinel": sentinel,
    "sentinel_lora": lambda f, r: sentinel(f, r, lora=LORA),
    "sft": sft,
    "sentinel_cached": lambda f, r: sentinel(f, r, cached=True),
}
RESUMED = ("uni_opd", "in_teams", "uni_opd_lora", "averaged", "averaged_lora", "omni_dpo")


def strategy(kind: str, name: str) -> Any:
    """LoRA runs write one file, the others a directory; some runs exchange gradients after every micro-batch, in one the
    ranks load in turn."""
    if kind not in ("fsdp", "hsdp"):
        return {"one": "auto", "ddp": "ddp"}[kind]
    return Timed(
        data_parallel_replicate=2 if kind == "hsdp" else 1,
        param_dtype=None,
        reduce_dtype=None,
        cpu_offload=name == "omni_dpo",
        accumulate="sharded" if name == "divergence" else "whole",
        load_in_turn=name == "uni_opd",
        save_distributed_checkpoint=not name.endswith("lora"),
    )


def run(kind: str, ranks: int, root: Path, name: str, resume: Path | None) -> None:
    out = root / f"{kind}-{ranks}" / (name if resume is None else f"{name}-resumed")
    out.parent.mkdir(parents=True, exist_ok=True)
    model, data = SCENARIOS[name](Files(root), ranks)
    recorder, logged = Recorder(), Memory()
    export = PolicyExport(str(out)) if resume is None and name in RESUMED else None
    calibration = MarginCalibration(scope="group" if name == "split_groups" else "global")
    calls = [
        recorder,
        None if name in UNCALIBRATED else calibration,
        Late() if name == "omni_dpo_cached" else None,
        Saver(out) if name in RESUMED else None,
        export,
    ]
    calls = [call for call in calls if call is not None]
    options: dict[str, Any] = {"max_epochs": -1, "max_steps": STEPS, "limit_val_batches": 1.0, "inference_mode": False}
    options |= {"num_sanity_val_steps": 0, "check_val_every_n_epoch": None, "val_check_interval": STEPS}
    if name == "uni_opd_4bit":
        # Of bitsandbytes' two CPU kernels, which differ by some hundredths in a logit, the one that is used depends on
        # what ran before: greedy answers that are nearly tied come out either way.
        options["limit_val_batches"] = 0
    if model.automatic_optimization:
        options |= {"gradient_clip_val": 0.5}
    fit = trainer(
        out.parent / "lightning",
        devices=ranks,
        strategy=strategy(kind, name),
        logger=logged,
        callbacks=calls,
        **options,
    )
    fit.fit(model, data, ckpt_path=None if resume is None else str(resume))
    weights = trained_state(model)
    loading = _over_ranks(getattr(fit.strategy, "loading", None))
    if fit.is_global_zero:
        numbers = {key: float(value) for key, value in logged.values.items() if not _is_time(key)}
        results = {"weights": weights, "grads": recorder.grads, "answers": recorder.answers, "logged": numbers}
        results |= {"moved": recorder.moved, "removed": recorder.removed, "loading": loading}
        torch.save(results, f"{out}.pt")


def _is_time(key: str) -> bool:
    return key.startswith("time/") or "second" in key


class Late(Callback):
    """Rank 0 comes late to what all do next, as one that draws a figure does."""

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            time.sleep(1)


class Saver(Callback):
    """A checkpoint in the middle, beside the results."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3 and not self.out.name.endswith("resumed"):
            trainer.save_checkpoint(f"{self.out}.ckpt")


def main(root: Path, jobs: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for job in jobs:
        scenario, _, checkpoint = job.partition("@")
        kind, name = scenario.split(":")
        run(kind, int(os.environ.get("WORLD_SIZE", 1)), root, name, Path(checkpoint) if checkpoint else None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    # All is written. Threads of gloo groups that the models still hold would now and then abort the interpreter's end.
    sys.stderr.flush()
    os._exit(0)
