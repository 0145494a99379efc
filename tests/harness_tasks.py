"""Tasks of lm-eval with rows of our own, written to a folder: nothing is downloaded."""

import json
from pathlib import Path
from typing import Any

import yaml

ROWS = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 4) for b in range(2, 6)]
CHOICES = [
    {
        "question": f"which is {word}?",
        "choices": [word[::-1], word, f"{word} and {word}", "é" + word],
        "gold": 1 if i % 3 else 2,
    }
    for i, word in enumerate(["cat", "lamp", "river", "a", "salt", "moon", "oak", "tea", "fog"])
]
LOCAL = {"dataset_path": "json", "test_split": "test", "training_split": "train", "fewshot_split": "train"}


def write_tasks(folder: Path) -> Path:
    """A task that writes, two that choose, one that scores a last word, one of a text's perplexity, and two groups."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = {
        "task": "own_sums",
        "output_type": "generate_until",
        "num_fewshot": 2,
        "description": "add.\n\n",
        "doc_to_text": "q: {{question}}\na:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", "q:", "b1", "xx"], "max_gen_toks": 24, "do_sample": False},
        "filter_list": [
            {"name": "strict", "filter": [_function("regex", regex_pattern="([0-9])"), _function("take_first")]},
            {
                "name": "last",
                "filter": [_function("regex", regex_pattern="([a-z])", group_select=-1), _function("take_first")],
            },
        ],
        "metric_list": [_metric("exact_match", ignore_case=True)],
        "metadata": {"version": 2.0},
    }
    choose = {
        "task": "own_choice",
        "output_type": "multiple_choice",
        "num_fewshot": 1,
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [_metric(name) for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")],
        "metadata": {"version": 1.0},
    }
    few = choose | {"task": "own_few", "num_fewshot": 0, "metric_list": [_metric("acc"), _metric("acc_norm")]}
    word = {
        "task": "own_word",
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [_metric("acc"), _metric("perplexity", aggregation="perplexity", higher_is_better=False)],
    }
    text = {
        "task": "own_text",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{(question + answer) * 60}}",
        "metric_list": [
            _metric(
                name, aggregation=name if name == "bits_per_byte" else "weighted_perplexity", higher_is_better=False
            )
            for name in ("byte_perplexity", "bits_per_byte")
        ],
    }
    save_task(folder, sums, ROWS, ROWS[::-1])
    save_task(folder, choose, CHOICES, CHOICES[3:])
    save_task(folder, few, CHOICES[:4], CHOICES[5:])
    save_task(folder, word, ROWS[:7], ROWS)
    save_task(folder, text, ROWS[:3], ROWS)
    for name, weighted in (("own_group", True), ("own_even_group", False)):
        metrics = [{"metric": metric, "weight_by_size": weighted} for metric in ("acc", "acc_norm")]
        group = {"group": name, "task": ["own_choice", "own_few"], "aggregate_metric_list": metrics}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(group))
    return folder


def save_task(folder: Path, task: dict[str, Any], test: list[dict], train: list[dict]) -> Path:
    """Write a task's rows, and its file."""
    files = {}
    for split, rows in (("test", test), ("train", train)):
        path = folder / f"{task['task']}.{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = str(path)
    path = folder / f"{task['task']}.yaml"
    path.write_text(yaml.safe_dump({**LOCAL, "dataset_kwargs": {"data_files": files}, **task}))
    return path


def _function(name: str, **options: Any) -> dict[str, Any]:
    return {"function": name, **options}


def _metric(name: str, **options: Any) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True, **options}
