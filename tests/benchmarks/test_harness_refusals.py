"""What of lm-eval's tasks cannot be run here is told in one sentence, before a model is loaded."""

import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from harness_tasks import CHOICES, save_task, write_tasks
from tiny import make_model, make_tokenizer, trainer

from datamodules import BenchmarkDataModule
from lit_uniopd.benchmarks.harness.args import HarnessArgs
from lit_uniopd.errors import UserError
from lit_uniopd.modules import Evaluation
from lit_uniopd.policy import PolicyArgs

pytest.importorskip("lm_eval.evaluator", reason="pip install 'lit-uniopd[harness]'", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def validate(root: Path, model: str, name: str, **harness: Any) -> None:
    data = BenchmarkDataModule([name], profile="paper", harness=HarnessArgs(**harness))
    trainer(root, limit_val_batches=1.0).validate(Evaluation(PolicyArgs(path=model), grader_workers=1), data)


def test_an_empty_continuation_is_refused_before_anything_is_answered(tmp_path):
    model = str(make_model(tmp_path / "model"))
    folder = write_tasks(tmp_path / "tasks")
    rows = [*CHOICES[:2], CHOICES[2] | {"choices": ["", "b", "c", "d"]}]
    task = {
        "task": "own_empty",
        "output_type": "multiple_choice",
        "target_delimiter": "",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
    }
    path = save_task(folder, task, rows, rows)
    with pytest.raises(UserError, match="scores an empty continuation after 'which is river"):
        validate(tmp_path / "run", model, f"lm_eval:{path}")
    assert not list((tmp_path / "run").rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unsafe_code": True}, "own_few.yaml runs programs that the model has written, outside of our sandbox"),
        ({"metric_list": [{"metric": "code_eval"}]}, "runs programs"),
        ({"dataset_path": "nobody/has-this"}, "cannot be loaded .ConnectionError: no network.; check the network"),
        ({"doc_to_choice": "options"}, "own_few.yaml cannot be loaded"),
        ({"doc_to_image": "picture"}, "lm_eval:own_few has pictures or sound"),
        (
            {"output_type": "generate_until", "generation_kwargs": {"num_beams": 4}},
            "lm_eval:own_few: its generation_kwargs ask for num_beams",
        ),
        (
            {"output_type": "generate_until", "generation_kwargs": {"do_sample": True}},
            "do_sample without a temperature",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_tasks_that_cannot_be_run_here(tmp_path, change, message, monkeypatch):
    load = datasets.load_dataset

    def unreachable(path: str, *args: Any, **options: Any) -> Any:
        if path != "json":
            raise ConnectionError("no network")
        return load(path, *args, **options)

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    path = write_tasks(tmp_path) / "own_few.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as error:
        BenchmarkDataModule([f"lm_eval:{path}"], profile="paper").setup("validate")
    assert "\n" not in str(error.value)


def test_what_scoring_lacks_is_told_before_a_model_is_loaded(tmp_path):
    """IFEval's checkers, say, download tables."""
    folder = write_tasks(tmp_path)
    (folder / "scoring.py").write_text("def score(doc, results):\n    raise LookupError('no tables')\n")
    path = folder / "own_sums.yaml"
    path.write_text(path.read_text() + "process_results: !function scoring.score\n")
    with pytest.raises(UserError, match=r"lm_eval:own_sums cannot score an empty answer \(LookupError: no tables\)"):
        BenchmarkDataModule([f"lm_eval:{path}"], profile="paper").setup("validate")


def test_a_group_is_searched_for_programs(tmp_path):
    folder = write_tasks(tmp_path)
    path = folder / "own_few.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"unsafe_code": True}))
    with pytest.raises(UserError, match="lm_eval:own_few runs programs"):
        BenchmarkDataModule(["lm_eval:own_group"], harness=HarnessArgs(include_path=str(folder)))


def test_a_folder_that_is_none_a_file_that_is_none_and_the_profile_without_rows(tmp_path, tasks):
    with pytest.raises(UserError, match="include_path /nowhere is no folder"):
        BenchmarkDataModule(["lm_eval:own_few"], harness=HarnessArgs(include_path="/nowhere"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="is not the file of a task of lm-eval"):
        BenchmarkDataModule([f"lm_eval:{tmp_path / 'list.yaml'}"])
    data = BenchmarkDataModule(["lm_eval:own_few"], profile="fixture", harness=HarnessArgs(include_path=str(tasks)))
    with pytest.raises(UserError, match="has no bundled rows"):
        data.setup("validate")


@pytest.mark.slow
def test_names_of_lm_evals_own():
    with pytest.raises(UserError, match=r"does not know \(did you mean .*lm_eval:ifeval"):
        BenchmarkDataModule(["lm_eval:ifevall"])
    with pytest.raises(UserError, match="lm_eval:humaneval runs programs"):
        BenchmarkDataModule(["lm_eval:humaneval"])
    BenchmarkDataModule(["lm_eval:ifeval", "lm_eval:gsm8k", "lm_eval:mmlu", "math500"])  # whose rows are on the hub


def test_without_a_chat_template(tmp_path, tasks):
    path = str(make_model(tmp_path / "model", tokenizer=make_tokenizer(chat_template=None)))
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        validate(tmp_path / "run", path, "lm_eval:own_few", include_path=str(tasks), apply_chat_template=True)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(UserError, match=r"pip install 'lit-uniopd\[harness\]'"):
        BenchmarkDataModule(["lm_eval:ifeval"])
