"""A real model at the command line, and what the doctor says of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from real_model import questions
from tiny import Prompts, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_uniopd.cli import main
from lit_uniopd.doctor import run_all_checks
from lit_uniopd.modules import UniOPD
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs

pytestmark = pytest.mark.slow

CONFIG = """
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 1
  log_every_n_steps: 1
  enable_progress_bar: false
  use_distributed_sampler: false
  logger: {class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {save_dir: runs, name: real}}
  callbacks: [{class_path: callbacks.PolicyExport}]
model:
  class_path: lit_uniopd.modules.UniOPD
  init_args:
    teachers: {default: {path: playground:smollm2}}
    sampling: {n: 2, max_new_tokens: 8}
data:
  class_path: datamodules.PromptDataModule
  init_args: {train: {path: prompts.jsonl}, batch_size: 2}
"""


def test_the_command_line_trains_and_exports_it(playground, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/playground").symlink_to(playground)
    Path("config.yaml").write_text(CONFIG)
    rows = [{"prompt": [dict(message) for message in prompt.messages]} for prompt in questions(2)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["fit", "-c", "config.yaml", "--model.student.path", "playground:smollm2"])
    (exported,) = Path("runs/real").glob("version_0/export/*")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(exported)
    finally:
        (exported / "model.safetensors").unlink(missing_ok=True)  # half a gigabyte, that pytest would keep
    tokenizer = AutoTokenizer.from_pretrained(exported)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, return_tensors="pt").input_ids
    answer = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"  # one step of 1e-6 changes little


@pytest.mark.exhaustive
def test_the_doctor_has_nothing_against_it(model_path, sharper, tmp_path):
    teachers = {"default": PolicyArgs(path=sharper)}
    module = UniOPD(PolicyArgs(path=model_path), teachers, SamplingArgs(n=2, max_new_tokens=8), grader_workers=1)
    findings = run_all_checks(module, Prompts(questions(2), batch_size=2), trainer(tmp_path))
    machine = {"versions", "device", "memory", "disk"}
    status = {finding.name: finding for finding in findings if finding.name not in machine}
    assert {name for name, finding in status.items() if finding.status != "green"} == {"golds"}  # they have no grader
    assert "135M parameters" in status["models"].message
    assert "The same table of 49,152 tokens." in status["tokens default"].message
    assert "end with <|im_end|> (2), sampling stops at tokenizer <|im_end|> (2)" in status["ends"].message
    assert {"self-test", "drift", "disagreement default", "template default"} <= status.keys()
