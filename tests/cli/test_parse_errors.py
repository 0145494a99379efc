"""What a mistake on the command line or in a config is answered: in our words, with the whole key and the near one.

The arguments are only parsed; tests/cli/test_error_messages.py runs the whole command.
"""

import re
from pathlib import Path

import pytest
from parsing import parsed

from lit_uniopd.cli.parse_errors import unknown_option
from lit_uniopd.errors import UserError

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["-c", str(ROOT / "configs/uni_opd/multi_teacher.yaml"), "--data.train.path=t.jsonl"]
THERE = (
    "there are student, teachers, sampling, val_sampling, loss, advantage, horizon, writer, warm_start, split_groups, "
    "updates_per_rollout, micro_batch_tokens, max_teacher_failures, gradient_clip, grader_workers, grader_timeout, grader_killed, sandbox, "
    "optimizer, lr_scheduler, seed"
)
JARGON = re.compile(
    r"<class|Union|Literal|Callable|Namespace|NestedArg|Subtypes|typing|init_args|NoneType|None\b|Parser"
)
ON_THE_COMMAND_LINE = {
    "--model.optimizer.lr fast": "--model.optimizer.lr expects a number, not 'fast'",
    "--model.micro_batch_tokens many": "--model.micro_batch_tokens expects a whole number, not 'many'",
    "--model.micro_batch_tokens null": "--model.micro_batch_tokens expects a whole number, not null",
    "--model.micro_batch_tokens 2.5": "--model.micro_batch_tokens expects a whole number, not 2.5",
    "--model.micro_batch_tokens=": "--model.micro_batch_tokens expects a whole number, not ''",
    "--model.micro_batch_tokens [1,2]": "--model.micro_batch_tokens expects a whole number, not [1, 2]",
    "--model.micro_batch_tokens {a: 1}": "--model.micro_batch_tokens expects a whole number, not {'a': 1}",
    "--model.sampling.n 2.5": "--model.sampling.n expects a whole number, not 2.5",
    "--model.sampling.n true": "--model.sampling.n expects a whole number, not true",
    "--trainer.max_steps x": "--trainer.max_steps expects a whole number, not 'x'",
    "--trainer.max_steps 1e3": "--trainer.max_steps expects a whole number, not 1000.0",
    "--trainer.max_steps null": "--trainer.max_steps expects a whole number, not null",
    "--trainer.enable_progress_bar maybe": "--trainer.enable_progress_bar expects true or false or null, not 'maybe'",
    "--trainer.precision bf17": "--trainer.precision expects one of transformer-engine, transformer-engine-float16, 16-true, 16-mixed, bf16-true, bf16-mixed, 32-true, 64-true, 64, 32, 16, bf16 or null, not 'bf17' (did you mean bf16?)",
    # Beginnings of options, which argparse would take for them.
    "--trainer.max_st 3": "--trainer.max_st: there is no such option (did you mean --trainer.max_steps?)",
    "--model.sampling.max_new_token 3": "--model.sampling.max_new_token: there is no such option (did you mean --model.sampling.max_new_tokens?)",
    "--model.sampling.colocate.kv_cache 1": "--model.sampling.colocate.kv_cache: there is no such option (did you mean --model.sampling.colocate.kv_cache_gib?)",
    "--seed 1": "--seed: there is no such option (did you mean --seed_everything?)",
    "--trainer.logger.nam x": "--trainer.logger.nam: there is no such option (did you mean --trainer.logger.name?)",
    "--trainer.logger bogus": "--trainer.logger expects a class by its whole path or a list such as [a, b] or true or false or null, not 'bogus'",
    "--trainer.callbacks 5": "--trainer.callbacks expects a list such as [a, b] or a class by its whole path or null, not 5",
    "--trainer.callbacks+=callbacks.MarginCalibratoin": "--trainer.callbacks: there is no MarginCalibratoin in callbacks (did you mean callbacks.MarginCalibration?); name a class by its whole path.",
    "--trainer.callbacks+=callbacks.MarginCalibration --trainer.callbacks.delta=x": "--trainer.callbacks.delta expects a number, not 'x'",
    "--trainer.callbacks+=callbacks.MarginCalibration --trainer.callbacks.dleta=1": "--trainer.callbacks.dleta: there is no such option (did you mean --trainer.callbacks.delta?)",
    "--trainer.strategy.init_args.foo 5": "--trainer.strategy.foo is an option of a class; name the class before it, by --trainer.strategy.",
    "--trainr.max_steps 1": "--trainr.max_steps: there is no such option (did you mean --trainer.max_steps?)",
    "--trainer.max_stpes 1": "--trainer.max_stpes: there is no such option (did you mean --trainer.max_steps?)",
    "--modle.student.path x": "--modle.student.path: there is no such option (did you mean --model.student.path?)",
    "--seed_everything x": "--seed_everything expects true or false or a whole number, not 'x'",
    "--model.seed.x 3": "--model.seed.x: there is no such option: --model.seed has none",
    "--model.sampling.n.x 3": "--model.sampling.n.x: there is no such option: --model.sampling.n has none",
    "--model.student.path.x y": "--model.student.path.x: there is no such option: --model.student.path has none",
    "--trainer.max_steps.x 3": "--trainer.max_steps.x: there is no such option: --trainer.max_steps has none",
    "--model.loss.kind sampeld": "--model.loss.kind expects one of sampled, reverse_kl, forward_kl, jsd, topk, not 'sampeld' (did you mean sampled?)",
    "--model.loss.kind 5": "--model.loss.kind expects one of sampled, reverse_kl, forward_kl, jsd, topk, not 5",
    "--model.loss.gap_treshold 5": "--model.loss.gap_treshold: there is no such option (did you mean --model.loss.gap_threshold?)",
    "--model.loss.gap_threshold big": "--model.loss.gap_threshold expects a number or null, not 'big'",
    "--model.loss 5": "--model.loss expects options such as {name: value}, not 5",
    "--model.loss {kindd: sampled}": "--model.loss.kindd: there is no such option (did you mean --model.loss.kind?)",
    "--model.loss {kind: smapled}": "--model.loss.kind expects one of sampled, reverse_kl, forward_kl, jsd, topk, not 'smapled' (did you mean sampled?)",
    "--model.los.kind sampled": "--model.los.kind: there is no such option (did you mean --model.loss.kind?)",
    "--model.bogus 1": "--model.bogus: there is no such option (THERE)",
    "--model.teachers.math.pth x": "--model.teachers.math.pth: there is no such option (did you mean --model.teachers.math.path?)",
    "--model.teachers.math.lora.rnk 4": "--model.teachers.math.lora.rnk: there is no such option (did you mean --model.teachers.math.lora.rank?)",
    "--model.teachers.math.lora.rank x": "--model.teachers.math.lora.rank expects a whole number, not 'x'",
    "--model.teachers.math.placement gpu": "--model.teachers.math.placement expects one of resident, cpu_offload, quantized, disk_cache, http, not 'gpu'",
    "--model.teachers.math {path: x, placment: cpu_offload}": "--model.teachers.math.placment: there is no such option (did you mean --model.teachers.math.placement?)",
    "--model.teachers 5": "--model.teachers expects options such as {name: value}, not 5",
    "--model.teachers.math 5": "--model.teachers.math expects options such as {name: value} or null, not 5",
    "--model.student.lora.r x": "--model.student.lora.r: there is no such option (did you mean --model.student.lora.rank?)",
    "--model.student.lora 5": "--model.student.lora expects options such as {name: value} or null, not 5",
    "--model.gradient_clip x": "--model.gradient_clip expects a number or null, not 'x'",
    "--model.optimizer.weight_dcay 1": "--model.optimizer.weight_dcay: there is no such option (did you mean --model.optimizer.weight_decay?)",
    "--model.optimizer torch.optim.AdamWW": "--model.optimizer: there is no AdamWW in torch.optim (did you mean torch.optim.AdamW?); name a class by its whole path.",
    "--model.optimizer AdamW2": "--model.optimizer: there is no AdamW2; name a class by its whole path, as lit_uniopd.modules.UniOPD.",
    "--model.optimizer torch.nn.Linear": "--model.optimizer: torch.nn.Linear is no Optimizer; name one by its whole path.",
    "--model.optimizer 5": "--model.optimizer: 5 is no class; name a class by its whole path, as lit_uniopd.modules.UniOPD.",
    "--model.lr_scheduler lit_uniopd.schedules.WarmupCosin": "--model.lr_scheduler: there is no WarmupCosin in lit_uniopd.schedules (did you mean lit_uniopd.schedules.WarmupCosine?); name a class by its whole path.",
    "--model.lr_scheduler lit_uniopd.schedules.WarmupCosine --model.lr_scheduler.warmup x": "--model.lr_scheduler.warmup: there is no such option (did you mean --model.lr_scheduler.warmup_ratio?)",
    "--model 5": "--model: 5 is no class; name a class by its whole path, as lit_uniopd.modules.UniOPD.",
    "--model UniOPDD": "--model: there is no UniOPDD; name a class by its whole path, as lit_uniopd.modules.UniOPD.",
    "--model lit_uniopd.modules.UniOPDD": "--model: there is no UniOPDD in lit_uniopd.modules (did you mean lit_uniopd.modules.UniOPD?); name a class by its whole path.",
    "--model lit_uniopd.modulez.UniOPD": "--model: there is no modulez in lit_uniopd (did you mean lit_uniopd.modules?); name a class by its whole path.",
    "--model datamodules.PromptDataModule": "--model: datamodules.PromptDataModule is no LightningModule; name one by its whole path.",
    "--data 5": "--data: 5 is no class; name a class by its whole path, as lit_uniopd.modules.UniOPD.",
    "--data datamodules.PromptDataModul": "--data: there is no PromptDataModul in datamodules (did you mean datamodules.PromptDataModule?); name a class by its whole path.",
    "--data.train.grder math": "--data.train.grder: there is no such option (did you mean --data.train.grader?)",
    "--data.train.only_domains math": "--data.train.only_domains expects a list such as [a, b] or null, not 'math'",
    "--data.train.only_domains {a: 1}": "--data.train.only_domains expects a list such as [a, b] or null, not {'a': 1}",
    "--data.train.limit {a: 1}": "--data.train.limit expects a whole number or null, not {'a': 1}",
    "--data.train.limit few": "--data.train.limit expects a whole number or null, not 'few'",
    "--data.train.weight heavy": "--data.train.weight expects a number, not 'heavy'",
    "--data.train 5": "--data.train expects options such as {name: value} or a list such as [a, b] or null, not 5",
    "--data.val.path": "--data.val.path has no value; write one behind it.",
    "--model.optimizer.init_args.lr fast": "--model.optimizer.lr expects a number, not 'fast'",
    "bogus": "bogus stands alone; put the option that it is for before it, see `uniopd fit --help`.",
    "--bogus": "--bogus: there is no such option (there are config, print_config, seed_everything, trainer, model, data, allow_oom, ckpt_path, weights_only)",
}
IN_A_CONFIG = {
    "model: {init_args: {loss: {gap_treshold: 5}}}": "--model.loss.gap_treshold: there is no such option (did you mean --model.loss.gap_threshold?) (in a.yaml)",
    "model: {init_args: {teachers: {math: {path: x, lra: 1}}}}": "--model.teachers.math.lra: there is no such option (did you mean --model.teachers.math.lora?) (in a.yaml)",
    "data: {init_args: {train: [{path: x}, {path: y, grder: z}]}}": "--data.train.grder: there is no such option (did you mean --data.train.grader?) (in a.yaml)",
    "model: {init_args: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1e-5, weight_dcay: 0.1}}}}": "--model.optimizer.weight_dcay: there is no such option (did you mean --model.optimizer.weight_decay?) (in a.yaml)",
    "data: {init_args: {train: {path: x, domain: no}}}": "--data.train.domain expects a text or null, not false (in a.yaml); put it in quotes.",
    "trainer: {max_stpes: 5}": "--trainer.max_stpes: there is no such option (did you mean --trainer.max_steps?) (in a.yaml)",
    "trainer: {callbacks: [{class_path: callbacks.MarginCalibration, init_args: {dleta: 1}}]}": "--trainer.callbacks.dleta: there is no such option (did you mean --trainer.callbacks.delta?) (in a.yaml)",
    "model: {init_args: {teachers: {math: {path: x, placement: gpu}}}}": "--model.teachers.math.placement expects one of resident, cpu_offload, quantized, disk_cache, http, not 'gpu' (in a.yaml)",
    "model: {class_path: lit_uniopd.modules.UniOPD, init_argz: {}}": "--model.init_argz: there is no such option (did you mean --model.init_args?) (in a.yaml)",
    "model: {init_args: {sampling: {n: null}}}": "--model.sampling.n expects a whole number, not null (in a.yaml)",
    "data: {init_args: {train: {path: [a, b]}}}": "--data.train.path expects a text, not ['a', 'b'] (in a.yaml)",
    "data: {init_args: {train: {only_domains: [1, 2]}}}": "--data.train.only_domains expects a text or null, not 1 (in a.yaml); put it in quotes.",
    "trainer: {max_steps: many}": "--trainer.max_steps expects a whole number, not 'many' (in a.yaml)",
    "trainer: {logger: {class_path: TensorBoardLogger, init_args: {nam: x}}}": "--trainer.logger.nam: there is no such option (did you mean --trainer.logger.name?) (in a.yaml)",
}


