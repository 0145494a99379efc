"""What a user's mistake is answered by: one sentence that names the flag or column and the remedy, and no traceback."""

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import CHARACTERS, make_tokenizer

from lit_uniopd.cli import main
from lit_uniopd.errors import UserError

ROOT = Path(__file__).parents[2]
ROWS = [{"prompt": f"{i}+{i}=", "answer": str(2 * i), "domain": ["math", "code"][i % 2]} for i in range(8)]


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's log writes to the stderr of this test, not to one that an earlier test has closed."""
    for package in ("lit_uniopd", "callbacks", "datamodules"):
        monkeypatch.setattr(logging.getLogger(package), "handlers", [])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a user who makes mistakes."""
    desk = tmp_path_factory.mktemp("desk")
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name in ("train", "heldout"):
        (desk / f"{name}.jsonl").write_text(lines)
    (desk / "torn.jsonl").write_text('{"prompt": \n')
    (desk / "empty.jsonl").write_text("")
    (desk / "twice.jsonl").write_text('{"prompt": "1+1=", "answer": "2", "id": "a", "domain": "math"}\n' * 2)
    (desk / "silent.jsonl").write_text('{"prompt": "", "answer": "2", "domain": "math"}\n')
    (desk / "ungraded.jsonl").write_text('{"prompt": "1+1=", "domain": "math"}\n' * 4)
    (desk / "blind.jsonl").write_text('{"prompt": "1+1=", "answer": "2", "images": ["no.png"]}\n')
    (desk / "broken.yaml").write_text("trainer:\n  max_steps: [1\n  b: 2\n")
    (desk / "list.yaml").write_text("- 1\n")
    (desk / "misspelt.yaml").write_text("modle:\n  student: 1\n")
    (desk / "hollow.yaml").write_text("modle: {}\n")
    (desk / "torn.ckpt").write_bytes(b"half a checkpoint")
    pair = {"prompt": "1+1=", "chosen": "2", "rejected": "3", "score_chosen": 9.0}
    pairs = [{**pair, "score_rejected": i / 8} for i in range(64)]
    (desk / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (desk / "no_model").mkdir()
    return desk


@pytest.fixture
def fit(desk: Path, model_dirs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments without a mistake."""
    monkeypatch.chdir(desk)
    return [
        "fit",
        f"--config={ROOT / 'configs/uni_opd/multi_teacher.yaml'}",
        f"--config={ROOT / 'configs/trainer/cpu.yaml'}",
        f"--model.student.path={model_dirs['student']}",
        f"--model.teachers.math.path={model_dirs['math']}",
        f"--model.teachers.code.path={model_dirs['code']}",
        "--data.train.path=train.jsonl",
        "--data.val.path=heldout.jsonl",
        "--data.global_batch_size=4",
        "--model.sampling.n=2",
        "--model.sampling.max_new_tokens=5",
        "--trainer.max_steps=1",
        "--trainer.enable_progress_bar=false",
        "--model.grader_workers=1",
    ]


