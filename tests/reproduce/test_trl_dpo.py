"""TRL's own trainer and the config that is to reproduce it, on a tiny model: the same rows, losses and norms, step by step."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tokenizer

from benchmarks.reproduce import rows
from benchmarks.reproduce.compare import read_curves
from lit_uniopd.cli import main

ROOT = Path(__file__).parents[2]
STEPS, RATE = 3, 1e-3
"""A larger rate than the published one, so that a wrong order or schedule shows."""


def conversation(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def published_rows() -> list[dict[str, Any]]:
    """In the form of trl-lib/ultrafeedback_binarized: one prompt too long, and answers that are cut."""
    sides = {"chosen": lambda i: f"{i} is right" + 600 * "." * (i == 5), "rejected": lambda i: f"{i * i}, no"}
    questions = [f"what is {i}?" + 600 * " " * (i == 3) for i in range(STEPS * 8 + 1)]
    return [
        {side: conversation(question, text(i)) for side, text in sides.items()}
        | {"score_chosen": 8.0, "score_rejected": 1.0}
        for i, question in enumerate(questions)
    ]


def trl_curves(model: str, data: list[dict[str, Any]], out: Path) -> dict[str, list[float]]:
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    settings: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    settings |= {"max_steps": STEPS, "learning_rate": RATE, "logging_steps": 1, "max_length": rows.TRL_LENGTH}
    settings |= {"seed": rows.TRL_SEED, "data_seed": rows.TRL_SEED}
    settings |= {"model_init_kwargs": {"dtype": "float32", "attn_implementation": "eager"}}
    trainer: Any = DPOTrainer(
        model=model,
        processing_class=make_tokenizer(),
        train_dataset=Dataset.from_list(data),
        args=DPOConfig(output_dir=str(out), **settings),
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {name: [entry[name] for entry in logged] for name in ("loss", "grad_norm")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TRL's own
def test_the_config_takes_trls_steps(model_dirs, tmp_path, monkeypatch):
    pytest.importorskip("trl")
    data = published_rows()
    theirs = trl_curves(model_dirs["student"], data, tmp_path / "trl")
    tokenizer = make_tokenizer()
    lengths = [
        len(tokenizer.apply_chat_template(row["chosen"][:-1], add_generation_prompt=True, return_dict=False))
        for row in data
    ]
    order = rows.trl_order(lengths)
    assert len(order) == STEPS * 8
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text("".join(json.dumps(data[i]) + "\n" for i in order))
    files = ["-c", str(ROOT / "configs/reproduce/trl_dpo.yaml"), "-c", str(ROOT / "configs/trainer/cpu.yaml")]
    changed = {
        "model.policy.path": model_dirs["student"],
        "model.policy.revision": "null",
        "model.optimizer.lr": RATE,
        "model.lr_scheduler.total_iters": STEPS,
        "trainer.max_steps": STEPS,
        "data.train.path": "train.jsonl",
    }
    main(["fit", *files, *(word for name, value in changed.items() for word in (f"--{name}", str(value)))])
    ours = read_curves(tmp_path / "runs/reproduce_trl_dpo/version_0/metrics.csv")
    assert ours["train/loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert ours["train/grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    assert max(theirs["loss"]) - min(theirs["loss"]) > 1e-3  # or the steps would say nothing
