"""What the runs of configs/reproduce read, in the order in which the published ones saw it. Needs the hub."""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lit_uniopd.utils.jsonl import write_lines

TRL_MODEL = ("Qwen/Qwen2.5-0.5B-Instruct", "7ae557604adf67be50417f59c2c2f167def9a775")
TRL_STEPS, TRL_BATCH, TRL_LENGTH, TRL_SEED = 50, 8, 512, 42
TUFT_TRAIN, TUFT_HELD_OUT, TUFT_STEPS, TUFT_BATCH, TUFT_SEED = 256, 100, 16, 8, 0
TUFT_EXAMPLES = (0, 1, 2, 4)
"""Rows of GSM8K's training split that its teacher reads: clips, babysitting, a wallet, letters."""
STUDENT_SYSTEM = "Solve the problem."
"""In our words."""


def trl_order(prompt_tokens: Sequence[int]) -> list[int]:
    """Rows of a data set in the order of TRL's DPO trainer on one process.

    It leaves out rows whose prompts fill the length, and draws one permutation from the seed.

    Args:
        prompt_tokens: of each row, how many its prompt has behind the chat template.
    """
    fitting = [row for row, tokens in enumerate(prompt_tokens) if tokens < TRL_LENGTH]
    order = torch.randperm(len(fitting), generator=torch.Generator().manual_seed(TRL_SEED))
    return [fitting[i] for i in order.tolist()]


def write_trl_dpo(folder: Path) -> list[Path]:
    """The pairs of TRL's 50 steps."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    name, revision = TRL_MODEL
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    rows: Any = load_dataset("trl-lib/ultrafeedback_binarized", split="train")
    lengths = [
        len(tokenizer.apply_chat_template(row["chosen"][:-1], add_generation_prompt=True, return_dict=False))
        for row in rows
    ]
    chosen = trl_order(lengths)[: TRL_STEPS * TRL_BATCH]
    return [_write(folder / "train.jsonl", [{side: rows[i][side] for side in ("chosen", "rejected")} for i in chosen])]


def tuft_problems(train: Sequence[Any], test: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """TuFT's training problems, one for each prompt of its 16 steps, and its held-out ones.

    It shuffles both splits by one generator, keeps 256 and 100, and draws each step's problems with replacement.

    Args:
        train: rows of GSM8K.
        test: rows of GSM8K.
    """
    train, test, rng = list(train), list(test), random.Random(TUFT_SEED)
    rng.shuffle(train)
    rng.shuffle(test)
    draws, count = random.Random(TUFT_SEED), min(TUFT_TRAIN, len(train))
    drawn = [train[draws.randrange(count)] for _ in range(TUFT_STEPS * TUFT_BATCH)]
    return drawn, test[:TUFT_HELD_OUT]


def gsm8k_row(row: Any) -> dict[str, Any]:
    """A row of GSM8K as the student reads it, with the number behind its ``####``."""
    gold = row["answer"].rpartition("####")[2].strip().replace(",", "").replace("$", "")
    messages = [("system", STUDENT_SYSTEM), ("user", row["question"].strip())]
    return {"prompt": [{"role": role, "content": text} for role, text in messages], "answer": gold}


def gsm8k_example(row: Any) -> dict[str, str]:
    """A row of GSM8K as a worked example, without the marks of its calculator."""
    return {"prompt": row["question"].strip(), "answer": re.sub(r"<<[^<>]*>>", "", row["answer"]).strip()}


def write_tuft_self_teacher(folder: Path) -> list[Path]:
    """Training and held-out problems, and the teacher's worked examples."""
    from datasets import load_dataset

    splits: Any = load_dataset("openai/gsm8k", "main")
    train, test = tuft_problems(splits["train"], splits["test"])
    return [
        _write(folder / "train.jsonl", map(gsm8k_row, train)),
        _write(folder / "heldout.jsonl", map(gsm8k_row, test)),
        _write(folder / "examples.jsonl", [gsm8k_example(splits["train"][i]) for i in TUFT_EXAMPLES]),
    ]


def _write(path: Path, rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, rows)
    return path


WRITERS: dict[str, Callable[[Path], list[Path]]] = {
    "trl_dpo": write_trl_dpo,
    "tuft_self_teacher": write_tuft_self_teacher,
}
"""By config; the others read published files as they are."""
