"""Tasks of lmms-eval with rows of our own, saved to a folder: nothing is downloaded."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import yaml
from tiny_pictures import picture

FUNCTIONS = """
def messages(doc):
    first, second = doc["pictures"]
    content = [{"type": "text", "text": "which of"}, {"type": "image", "url": first}, {"type": "text", "text": " and "}]
    content += [{"type": "image", "url": second}, {"type": "text", "text": doc["question"]}]
    return [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]}, {"role": "user", "content": content}
    ]


def score(doc, results):
    text = results[0]
    return {"letters": sum(map(str.isalpha, text)), "judged": {"score": sum(map(ord, text)) % 2, "row": doc["question_id"]}}


def share(items):
    return sum(item["score"] for item in items) / len(items)
"""
LIMITS = {"max_new_tokens": 12, "temperature": 0, "num_beams": 1, "do_sample": False}
WRITES = {"output_type": "generate_until", "test_split": "test", "generation_kwargs": LIMITS}
NAMES = ["own_mme", "own_world", "own_vqa", "own_pair", "own_words"]


def wheel(path: str) -> str:
    """A file of a task in the installed lmms-eval, by its place in `lmms_eval/tasks`; it is not imported for that."""
    spec = importlib.util.find_spec("lmms_eval")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "tasks" / path)


def write_lmms_tasks(folder: Path, golds: Sequence[str] = ()) -> Path:
    """Three tasks of the wheel with rows of ours, one with two pictures in its messages, one without, and a group.

    Args:
        folder: for them.
        golds: of the first rows of ``own_world``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "functions.py").write_text(FUNCTIONS)
    numbers = range(6)
    rows: dict[str, list[Any]] = {
        "question_id": [f"code_reasoning/{i // 2}.png" for i in numbers],
        "category": ["code_reasoning" if i < 4 else "count" for i in numbers],
        "question": [f"Is there a {word}?" for word in ("dog", "lamp", "cup", "hat", "tree", "boat")],
        "answer": [*golds, *("No" for _ in numbers)][: len(numbers)],
        "answers": [[word] * 10 for word in ("dog", "lamp", "cup", "hat", "tree", "boat")],
        "image": [picture(40 + 8 * i, 60 - 4 * i, seed=i) for i in numbers],
        "pictures": [[picture(30, 20 + i, seed=10 + i), picture(20 + i, 30, seed=20 + i)] for i in numbers],
    }
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("question_id", "category", "question", "answer")}
        | {"answers": datasets.Sequence(datasets.Value("string"))}
        | {"image": datasets.Image(), "pictures": datasets.Sequence(datasets.Image())}
    )
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(folder / "rows")
    yes_or_no = rows | {"answer": ["Yes" if i % 2 else "No" for i in numbers]}
    both = datasets.DatasetDict({"test": datasets.Dataset.from_dict(yes_or_no, features=features)})
    both.save_to_disk(folder / "yes_or_no")
    own = {"dataset_kwargs": {"load_from_disk": True}, "dataset_path": str(folder / "rows"), **WRITES}
    named = {"metadata": {"version": 2.0}}
    save(folder, own | {"task": "own_mme", "include": wheel("mme/mme.yaml"), "dataset_path": str(folder / "yes_or_no")})
    save(folder, own | {"task": "own_world", "include": wheel("realworldqa/realworldqa.yaml")})
    save(folder, own | {"task": "own_vqa", "include": wheel("textvqa/textvqa_val.yaml")})
    pair = own | named | {"task": "own_pair", "doc_to_text": "question", "doc_to_target": "answer"}
    metrics = [{"metric": "letters", "aggregation": "mean", "higher_is_better": True}]
    regex = {"function": "regex", "regex_pattern": "([a-zA-Z]+)"}
    pair["filter_list"] = [{"name": "word", "filter": [regex, {"function": "take_first"}]}]
    path = save(folder, pair | {"metric_list": metrics})
    path.write_text(path.read_text() + SCORED + "doc_to_messages: !function functions.messages\n")
    words = own | named | {"task": "own_words", "doc_to_text": "say {{question}}", "doc_to_target": "answer"}
    path = save(folder, words | {"metric_list": metrics})
    path.write_text(path.read_text() + SCORED)
    more = words | {"task": "own_more", "doc_to_text": "tell of {{question}}"}
    path = save(folder, more | {"metric_list": metrics})
    path.write_text(path.read_text() + SCORED)
    group = {"metric": "letters", "aggregation": "mean", "weight_by_size": True}
    save(folder, {"group": "own_group", "task": ["own_words", "own_more"], "aggregate_metric_list": [group]})
    return folder


SCORED = """- {metric: judged, aggregation: !function functions.share, higher_is_better: true}
process_results: !function functions.score
"""
"""What follows the list of metrics, which stands last in a file."""


def save(folder: Path, task: dict[str, Any]) -> Path:
    """Write the file of a task or group, its list of metrics last."""
    path = folder / f"{task.get('task') if isinstance(task['task'], str) else task['group']}.yaml"
    ordered = {name: task[name] for name in sorted(task, key=lambda name: name == "metric_list")}
    path.write_text(yaml.safe_dump(ordered, sort_keys=False, default_flow_style=None, width=1000))
    return path
