"""The command line as its user meets it, in process; `tests/test_quickstart.py` runs the real command."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch
import yaml
from tiny import module, trainer

from lit_uniopd.cli import main
from lit_uniopd.cli.app import log_untrained, run
from lit_uniopd.errors import UserError
from lit_uniopd.modules import Evaluation
from lit_uniopd.policy import PolicyArgs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path: Path, model_dirs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a user with three models and two files, in a directory of their own."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i), "domain": ["math", "code"][i % 2]} for i in range(8)]
    for name in ("train", "heldout"):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
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
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
        "--trainer.enable_progress_bar=false",
        "--model.grader_workers=1",
    ]


@pytest.mark.slow
def test_a_users_own_models_and_prompts(files, tmp_path):
    main(["fit", *files])
    first = tmp_path / "runs/multi_teacher/version_0"
    assert set(json.loads((first / "summary.json").read_text())["after"]) == {"math", "code"}
    assert (first / "export/policy/model.safetensors").exists()
    saved = yaml.safe_load((first / "config.yaml").read_text())
    assert saved["model"]["init_args"]["sampling"]["n"] == 2  # the run's record is the resolved config
    checkpoint = first / "checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2

    main(["fit", *files, "--trainer.max_steps=4", "--trainer.val_check_interval=1", "--ckpt_path=last"])
    again = tmp_path / "runs/multi_teacher/version_1"
    assert torch.load(again / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    before = json.loads((first / "summary.json").read_text())["before"]
    assert json.loads((again / "summary.json").read_text())["before"] == before  # remembered, not measured anew

    main(["predict", *files, f"--ckpt_path={checkpoint}"])
    lines = (tmp_path / "runs/multi_teacher/version_2/predictions.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert json.loads(lines[0])["outcome"] in (0, 1)

    main(["validate", *files, f"--ckpt_path={checkpoint}"])
    assert json.loads((tmp_path / "runs/multi_teacher/version_3/summary.json").read_text())["step"] == 2
    tested = run(
        ["test", *files, f"--ckpt_path={checkpoint}", "--data.test.path=train.jsonl", "--data.test.grader=math"]
    )
    assert {"test/math/accuracy", "test/code/accuracy"} <= set(tested.trainer.callback_metrics)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data.train.path=none.jsonl"], "none.jsonl"),
        (["--data.train.prompt_column=question"], "question"),
        (["--data.train.grader=maths"], "maths"),
        (["--data.train.teacher=law"], "--model.teachers has only math, code"),
        (["--data.max_prompt_tokens=1"], "--data.max_prompt_tokens"),
        (["--model.student.path=./nowhere"], "--model.student.path ./nowhere: there is no such directory"),
        (["--model.teachers.code.path=./nowhere"], "--model.teachers.code.path ./nowhere: there is no such directory"),
        (["--model.sampling.top_p=1.5"], "top_p"),
        (["--model.loss.top_k=0"], "--model.loss.top_k must be at least 1"),
        (
            ["--model.studnt.path=x"],
            "--model.studnt.path: there is no such option (did you mean --model.student.path?)",
        ),
        (["--model.sampling.n=many"], "--model.sampling.n expects a whole number, not 'many'"),
        (["--data.batch_siz=3"], "--data.batch_siz: there is no such option (did you mean --data.batch_size?)"),
        (["--bogus=1"], "--bogus: there is no such option"),
        (["--config=nothing.yaml"], "--config nothing.yaml: there is neither such a file in"),
        (["--ckpt_path=nothing.ckpt"], "--ckpt_path nothing.ckpt does not exist"),
        (["--ckpt_path=last"], "--ckpt_path last: there is no last.ckpt"),
        (["--trainer.logger.init_args.save_dir=/proc/runs"], "--trainer.logger.save_dir"),
    ],
)
@pytest.mark.thinned(7)
def test_mistakes_are_answered_by_one_sentence(files, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *files, *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error
    assert "Traceback" not in error


def test_an_empty_file_is_answered_by_one_sentence(files, capsys, tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(SystemExit):
        main(["fit", *files])
    assert "train.jsonl" in capsys.readouterr().err.strip().splitlines()[-1]


def test_debug_keeps_the_traceback(files):
    with pytest.raises(UserError, match="does not exist"):
        main(["fit", *files, "--ckpt_path=nothing.ckpt", "--debug"])


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_answered_by_one_sentence(files, capsys, new_model):
    main(["fit", *files])
    other = new_model("wider", vocab_size=128)
    with pytest.raises(SystemExit):
        main(["fit", *files, f"--model.student.path={other}", "--ckpt_path=last"])
    assert "--ckpt_path holds another model than --model.student.path" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_checkpoint_is_answered_by_one_sentence_that_names_a_whole_one(files, capsys, tmp_path):
    main(["fit", *files])
    checkpoints = tmp_path / "runs/multi_teacher/version_0/checkpoints"
    content = bytearray((checkpoints / "last.ckpt").read_bytes())
    newest = tmp_path / "runs/multi_teacher/version_7/checkpoints/last.ckpt"
    newest.parent.mkdir(parents=True)
    older = r"the newest whole one is --ckpt_path \S*version_0/checkpoints/\S+\.ckpt\.$"

    newest.write_bytes(content[: len(content) // 2])
    sentence = error_of(capsys, ["fit", *files, "--ckpt_path=last"])
    assert re.match(rf"error: --ckpt_path last: \S*version_7/\S+ is damaged \(cut off\).*; {older}", sentence)

    content[len(content) // 2] ^= 4  # found when it is read as a whole
    newest.write_bytes(content)
    sentence = error_of(capsys, ["validate", *files, f"--ckpt_path={newest}"])
    assert re.match(rf"error: --ckpt_path \S*version_7/\S+ is damaged \(wrong check sum of .*; {older}", sentence)


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The last line of a command that fails."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_every_argument_of_the_module_has_a_sentence(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--model.help=lit_uniopd.modules.UniOPD"])
    text = capsys.readouterr().out
    for flag, sentence in {
        "--model.init_args.student.path": "A Hugging Face hub id, a local model directory",
        "--model.init_args.sampling.temperature": "0",
        "--model.init_args.loss.kind": "reverse KL on the sampled tokens",
        "--model.init_args.updates_per_rollout": "optimizer steps per rollout",
        "--model.init_args.micro_batch_tokens": "memory lever",
    }.items():
        assert flag.replace("init_args.", "") in text or flag in text
        assert sentence in " ".join(text.split())


def test_without_a_checkpoint_it_is_said_whose_weights_are_tested(model_dirs, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="lit_uniopd"):
        log_untrained("test", module(model_dirs), trainer(tmp_path))
        log_untrained(
            "test", Evaluation(PolicyArgs(path=model_dirs["student"])), trainer(tmp_path)
        )  # it trains nothing
    [message] = [message for message in caplog.messages if "ckpt_path" in message]
    assert message == (
        f"No --ckpt_path: test takes the weights of {model_dirs['student']} as they are; --ckpt_path last is the newest "
        "checkpoint of this run's name."
    )
