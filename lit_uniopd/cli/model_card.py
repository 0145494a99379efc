"""A model card from what a run has written: its settings, its scores and its figures."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lit_uniopd.benchmarks.datasets import LOCAL
from lit_uniopd.benchmarks.registry import all_specs
from lit_uniopd.benchmarks.report.summary import SUMMARY
from lit_uniopd.cli.export import Exported
from lit_uniopd.errors import UserError
from lit_uniopd.utils.markdown import cell, table
from lit_uniopd.utils.strict_yaml import read_yaml
from lit_uniopd.utils.versions import versions

FIGURES = "figures"
"""Folder of a pushed directory."""
METHODS = {
    "UniOPD": ("Uni-OPD", "on-policy distillation"),
    "OmniDPO": ("Omni-DPO", "preference learning in which each pair has a weight"),
    "Sentinel": ("SENTINEL", "preference learning on sentences against hallucinations"),
    "DPO": ("DPO", "preference learning"),
    "SFT": ("SFT", "supervised fine-tuning"),
}
"""Objective -> its name and what it is."""
PIPELINE_TAGS = {"text": "text-generation", "images": "image-text-to-text"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_URL = re.compile(r"\w+://\S+")
_PATH = re.compile(r"[/~.][^\n]*|\S*/\S*/\S*")
_SECRETS = ("token", "password", "secret", "api_key")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a card says of a run."""

    objective: str
    """Class of its module."""
    settings: Mapping[str, Any]
    """Its resolved config."""
    summary: Mapping[str, Any]
    """Its last benchmark summary; empty if it has none."""
    figures: tuple[Path, ...]
    """Those that it left in its directory."""


def read_facts(config: Path) -> RunFacts:
    """What the directory of a run says of it.

    Args:
        config: its config; summary and figures are looked for beside it.

    Raises:
        UserError: if the config or the summary cannot be read.
    """
    settings = read_yaml(config)
    path = config.with_name(SUMMARY)
    try:
        summary = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); move it away, or evaluate the run again.") from error
    objective = str(settings["model"].get("class_path", "")).rpartition(".")[-1]
    return RunFacts(objective, settings, summary, tuple(sorted(config.parent.glob("*.png"))))


def model_card(
    facts: RunFacts,
    exported: Exported,
    repository: str,
    *,
    adapter: bool = False,
    extrapolation: float = 0.0,
    licence: str | None = None,
) -> ModelCard:
    """The card, with the fields that the hub reads.

    Args:
        facts: of the run.
        exported: what was written of it.
        repository: OWNER/NAME on the hub.
        adapter: the directory holds an adapter alone.
        extrapolation: by how much of their way the weights went on beyond the trained ones.
        licence: of the weights, as the hub names it. None: the card has no such field.
    """
    data = ModelCardData(
        model_name=repository.rpartition("/")[-1],
        license=licence,
        base_model=exported.base if is_hub_id(exported.base) else None,
        datasets=sorted({path for path in _data_paths(facts.settings) if is_hub_id(path)}) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=PIPELINE_TAGS["images" if exported.images else "text"],
        tags=["lit_uniopd", *([METHODS[facts.objective][0].lower()] if facts.objective in METHODS else [])],
        eval_results=list(_eval_results(facts.summary)) or None,
    )
    sections = [
        f"# {repository.rpartition('/')[-1]}",
        _about(facts, exported, extrapolation),
        _use(repository, exported, adapter),
        _scores(facts.summary),
        _figures(facts.figures),
        _training(facts),
        _versions(facts.summary),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(text for text in sections if text) + "\n")


def is_hub_id(path: str) -> bool:
    """Whether a path names a repository of the hub and nothing on this machine."""
    return _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def public(value: Any, key: str = "") -> Any:
    """A setting as strangers may read it: folders of this machine, servers and secrets left out, None as well.

    Args:
        value: a setting, or a mapping or list of them.
        key: its name.
    """
    if isinstance(value, Mapping):
        parts = {k: public(v, str(k)) for k, v in value.items() if v is not None}
        return {k: v for k, v in parts.items() if v not in ({}, [])}
    if isinstance(value, list | tuple):
        return [public(item, key) for item in value]
    if not isinstance(value, str):
        return value
    if any(key.endswith(secret) for secret in _SECRETS):
        return "(left out)"
    if _URL.fullmatch(value):
        return "(an address)"
    return Path(value).name if _PATH.fullmatch(value) else value


def _about(facts: RunFacts, exported: Exported, extrapolation: float) -> str:
    name, meaning = METHODS.get(facts.objective, (facts.objective, "an objective of its owner's own"))
    link = f"[{exported.base}](https://huggingface.co/{exported.base})"
    base = link if is_hub_id(exported.base) else f"`{public(exported.base)}`"
    teachers = facts.settings["model"].get("init_args", {}).get("teachers") or {}
    paths = {n: public((t or {}).get("path") or "the student itself") for n, t in teachers.items()}
    taught = f" Teachers: {', '.join(f'{n} (`{path}`)' for n, path in paths.items())}." if paths else ""
    beyond = ""
    if extrapolation:
        beyond = (
            f" The weights were then extrapolated: {extrapolation:g} of the way from the first to the trained"
            " ones was added (ExPO, arXiv 2404.16792); the scores below are of the trained ones."
        )
    return f"{base} after {exported.steps:,} optimizer steps of {name}, {meaning}, with lit_uniopd.{taught}{beyond}"


