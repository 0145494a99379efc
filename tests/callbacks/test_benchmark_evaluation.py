"""What a run leaves behind for its user: tables, files, TensorBoard, an exported model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Prompts, adam, module, prompts, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from callbacks import BenchmarkEvaluation, PolicyExport, RolloutBrowser
from callbacks.benchmark_evaluation import as_read
from lit_uniopd.benchmarks.heldout import heldout_benchmarks
from lit_uniopd.errors import UserError
from lit_uniopd.policy import LoraArgs, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.teachers import ReadsArgs, TeacherArgs, WorkedExample
from lit_uniopd.teachers.pool import TeacherPool


@pytest.fixture
def run_dir(model_dirs: dict[str, str], tmp_path: Path) -> Path:
    """Two steps with every callback."""
    return fit(model_dirs, tmp_path)


def fit(paths: dict[str, str], root: Path, **options: Any) -> Path:
    logger = TensorBoardLogger(root, name="run", default_hp_metric=False)
    callbacks = [BenchmarkEvaluation(teachers=True), RolloutBrowser(every_n_steps=1), PolicyExport()]
    run = trainer(
        root, logger=logger, callbacks=callbacks, limit_val_batches=1.0, num_sanity_val_steps=0, log_every_n_steps=1
    )
    run.fit(module(paths, optimizer=adam, **options), Prompts(prompts(8)))
    return Path(logger.log_dir)


def events(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory), size_guidance={"tensors": 0, "scalars": 0}).Reload()


def test_the_summary_has_before_after_and_teachers_per_domain(run_dir, capsys):
    summary = json.loads((run_dir / "summary.json").read_text())
    for model in ("before", "after", "teachers"):
        assert set(summary[model]) == {"math", "code"}
        assert all(0 <= score <= 1 for score in summary[model].values())
    assert summary["seed"] == 7
    assert summary["seconds"] > 0
    assert summary["step"] == 2


def test_a_teacher_is_evaluated_as_it_reads(model_dirs, tmp_path):
    """A row of `records.parquet` has the hash of its prompt; teacher and student of the same weights share no answer."""
    import pyarrow.parquet as pq

    path, reads = model_dirs["student"], ReadsArgs(template="{prompt}{answer}", examples=[WorkedExample("1=", "1")])
    teachers = {"math": TeacherArgs(path=path, reads=reads), "code": TeacherArgs(path=path)}
    run = fit({name: path for name in model_dirs}, tmp_path, teachers=teachers)  # noqa: C420  # pyright types fromkeys otherwise
    rows = pq.read_table(run / "records.parquet").to_pylist()
    first = [row for row in rows if row["step"] == 0]
    answers = {
        domain: {
            who: {(r["sample_id"], r["prompt_hash"], r["fingerprint"]) for r in first if r["model"] == who}
            for who in {r["model"] for r in first if r["benchmark"] == domain}
        }
        for domain in ("math", "code")
    }
    assert set(answers["math"]) == {"student", "teacher math"}
    assert len(set.union(*answers["math"].values())) == 2 * len(answers["math"]["student"])
    # The other reads what the student reads, and has its weights: the answers are taken over.
    assert "student" not in answers["code"] or "teacher code" not in answers["code"]


def test_a_benchmark_as_a_teacher_reads_it():
    rows = [replace(prompt, teacher_system="s" if i else None) for i, prompt in enumerate(prompts(4)[::2])]
    benchmark = heldout_benchmarks(rows, SamplingArgs(), "val")["math"]
    pool = TeacherPool({"math": TeacherArgs(path="m")})
    read = as_read(benchmark, pool.reading)
    assert [len(example.messages) for example in read.examples] == [1, 2]
    assert read.examples[1].messages[0] == {"role": "system", "content": "s"}
    assert (read.key, read.fingerprint == benchmark.fingerprint) == (benchmark.key, False)
    assert [len(benchmark.prompt(example).messages) for example in benchmark.examples] == [1, 1]  # the student's
    same = heldout_benchmarks(prompts(4), SamplingArgs(), "val")["math"]
    assert as_read(same, pool.reading) is same


def test_the_table_ends_the_run_and_its_picture_lies_beside_it(model_dirs, tmp_path, capsys):
    directory = fit(model_dirs, tmp_path)
    output = capsys.readouterr().out
    assert all(word in output for word in ("before", "after", "teachers", "Mathematics"))
    assert (directory / "before_after.png").read_bytes()[:4] == b"\x89PNG"
    assert [event.step for event in events(directory).Images("before_after")] == [2]


def test_tensorboard_has_curves_from_step_0_reference_lines_and_rollouts(run_dir):
    student, teachers = events(run_dir), events(run_dir / "teachers")
    steps = [event.step for event in student.Scalars("val/math/accuracy")]
    assert steps == [0, 1]  # before, and after two batches (numbered from 0)
    score = json.loads((run_dir / "summary.json").read_text())["teachers"]["math"]
    assert [event.value for event in teachers.Scalars("val/math/accuracy")] == pytest.approx([score] * len(steps))
    assert len(student.Scalars("train/loss")) == 2
    text = student.Tensors("rollout_tokens/math/text_summary")[0].tensor_proto.string_val[0].decode()
    header, _, *rows = text.splitlines()
    assert header.split(" | ")[-1] == "advantage |"
    assert 2 <= len(rows) <= 24
    for row in rows:
        *_, student_logp, teacher_logp, advantage = (cell.strip() for cell in row.strip("| ").split(" | "))
        assert float(advantage) == pytest.approx(float(teacher_logp) - float(student_logp), abs=2e-3)
    text = student.Tensors("rollout/math/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("| mean advantage | outcome |")


def test_the_exported_student_loads_and_is_the_trained_one(model_dirs, tmp_path):
    run = fit(model_dirs, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(run / "export/policy")
    tokenizer = AutoTokenizer.from_pretrained(run / "export/policy")
    start = AutoModelForCausalLM.from_pretrained(model_dirs["student"])
    assert not torch.equal(model.lm_head.weight, start.lm_head.weight)
    assert tokenizer.chat_template
    ids = tokenizer("1+1=", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3).shape[1] > ids.shape[1]


def test_a_lora_run_exports_the_adapter_and_the_merged_model(model_dirs, tmp_path):
    run = fit(model_dirs, tmp_path, student=PolicyArgs(path=model_dirs["student"], lora=LoraArgs(rank=2)))
    assert (run / "export/adapter/adapter_model.safetensors").exists()
    assert AutoModelForCausalLM.from_pretrained(run / "export/policy").config.model_type == "qwen3"


def test_without_anything_to_evaluate_it_says_so(model_dirs, tmp_path):
    data = Prompts(prompts(4))
    data.val_prompts = []
    with pytest.raises(UserError, match="nothing to evaluate"):
        trainer(tmp_path, callbacks=[BenchmarkEvaluation()]).fit(module(model_dirs), data)
