"""null, in every option of every shipped class that may have none, on the command line, in a config, and over a config."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning import Callback, LightningDataModule, LightningModule
from parsing import SHIPPED, Option, options_of, parsed

from lit_uniopd.cli.arguments import configure_parsing
from lit_uniopd.cli.error_messages import OneSentenceParser
from lit_uniopd.errors import UserError
from lit_uniopd.modules import UniOPD
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.teachers import TeacherArgs

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["-c", str(ROOT / "configs/uni_opd/multi_teacher.yaml"), "--data.train.path=t.jsonl"]


def nested(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def at(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = settings[name]
    return settings


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> tuple[str, str, list[Option]]:
    """Path of a class, its section, and its options."""
    section, cls = SHIPPED[request.param]
    options = list(options_of(cls))
    if not any(option.nullable for option in options):
        pytest.skip("nothing of it may be null")
    return request.param, section, options


@pytest.fixture(scope="module")
def parser() -> OneSentenceParser:
    """Like that of `uniopd`, without a trainer, for speed."""
    configure_parsing()
    parser = OneSentenceParser()
    parser.add_argument("--model", type=LightningModule, enable_path=True)
    parser.add_argument("--data", type=LightningDataModule, enable_path=True)
    parser.add_argument("--trainer.callbacks", type=list[Callback], enable_path=True)
    parser.add_argument("-c", "--config", action="config")
    return parser


@pytest.mark.parametrize("containers", [False, True], ids=["values", "dataclasses"])
@pytest.mark.thinned(5)
def test_null_is_null(shipped, containers, parser, tmp_path):
    path, section, options = shipped
    nullable = [option.key for option in options if option.nullable]
    parents = [key for key in nullable if any(other.key.startswith(f"{key}.") for other in options)]
    chosen = parents if containers else [key for key in nullable if key not in parents]
    chosen = [key for key in chosen if not containers or not any(key.startswith(f"{other}.") for other in parents)]
    needed = {
        o.key: "text" if o.value is None else o.value
        for o in options
        if o.required and not (containers and o.value is None)
    }
    needed = {key: value for key, value in needed.items() if not any(key.startswith(f"{c}.") for c in chosen)}
    given = {o.key: o.value for o in options if o.key in chosen and o.value is not None}

    def config(name: str, values: dict[str, Any]) -> str:
        spec: Any = {"class_path": path, "init_args": nested(values)}
        spec = {"trainer": {"callbacks": [spec]}} if section == "trainer.callbacks" else {section: spec}
        (tmp_path / name).write_text(yaml.safe_dump(spec).replace("'None'", "None"))
        return f"--config={tmp_path / name}"

    def values(*arguments: str) -> dict[str, Any]:
        settings = at(parser.parse_args(arguments), section)
        settings = (settings[-1] if section == "trainer.callbacks" else settings).init_args
        return {key: at(settings, key) for key in chosen}

    base = config("values.yaml", needed | given)
    assert [key for key, value in values(base).items() if key in given and value is None] == []
    nulls = dict.fromkeys(chosen)
    assert values(base, *(f"--{section}.{key}=null" for key in chosen)) == nulls
    assert values(base, *(word for key in chosen for word in (f"--{section}.{key}", "None"))) == nulls
    assert values(base, config("null.yaml", nulls)) == nulls
    assert values(config("none.yaml", needed | dict.fromkeys(chosen, "None"))) == nulls


@pytest.mark.parametrize("word", ["null", "None", "~", "Null"])
@pytest.mark.parametrize(
    "key", ["model.loss.gap_threshold", "model.teachers.code", "data.train.grader", "model.lr_scheduler"]
)
@pytest.mark.thinned(4)
def test_each_way_to_write_it(word, key):
    section, _, rest = key.partition(".")
    assert at(parsed(*ARGUMENTS, f"--{key}", word)[section].init_args, rest) is None


def test_null_in_lists_and_mappings():
    data = parsed(*ARGUMENTS, "--data.train", '[{path: a.jsonl, grader: null}, {path: b.jsonl, domain: "it\'s: one"}]')
    assert data.data.init_args.train[0].grader is None
    lora = parsed(*ARGUMENTS, "--model.student.lora", "{rank: 4}").model.init_args.student.lora
    assert lora.rank == 4
    teachers = parsed(*ARGUMENTS, "--model.teachers", "{math: {path: m, revision: null}, code: null}")
    assert teachers.model.init_args.teachers["code"] is None
    assert teachers.model.init_args.teachers["math"].revision is None
    reads = parsed(*ARGUMENTS, "--model.teachers", "{math: {path: m, reads: {template: '{prompt}!', examples: null}}}")
    assert reads.model.init_args.teachers["math"].reads.template == "{prompt}!"
    assert reads.model.init_args.teachers["math"].reads.examples is None
    assert parsed(*ARGUMENTS, "--trainer.logger", "null").trainer.logger is None


@pytest.mark.parametrize(
    "text",
    ["123", "1e-5", "yes", "true", "Question: be short", "[INST]", "{image}", "Answer:", "2026-01-31", "it's", ""],
)
@pytest.mark.thinned(4)
def test_a_text_remains_as_it_was_typed(text):
    assert parsed(*ARGUMENTS, "--data.train.domain", text).data.init_args.train.domain == text
    assert parsed(*ARGUMENTS, f"--model.student.path={text}").model.init_args.student.path == text


@pytest.mark.parametrize("key", ["model.sampling.n", "model.micro_batch_tokens", "model.loss.clip_low"])
def test_where_null_is_not_allowed_it_is_refused(key):
    with pytest.raises(UserError, match=rf"^--{key}\b"):
        parsed(*ARGUMENTS, f"--{key}=null")


@pytest.mark.parametrize(
    ("arguments", "domains"),
    [
        (["=[math, code]"], ["math", "code"]),
        (["+=math", "+=code"], ["math", "code"]),
        (["=[math]", "+=code"], ["math", "code"]),
        (["=[math]", "+=[code, law]"], ["math", "code", "law"]),
        (["+=[code, 1]"], ["code", "1"]),  # and no text "[code, 1]"
        (["=[math]", "+=[]"], ["math"]),
        (["=[math]", "=null"], None),
        (["=null", "+=math"], ["math"]),
    ],
)
@pytest.mark.thinned(3)
def test_lists(arguments, domains):
    options = [f"--data.train.only_domains{argument}" for argument in arguments]
    assert parsed(*ARGUMENTS, *options).data.init_args.train.only_domains == domains


def test_sources_are_appended():
    more = "--data.train+=[{path: b.jsonl, grader: null}, {path: c.jsonl, limit: 3}]"
    train = parsed(*ARGUMENTS, more).data.init_args.train
    assert [(source.path, source.grader, source.limit) for source in train[1:]] == [
        ("b.jsonl", None, None),
        ("c.jsonl", None, 3),
    ]


def test_a_teacher_that_is_null_is_none():
    teachers: Any = {"math": TeacherArgs("x"), "code": None}
    assert list(UniOPD(PolicyArgs("x"), teachers).teachers) == ["math"]
    with pytest.raises(UserError, match=r"Set --model\.teachers to at least one"):
        UniOPD(PolicyArgs("x"), dict.fromkeys(teachers))  # type: ignore[arg-type]


def test_a_number_of_yaml_1_2_is_a_number(tmp_path):
    (tmp_path / "lr.yaml").write_text("model: {init_args: {optimizer: {init_args: {lr: 1e-5}}, gradient_clip: 1e0}}\n")
    model = parsed(*ARGUMENTS, "-c", str(tmp_path / "lr.yaml")).model.init_args
    assert (model.optimizer.init_args.lr, model.gradient_clip) == (1e-5, 1.0)