def answer_to(*arguments: str) -> str:
    with pytest.raises(UserError) as raised:
        parsed(*ARGUMENTS, *arguments)
    return str(raised.value)


def check(answer: str, beginning: str) -> None:
    assert answer.startswith(beginning.replace("THERE", THERE))
    assert answer.endswith(".")
    assert not re.search(r"\. [A-Z]|\n", answer)
    assert "`uniopd fit --" in answer or re.search(r"; (put|name|write) ", answer)
    if "expects " in answer or "no such option" in answer:
        assert not JARGON.search(answer.replace("did you mean --model.init_args?", "")), answer


@pytest.mark.parametrize("line", ON_THE_COMMAND_LINE)
@pytest.mark.thinned(3)
def test_a_mistake_on_the_command_line(line):
    words = re.findall(r"(?:[^\s=]+=)?(?:\[[^]]*\]|\{[^}]*\})|\S+", line)
    check(answer_to(*words), ON_THE_COMMAND_LINE[line])


@pytest.mark.parametrize("config", IN_A_CONFIG)
@pytest.mark.thinned(3)
def test_a_mistake_in_a_config(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(config)
    check(answer_to("-c", "a.yaml"), IN_A_CONFIG[config])


def test_a_key_written_twice(tmp_path):
    (tmp_path / "a.yaml").write_text("model:\n  init_args:\n    seed: 1\n    seed: 2\n")
    answer = answer_to("-c", str(tmp_path / "a.yaml"))
    assert answer.endswith("a.yaml has the key 'model.init_args.seed' at line 3 and again at line 4; keep one of them.")
    assert "has the key 'kind'" in answer_to("--model.loss", "{kind: jsd, kind: topk}")


def test_an_option_that_the_flag_does_not_end_in_is_completed_to_no_other():
    """As of --model.init_args.student.init_args.path, of which the flag leaves a part out."""
    known = ["student", "student.path"]
    answer = unknown_option("model.student.path.init_args.path", "init_args.student.init_args.path", known)
    assert answer == "--model.student.path.init_args.path: there is no such option (there are student)"
    assert unknown_option("model.student.pth", "student.pth", known).endswith("(did you mean --model.student.path?)")