def sentence_for(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The error that a command line ends in, after everything that every such answer owes."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, lines
    assert lines[-1] == errors[0]  # nothing follows it, a second line of the message least of all
    assert not any("Traceback" in line or line.startswith("usage:") for line in lines)
    assert errors[0].endswith(".")
    return errors[0]


QUICKSTART = str(ROOT / "configs/quickstart.yaml")
PAIRS = str(ROOT / "configs/omni_dpo/quickstart.yaml")
TINY = "--model.policy.path=playground:tiny_text"
GPU = str(ROOT / "configs/trainer/gpu.yaml")
MISTAKES = {
    # --- the command line itself ---
    "a flag that there is not": (["--bogus=1"], "--bogus: there is no such option", "--help` lists"),
    "a misspelt class": (["--model=lit_uniopd.modules.UniOPDD"], "--model", "did you mean lit_uniopd.modules.UniOPD?"),
    "a misspelt callback": (
        ["--trainer.callbacks+=callbacks.MarginCalibratoin"],
        "--trainer.callbacks",
        "did you mean callbacks.MarginCalibration?",
    ),
    "an option of a module that it has not": (
        ["--model.studnt.path=x"],
        "--model.studnt.path",
        "did you mean --model.student.path?",
    ),
    "an option of a datamodule that it has not": (
        ["--data.batch_siz=3"],
        "--data.batch_siz:",
        "did you mean --data.batch_size?",
    ),
    "an option of a callback that it has not": (
        ["--trainer.callbacks+=callbacks.MarginCalibration", "--trainer.callbacks.dleta=1"],
        "--trainer.callbacks.dleta",
        "lists",
    ),
    "no step at all": (["--trainer.max_steps=0"], "--trainer.max_steps 0 trains nothing", "`uniopd validate`"),
    "no batch at all": (["--trainer.limit_train_batches=0"], "--trainer.limit_train_batches 0 trains", "raise it"),
    "no such config": (["--config=none.yaml"], "--config", "mend the path"),
    "no YAML": (["--config=broken.yaml"], "--config broken.yaml is not YAML at line 3, column 4", "mend it"),
    "YAML that is a list": (["--config=list.yaml"], "--config list.yaml", "must hold keys and values"),
    "a misspelt key of a config": (["--config=misspelt.yaml"], "misspelt.yaml has the key 'modle'", "lists"),
    "a misspelt key with nothing in it": (["--config=hollow.yaml"], "'modle'", "(did you mean model?)"),
    "a text for a number": (["--trainer.max_steps=many"], "--trainer.max_steps", "expects a whole number, not 'many'"),
    "a value that is none of the choices": (
        ["--model.loss.kind=reverse"],
        "--model.loss.kind expects one of sampled, reverse_kl",
        "did you mean reverse_kl?",
    ),
    "a rate that is no number": (
        ["--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=fast"],
        "--model.optimizer.lr",
        "expects a number, not 'fast'",
    ),
    "a class without its path": (["--model=UniOPD2"], "--model: there is no UniOPD2", "name a class by its whole path"),
    "no such optimizer": (
        ["--model.optimizer=torch.optim.AdamWW"],
        "--model.optimizer: there is no AdamWW",
        "did you mean torch.optim.AdamW?",
    ),
    # --- the trainer ---
    "no such strategy": (["--trainer.strategy=fdsp"], "--trainer", "`uniopd fit --help`"),
    "no such accelerator": (["--trainer.accelerator=banana"], "--trainer", "change it"),
    "all devices of a CPU": (["--trainer.devices=-1"], "--trainer: `devices`", "change it"),
    "no devices": (["--trainer.devices=0"], "--trainer", "change it"),
    "clipping twice": (["--trainer.gradient_clip_val=1.0"], "--trainer", "use --model.gradient_clip"),
    "accumulating by hand and by trainer": (
        ["--trainer.accumulate_grad_batches=4"],
        "--trainer",
        "use --data.batch_size and --model.micro_batch_tokens",
    ),
    "overfitting a stream": (["--trainer.overfit_batches=2"], "--trainer.overfit_batches", "use --data.train.limit"),
    "an unwritable directory": (
        ["--trainer.logger.init_args.save_dir=/proc/runs"],
        "/proc/runs",
        "choose another directory by --trainer.logger.save_dir",
    ),
    # --- checkpoints ---
    "no such checkpoint": (["--ckpt_path=none.ckpt"], "--ckpt_path none.ckpt", "give a file under runs"),
    "a torn checkpoint": (["--ckpt_path=torn.ckpt"], "--ckpt_path torn.ckpt", "start anew without it"),
    "no last checkpoint": (["--ckpt_path=last"], "--ckpt_path last", "give the path"),
    "a run for its checkpoint": (["--ckpt_path=no_model"], "no_model is a folder and no checkpoint", "give one"),
    # --- models ---
    "no such model": (["--model.student.path=./nowhere"], "--model.student.path ./nowhere", "mend the path"),
    "no such teacher's model": (["--model.teachers.code.path=./no"], "--model.teachers.code.path", "mend the path"),
    "a directory without a model": (["--model.student.path=./no_model"], "--model.student.path", "save_pretrained"),
    "a model of the playground that there is not": (
        ["--model.student.path=playground:stduent"],
        "playground:stduent",
        "one of student",
    ),
    "quantised weights to train": (["--model.student.quantization=4bit"], "--model.student.quantization", "lora"),
    # --- data ---
    "no such file": (["--data.train.path=none.jsonl"], "--data.train.path none.jsonl", "mend the path"),
    "a folder": (["--data.train.path=no_model"], "--data.train.path no_model", "give one with .jsonl"),
    "an empty file": (["--data.train.path=empty.jsonl"], "--data.train.path empty.jsonl", "give a table"),
    "a torn file": (["--data.train.path=torn.jsonl"], "torn.jsonl:1", "mend or remove it"),
    "no such column": (["--data.train.prompt_column=question"], "question", "choose --data.train.prompt_column from"),
    "an empty prompt": (["--data.train.path=silent.jsonl"], "silent.jsonl:1", "column 'prompt' is empty; give one"),
    "the same name twice": (["--data.train.path=twice.jsonl"], "twice.jsonl:2", "--data.train.id_column"),
    "a missing picture": (["--data.train.path=blind.jsonl"], "no.png does not exist", "mend column 'images'"),
    "no gold answer": (["--data.train.path=ungraded.jsonl"], "no gold answer", "by `answer_column`"),
    "no such grader": (["--data.train.grader=maths"], "'maths'", "name one of"),
    "no such teacher": (["--data.train.teacher=law"], "--model.teachers has only math, code", "add a teacher"),
    "no such domain": (["--data.train.only_domains=[law]"], "--data.train.only_domains has 'law'", "choose among"),
    "prompts that are all too long": (["--data.max_prompt_tokens=1"], "--data.max_prompt_tokens 1", "raise it"),
    "a batch of more than there is": (["--data.global_batch_size=64"], "--data.batch_size 64", "lower it"),
    "no batch": (["--data.batch_size=0"], "--data.batch_size", "must be at least 1"),
    "a set of the playground that there is not": (
        ["--data.train.path=playground:tarin"],
        "--data.train.path playground:tarin",
        "name one of these",
    ),
    # --- science ---
    "a share above one": (["--model.sampling.top_p=1.5"], "top_p", "must be"),
    "no tokens to compare": (["--model.loss.top_k=0"], "--model.loss.top_k", "at least 1"),
    "sampled loss on a teacher's answers": (["--model.writer=teacher"], "--model.writer", "set --model.loss.kind"),
    "a clip below 0": (["--model.loss.clip_low=-0.2"], "--model.loss.clip_low", "must be in [0, 1]"),
    "a negative rate": (
        ["--model.optimizer.lr=-1"],
        "--model.optimizer: Invalid learning rate: -1.0",
        "change that option",
    ),
    "weights that have diverged": (
        [
            "--model.optimizer.lr=1e30",
            "--trainer.max_steps=3",
            "--model.lr_scheduler=null",
            "--model.gradient_clip=null",
        ],
        "logits are not finite",
        "lower the learning rate",
    ),
    "more updates than answers": (["--model.updates_per_rollout=99"], "--model.updates_per_rollout 99", "lower it"),
    "nothing to learn": (["--model.advantage.teacher_weight=0"], "--model.advantage.teacher_weight", "raise one"),
    "a margin mask that retains too much": (
        ["--trainer.callbacks+=callbacks.MarginCalibration", "--trainer.callbacks.min_retain=2"],
        "MarginCalibration.min_retain",
        "must be in [0, 1]",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.thinned(7)
def test_a_mistake_is_answered_by_one_sentence(mistake, fit, capsys):
    arguments, words, remedy = MISTAKES[mistake]
    error = sentence_for([*fit, *arguments], capsys)
    assert words in error
    assert remedy in error


def test_without_a_gpu_the_gpu_config_says_what_to_take(fit, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU, for which the config is")
    error = sentence_for([*fit, f"--config={GPU}"], capsys)
    assert "--trainer" in error
    assert "take -c configs/trainer/cpu.yaml" in error


def test_a_teacher_of_another_family(fit, capsys, new_model):
    other = new_model("other", tokenizer=make_tokenizer(characters=CHARACTERS[::-1]))
    error = sentence_for([*fit, f"--model.teachers.code.path={other}"], capsys)
    assert "--model.teachers.code has another tokenizer than --model.student" in error
    assert "choose models of one family" in error


@pytest.mark.parametrize(
    ("arguments", "words", "remedy"),
    [
        ([], "subcommand", "`uniopd --help` lists"),
        (["train"], "'train'", "`uniopd --help` lists"),
        (["fit"], "--data and --model", "give a config"),
        (["fit", "configs/sft.yaml"], "configs/sft.yaml stands alone", "put -c before it"),
        (["-c", QUICKSTART, "fit"], "stands before fit", "put -c and all options behind the verb"),
        (
            ["test", "-c", PAIRS, TINY, "--data.train.path=pairs.jsonl", "--data.val=null"],
            "`test_dataloader`",
            "no data for this verb",
        ),
        (
            ["validate", "-c", QUICKSTART, TINY.replace("policy", "student"), "--data.val=null"],
            "no prompts to validate with",
            "--data.val.path",
        ),
        (["compare"], "uniopd compare: the following arguments are required", "see `uniopd compare --help`"),
        (["compare", "a", "b"], "a holds no records", "give the directory of a run"),
        (["view", "x", "--bogus"], "--bogus", "see `uniopd view --help`"),
        (["view", "nowhere"], "uniopd view: nowhere does not exist", "give the directory of a run"),
        (["regrade", "nowhere"], "nowhere is no directory", "give that of a run"),
        (["benchmarks", "--bogus"], "--bogus", "see `uniopd benchmarks --help`"),
        (["export"], "uniopd export: the following arguments are required", "see `uniopd export --help`"),
        (
            ["validate", "-c", str(ROOT / "configs/benchmarks.yaml"), "--profile", "fxture"],
            "profile",
            "did you mean fixture?",
        ),
        (
            ["validate", "-c", str(ROOT / "configs/benchmarks.yaml"), "--data.benchmarks=[aime2]"],
            "'aime2'",
            "`uniopd benchmarks` lists",
        ),
    ],
)
def test_a_mistake_of_any_command(arguments, words, remedy, desk, capsys, monkeypatch):
    monkeypatch.chdir(desk)
    error = sentence_for(arguments, capsys)
    assert words in error
    assert remedy in error


def test_debug_shows_where_it_happened(fit):
    with pytest.raises(UserError, match=r"there is no last\.ckpt") as raised:
        main([*fit, "--ckpt_path=last", "--debug"])
    assert "find_checkpoint" in [frame.name for frame in raised.traceback]
    with pytest.raises(Exception, match="invalid strategy name") as lightnings:
        main([*fit, "--trainer.strategy=fdsp", "--debug"])
    assert lightnings.value.__cause__ is not None


# --- every message in the source, triggered here or not ---

NAMES = re.compile(
    r"--[a-z{]|\{(?:self\.)?flag\}|\{(?:row\.)?where\}|`[a-z_]+`?|\b[A-Z][A-Za-z]+\.[a-z_{]|\b[a-z_]+\.[a-z_{]+\b|\bcolumn\b"
    r"|uniopd \w+|Benchmark \{|Prompt \{|\b[Pp]icture \{|[Ss]erver(?:'s address)? \{|[Cc]heckpoint\}? |address of|grader named|playground:|\{[^}]*(?:path|file|ledger|source|directory|target)\b"
    r"|__name__\}\.[a-z_]+"
)
"""A flag, an option of a class, a column, a file, a prompt, a benchmark or a command."""
REMEDY = re.compile(
    r"(?:^|[;:,(] |, so |; (?:or|and|in `uniopd fit`) |, then |[a-z], or )"
    r"(?:accept|add|change|check|choose|compare|delete|download|drop|evaluate|export|free|give|install|keep|leave|look"
    r"|lower|make|measure|mend|move|name|pin|put|raise|remove|resume|route|run|sample|score|see|set|start|switch|take"
    r"|train|use|write)\b|\{remedy\}|\bset it to\b|\bneeds (?:--|sampling\.)|\bmust (?:be|begin|end|have|hold|not)\b|`uniopd [a-z]+` lists",
    re.IGNORECASE,
)
"""What to do, or what must be the case."""
PUT_TOGETHER = {
    "lit_uniopd/benchmarks/judging/args.py": "a judge's sentence under the option's name there (tests/benchmarks/judging/test_evaluation.py)",
    "lit_uniopd/cli/early_check.py": "the parser's own sentence about an unknown option (tests/cli/test_early_check.py)",
    "lit_uniopd/cli/error_messages.py": "its sentences are put together from the parser's and Lightning's; the tests above have them",
    "lit_uniopd/doctor/cli.py": "fit's own sentence, with the doctor's help named beside",
    "lit_uniopd/memory/suggestions.py": "the remedy is the lever that is found, or a smaller model (tests/memory/test_plan.py)",
    "lit_uniopd/policy/loading.py": "one of five remedies, of which the tests above have two",
    "lit_uniopd/utils/objections.py": "the sentence of an Objection, which is looked at where that is made",
    "lit_uniopd/modules/lossy_sources.py": "the remedy is that of the reason for which rows are lost (tests/modules/test_lengths.py)",
    "lit_uniopd/teachers/remote.py": "one of the complaints of lit_uniopd/utils/http.py, behind the flag",
}
"""Files in which a message is more than what stands in the call, and where it is looked at instead."""


MESSAGE_AT = {"UserError": 0, "Objection": 1}
"""Which of the arguments is the sentence."""


def messages() -> Iterator[tuple[str, str]]:
    """File and text of every ``UserError(...)`` and ``Objection(...)``; what is filled in stands in braces."""
    for package in ("lit_uniopd", "callbacks", "datamodules"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MESSAGE_AT:
                    yield str(path.relative_to(ROOT)), text_of(node.args[MESSAGE_AT[node.func.id]])


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        texts = [
            f"{{{ast.unparse(p.value)}}}" if isinstance(p, ast.FormattedValue) else text_of(p) for p in node.values
        ]
        return "".join(texts)
    return f"{{{ast.unparse(node)}}}"


def faults_of(text: str) -> list[str]:
    filled = re.sub(r"\{[^{}]*\}", "x", text)
    return [
        fault
        for fault, applies in (
            ("names no flag, column or file", not NAMES.search(text)),
            ("has no remedy", not REMEDY.search(text)),
            ("does not end", not text.endswith(".")),
            ("is more than one sentence", bool(re.search(r"[.!?] [A-Z]|\n", filled))),
        )
        if applies
    ]


def test_every_message_names_where_and_what_to_do():
    every = list(messages())
    assert len(every) > 200
    faults = [(file, text, faults_of(text)) for file, text in every if file not in PUT_TOGETHER]
    assert [fault for fault in faults if fault[2]] == []
    for file in PUT_TOGETHER:
        assert any(where == file and faults_of(text) for where, text in every), f"{file} needs no exception any more"


@pytest.mark.parametrize(
    "text",
    [
        "Something went wrong.",
        "--data.path {path} is bad.",  # and now?
        "It failed; choose another.",  # what did?
        "--data.path {path} is bad; choose another",
        "--data.path {path} is bad. Choose another file.",
    ],
)
def test_the_rule_finds_messages_that_leave_one_alone(text):
    assert faults_of(text)
