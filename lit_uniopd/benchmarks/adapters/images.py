"""Benchmarks with pictures whose rows need more than columns."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lit_uniopd.benchmarks.adapters.base import Adapted, AdapterContext
from lit_uniopd.benchmarks.adapters.columns import (
    choices_of,
    columns,
    example_of,
    fill_template,
    lettered,
    roles_of,
)
from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.word_vectors import similar_words

Rows = Sequence[Mapping[str, Any]]


def mathvision(rows: Rows, spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """MathVision: free answers and letters in one column; what is said about options is said where a row has some.

    ``adapter_args.with_options`` is that part of the prompt, and the template's field ``choices`` its place.
    """
    examples = []
    for number, row in enumerate(rows):
        values = roles_of(row, spec)
        options = choices_of(values["options"])
        part = fill_template(spec.adapter_args["with_options"], {"options": lettered(options)}) if options else ""
        examples.append(example_of({**values, "choices": part}, spec, number))
    return Adapted(examples)


def we_math(rows: Rows, spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """We-Math: problems of two or three steps, and each step as a question of its own.

    The group is the problem: problems of two steps and of three are numbered apart. ``breakdown["key"]`` says which
    part of it a row is (``2steps_1``, ``2steps_2``, ``2steps_multi`` ...).
    """
    examples = []
    for number, row in enumerate(rows):
        values = roles_of(row, spec)
        key = str(values["key"])
        group = f"{key.partition('_')[0]}/{values['id']}"
        examples.append(replace(example_of(values, spec, number), group=group, breakdown={"key": key}))
    return Adapted(examples)


def visulogic(rows: Rows, spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """VisuLogic: rows name pictures in ``images.zip`` of the same repository; those of bundled rows are drawn."""
    examples = []
    for number, row in enumerate(rows):
        values = roles_of(row, spec)
        values["question"] = str(values["question"]).strip()
        cell = values.get("image")
        if isinstance(cell, str) and not context.fixture:
            values = {**values, "image": {"bytes": _read_zipped(spec.hub.id, spec.hub.revision, cell)}}
        examples.append(example_of(values, spec, number))
    return Adapted(examples)


@cache
def _archive(repository: str, revision: str | None) -> zipfile.ZipFile:
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(repository, "images.zip", repo_type="dataset", revision=revision)
    except Exception as error:  # network, authorisation, a missing file: the user's to mend
        raise UserError(f"images.zip of {repository} cannot be downloaded ({error}); check the network.") from error
    return zipfile.ZipFile(path)


def _read_zipped(repository: str, revision: str | None, name: str) -> bytes:
    """A member of the archive, read in memory: its name never becomes a path."""
    archive = _archive(repository, revision)
    for candidate in (name, f"images/{name}", Path(name).name):
        if candidate in archive.NameToInfo:
            return archive.read(candidate)
    raise UserError(f"images.zip of {repository} has no picture {name!r}; pin hub.revision to one that has.")


def scienceqa(rows: Rows, spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """ScienceQA: only questions with a picture; the hint, where there is one, comes before the question."""
    with_picture, left_out = [], 0
    for row in rows:
        values = roles_of(row, spec)
        if values.get("image") is None:
            left_out += 1
            continue
        hint = str(values.get("hint") or "").strip()
        question = f"{hint}\n{values['question']}" if hint else values["question"]
        with_picture.append({**row, spec.columns["question"]: question})
    adapted = columns(with_picture, spec, context)
    return Adapted(adapted.examples, {"no picture": left_out} if left_out else {})


def hallusion(rows: Rows, spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """HallusionBench: yes-no questions about pictures and their edited versions.

    Rows of one subcategory and set form a group, within which ``figure`` (same picture) and ``question_pair`` (same
    question) are whole.
    """
    examples = []
    for number, row in enumerate(rows):
        values = roles_of(row, spec)
        topic = f"{values['category']}/{values['subcategory']}/{values['set_id']}"
        breakdown = {
            "category": str(values["category"]),
            "question_pair": f"{topic}/{values['question_id']}",
            "figure": f"{topic}/{values['figure_id']}",
        }
        example = example_of(values, spec, number)
        examples.append(
            replace(example, group=topic, breakdown=breakdown, id=f"{breakdown['figure']}/q{values['question_id']}")
        )
    return Adapted(examples)


def annotated(rows: Rows, spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """Captions: the gold answer is a record of several columns (``adapter_args.gold``: name in the gold -> role)."""
    names: Mapping[str, str] = spec.adapter_args["gold"]
    examples = []
    for number, row in enumerate(rows):
        values = roles_of(row, spec)
        gold = {name: _parse_json(values[role]) for name, role in names.items()}
        examples.append(replace(example_of(values, spec, number), gold=gold))
    return Adapted(examples)


def amber(rows: Rows, spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """AMBER's captions: as ``annotated``, and with ``adapter_args.vectors`` also which words are alike.

    ``adapter_args.similarity`` is the cosine above which they are. They are compared here, once, not for each answer.

    Raises:
        UserError: if the metric's name does not say whether vectors are used, or they cannot be read.
    """
    path, metrics = spec.adapter_args.get("vectors"), [metric.get("name") for metric in spec.report.metrics]
    if (path is not None) != ("amber_vectors" in metrics) or (path is not None and "amber" in metrics):
        raise UserError(
            f"Benchmark {spec.key}: adapter_args.vectors and the metric amber_vectors belong together; start your YAML "
            "file with `inherit: _amber_vectors`, and give the path of vectors under adapter_args."
        )
    adapted = annotated(rows, spec, context)
    if path is None:
        return adapted
    words = {word for example in adapted.examples for word in _vocabulary(example.gold)}
    similar = similar_words(Path(path).expanduser(), words, float(spec.adapter_args.get("similarity", 0.8)))
    examples = [replace(example, gold=example.gold | {"similar": similar}) for example in adapted.examples]
    return Adapted(examples, adapted.left_out)


def _vocabulary(gold: Mapping[str, Any]) -> set[str]:
    """The words that are counted at all, and those that they are compared with."""
    association = gold["association"]
    return {*association, *(word for words in association.values() for word in words), *gold["truth"], *gold["hallu"]}


def _parse_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value