def _use(repository: str, exported: Exported, adapter: bool) -> str:
    images = exported.images
    auto = "AutoModelForImageTextToText" if images else "AutoModelForCausalLM"
    reader = "AutoProcessor" if images else "AutoTokenizer"
    imports, loading = f"from transformers import {auto}, {reader}", f'{auto}.from_pretrained("{repository}")'
    if adapter:
        imports = f"from peft import PeftModel\n{imports}"
        loading = f'PeftModel.from_pretrained({auto}.from_pretrained("{public(exported.base)}"), "{repository}")'
    what = "processor" if images else "tokenizer"
    lines = [imports, "", f"model = {loading}", f'{what} = {reader}.from_pretrained("{repository}")']
    return "## Use\n\n```python\n" + "\n".join(lines) + "\n```"


def _scores(summary: Mapping[str, Any]) -> str:
    """A row for each benchmark."""
    benchmarks = summary.get("benchmarks") or {}
    if not benchmarks:
        return ""
    others = [name for name in ("before", "teachers") if summary.get(name)]
    rows = []
    for key, result in benchmarks.items():
        card: dict[str, Any] = result["card"] or {}
        metric = card.get("primary") or (f"judged by {result['judge']}" if result["judge"] else "none yet")
        low, high = (card.get("interval") or {}).get(metric) or (None, None)
        interval = "" if low is None else f" ({low:.3f} to {high:.3f})"
        name = result["domain"] if key.endswith("@val") else key  # own rows go by their domain
        references = [_number(summary[other].get(name)) for other in others]
        partial = "" if result["complete"] else ", not complete"
        score = f"{_number(result['scores'].get(metric))}{interval}"
        judged = next((j for j in result.get("judged", ()) if result["judge"] and metric in j["scores"]), None)
        label = metric if judged is None else f"{metric}, judged by {cell(public(judged['judge']['name']))}"
        rows.append([cell(key), label, *references, score, f"{result['answers']:,}{partial}"])
    profiles = ", ".join(sorted({result["profile"] for result in benchmarks.values()}))
    note = f"Profile `{profiles}`; 95 % intervals by bootstrap over questions."
    header = ["benchmark", "metric", *others, "this model", "answers"]
    return f"## Scores\n\nAt step {summary['step']:,}.\n\n{table(header, rows)}\n\n{note}"


def _figures(figures: tuple[Path, ...]) -> str:
    return "\n\n".join(f"![{figure.stem.replace('_', ' ')}]({FIGURES}/{figure.name})" for figure in figures)


def _training(facts: RunFacts) -> str:
    settings = facts.settings
    shown = {
        "seed": settings.get("seed_everything"),
        "model": settings["model"].get("init_args", {}),
        "data": (settings.get("data") or {}).get("init_args", {}),
        "trainer": {
            name: settings["trainer"].get(name)
            for name in ("precision", "max_epochs", "max_steps", "limit_train_batches", "devices", "num_nodes")
        },
    }
    text = yaml.safe_dump(public(shown), sort_keys=False, allow_unicode=True)
    return (
        "## Training\n\nThe settings of the run; paths of its machine are cut to their last part.\n\n"
        f"<details><summary>Settings</summary>\n\n```yaml\n{text}```\n\n</details>"
    )


def _versions(summary: Mapping[str, Any]) -> str:
    environments = {"evaluated": summary.get("versions") or {}, "exported": versions()}
    lines = [
        f"- {what} with " + ", ".join(f"{name} {number}" for name, number in numbers.items() if "not " not in number)
        for what, numbers in environments.items()
        if numbers
    ]
    return "## Versions\n\n" + "\n".join(lines)


def _eval_results(summary: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Complete scores on data sets of the hub, for the hub's own tables."""
    hub_ids = {spec.key: spec.hub.id for spec in all_specs() if not spec.hub.id.endswith(LOCAL)}
    for key, result in (summary.get("benchmarks") or {}).items():
        metric = (result["card"] or {}).get("primary", "")
        score = result["scores"].get(metric)
        if result["complete"] and score is not None and key in hub_ids:
            yield EvalResult(
                task_type="text-generation",
                dataset_type=hub_ids[key],
                dataset_name=key,
                metric_type=metric,
                metric_value=score,
            )


def _data_paths(settings: Mapping[str, Any]) -> Iterator[str]:
    """Of the rows that were trained on."""
    train = ((settings.get("data") or {}).get("init_args") or {}).get("train") or ()
    for source in train if isinstance(train, list) else [train]:
        if isinstance(source, Mapping) and isinstance(source.get("path"), str):
            yield source["path"]


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"
