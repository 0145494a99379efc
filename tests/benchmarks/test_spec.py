"""The contract of every benchmark that comes with us, and what a YAML file may say."""

from dataclasses import replace
from pathlib import Path

import pytest

from lit_uniopd.benchmarks import datasets
from lit_uniopd.benchmarks.datasets import fixture_rows, read_rows
from lit_uniopd.benchmarks.exports import FORMATS
from lit_uniopd.benchmarks.judging import JUDGED_HERE
from lit_uniopd.benchmarks.loading import check_golds, load_benchmark, select_examples
from lit_uniopd.benchmarks.metrics import build_metrics
from lit_uniopd.benchmarks.profiles import PROFILES
from lit_uniopd.benchmarks.registry import all_specs, expand, find_spec, groups
from lit_uniopd.benchmarks.spec import Benchmark, BenchmarkSpec, Example, Generation
from lit_uniopd.errors import UserError
from lit_uniopd.policy.chat_template import render
from lit_uniopd.rewards import GradeItem, GraderPool
from lit_uniopd.utils.paths import has_scheme

SPECS = all_specs()


@pytest.fixture(scope="module")
def graders():
    with GraderPool(workers=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, Benchmark]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_UNIOPD_CACHE", str(tmp_path_factory.mktemp("cache")))
        return {spec.key: load_benchmark(spec, "fixture") for spec in SPECS}


def ids(spec: BenchmarkSpec) -> str:
    return spec.key


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_the_bundled_rows_have_the_columns_of_the_hub(spec):
    rows = fixture_rows(spec)
    assert 4 <= len(rows) <= 8
    for row in rows:
        assert set(spec.columns.values()) <= set(row)


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_prompts_have_their_pictures_and_no_field_left_open(spec, loaded):
    for example in loaded[spec.key].examples:
        content = example.messages[-1]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        assert sum(part["type"] == "image" for part in parts) == len(example.images)
        text = "".join(part.get("text", "") for part in parts)
        assert text.strip()
        assert not any(f"{{{role}}}" in text for role in (*spec.columns, "options"))
        assert bool(example.images) is (spec.modality == "image")


def test_bundled_rows_train_no_playground(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "resolve_path", lambda path: pytest.fail(f"{path} takes minutes to build"))
    made_here = [spec for spec in SPECS if has_scheme(spec.hub.id)]
    for spec in made_here:
        assert len(load_benchmark(spec, "fixture").examples) >= 4
    assert {spec.id for spec in made_here} == {"playground_math", "playground_code", "playground_scenes"}


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_graders_accept_the_gold_answer_and_refuse_the_empty_one(spec, loaded, graders):
    report = check_golds(loaded[spec.key], graders)
    assert report.rejected == ()
    assert report.fooled == ()
    # Tests of programs, instructions and annotations are no responses; every other gold answer is.
    other_kind = ("code_functional", "code_stdio", "ifeval", "chair", "amber", None)
    assert report.checked == (0 if spec.scoring.grader in other_kind else len(loaded[spec.key].examples))


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_metrics_can_be_built_under_every_profile(spec):
    for profile in PROFILES.values():
        build_metrics(spec.report.metrics, profile.limit(spec.generation).n, spec_n=spec.generation.n)


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_what_has_no_grader_says_who_judges_and_in_which_format(spec):
    assert (spec.scoring.grader is None) == (spec.scoring.judge is not None)
    assert spec.scoring.judge is None or spec.scoring.export in FORMATS
    # What is scored by rule may be judged beside that, by `uniopd judge`.
    assert spec.scoring.export is None or spec.scoring.export in JUDGED_HERE
    assert spec.source


def test_prompts_can_be_rendered_by_the_tiny_models(loaded):
    from lit_uniopd.playground.untrained import make_byte_tokenizer

    tokenizer = make_byte_tokenizer()
    for benchmark in loaded.values():
        prompt = benchmark.prompt(benchmark.examples[0])
        text = str(tokenizer.decode(render(tokenizer, prompt, dict(benchmark.spec.prompt.chat))))
        assert text.endswith("assistant\n" if not benchmark.spec.prompt.chat else "</think>\n\n")
        assert text.count("<image>") == len(prompt.images)


def test_the_sixteen_in_five_domains():
    sixteen = expand(["uni_opd"])
    assert len(sixteen) == 16
    assert [spec.domain for spec in sixteen] == ["math"] * 4 + ["code"] * 3 + ["multimodal_math"] * 3 + [
        "logic"
    ] * 2 + ["document"] * 4
    for name, members in groups().items():
        assert expand([name]), name
        assert len(set(members)) == len(members)


def test_names_keys_and_the_default_protocol():
    assert find_spec("mathvision").key == "mathvision@lmms_reasoning"
    assert find_spec("mathvision@direct").protocol == "direct"
    assert next(s.key for s in expand(["chartqa", "chartqa@lmms", "document"])) == "chartqa@lmms"
    assert len(expand(["chartqa", "document"])) == 4


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(UserError, match=r"did you mean .*aime24"):
        find_spec("aime2")
    with pytest.raises(UserError, match="uniopd benchmarks"):
        find_spec("zzzzzz")


# --- a user's own ----------------------------------------------------------------------------------------------------

OWN = """
id: capitals
protocol: mine
version: 1
title: Capitals
domain: geography
modality: text
hub: {id: PATH}
columns: {id: name, question: question, answer: capital}
prompt: {template: "{question}\\nOne word, in \\\\boxed{}."}
generation: {n: 2, max_new_tokens: 16, temperature: 1.0}
scoring: {grader: math}
report: {metrics: [{name: avg}]}
"""


@pytest.fixture
def own_file(tmp_path) -> Path:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"name": "a", "question": "Of France?", "capital": "Paris"}\n{"name": "b", "question": "Of Peru?", "capital": "Lima"}\n'
    )
    path = tmp_path / "capitals.yaml"
    path.write_text(OWN.replace("PATH", str(rows)))
    return path


def test_a_yaml_file_is_a_benchmark(own_file):
    benchmark = load_benchmark(find_spec(str(own_file)), "paper")
    assert [e.gold for e in benchmark.examples] == ["Paris", "Lima"]
    assert benchmark.examples[0].messages[-1]["content"] == "Of France?\nOne word, in \\boxed{}."
    assert benchmark.generation.n == 2
    assert benchmark.tag("avg@2") == "eval/geography/capitals@mine/avg@2"
    assert load_benchmark(find_spec(str(own_file)), "smoke").tag("x").startswith("eval_smoke/")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("title:", "titel:", "no key 'titel'"),
        ("version: 1\n", "", "'version' is missing"),
        ("n: 2", "m: 2", "generation: there is no key 'm'"),
        ("modality: text", "modality: sound", "must be one of text, image"),
        ("n: 2", "n: two", "must be int"),
        ("{grader: math}", "{grader: null}", "neither a grader nor an export"),
        ("id: capitals", "id: [", "is not YAML"),
        ("answer: capital", "answer: town", "no column 'town'"),
        ("id: name", "id: capital2", "no column 'capital2'"),
        ("rows.jsonl", "none.jsonl", "does not exist"),
    ],
)
def test_mistakes_in_a_yaml_file_are_named(own_file, old, new, sentence):
    own_file.write_text(own_file.read_text().replace(old, new))
    with pytest.raises(UserError, match=sentence):
        load_benchmark(find_spec(str(own_file)), "paper")


def test_inheriting_merges_keys_one_by_one(own_file):
    child = own_file.with_name("child.yaml")
    child.write_text("inherit: capitals\nid: child\ngeneration: {n: 5}\n")
    spec = find_spec(str(child))
    assert (spec.id, spec.generation.n, spec.generation.max_new_tokens) == ("child", 5, 16)


def test_without_bundled_rows_the_fixture_profile_says_so(own_file):
    with pytest.raises(UserError, match="no bundled rows"):
        load_benchmark(find_spec(str(own_file)), "fixture")


def test_doubled_names_are_refused(own_file):
    rows = own_file.with_name("rows.jsonl")
    rows.write_text(rows.read_text().replace('"b"', '"a"'))
    with pytest.raises(UserError, match="not unique"):
        load_benchmark(find_spec(str(own_file)), "paper")


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85"])
def test_ends_of_lines_inside_a_text_end_no_row(own_file, end):
    rows = own_file.with_name("rows.jsonl")
    rows.write_text(rows.read_text(encoding="utf-8").replace("Of Peru?", f"Of{end}Peru?"), encoding="utf-8")
    examples = load_benchmark(find_spec(str(own_file)), "paper").examples
    assert [example.gold for example in examples] == ["Paris", "Lima"]
    assert f"Of{end}Peru?" in examples[1].messages[-1]["content"]


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_rows_come_from_the_first_id_that_answers(monkeypatch, caplog):
    requests = []

    def load(path, **options):
        requests.append((path, options))
        if path == "lmms-lab-encoder/ChartQA":
            raise ConnectionError("no route to host")
        return [{"question": "q", "image": "p.png", "answer": "1", "type": "t"}]

    monkeypatch.setattr("datasets.load_dataset", load)
    rows = read_rows(find_spec("chartqa"), "paper")
    assert [name for name, _ in requests] == ["lmms-lab-encoder/ChartQA", "lmms-lab/ChartQA"]
    assert "trust_remote_code" not in requests[0][1]
    assert rows[0]["answer"] == "1"
    assert "has 1 rows, where its spec expects 2500" in caplog.text


def test_without_a_network_one_sentence_names_the_remedy(monkeypatch):
    def load(path, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(UserError, match=r"gsm8k@unidpo cannot be loaded.*no route to host.*--data\.profile fixture"):
        load_benchmark(find_spec("gsm8k"), "smoke")


def test_a_changed_column_is_named(monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda path, **options: [{"query": "q", "answer": "1"}])
    with pytest.raises(UserError, match=r"no column 'question' \(it has query, answer\)"):
        load_benchmark(find_spec("gsm8k"), "smoke")


def test_a_repository_of_raw_files_is_read_by_the_json_builder(monkeypatch):
    request = {}
    monkeypatch.setattr("datasets.load_dataset", lambda path, **options: request.update(path=path, **options) or [])
    read_rows(find_spec("livecodebench"), "paper")
    assert request["path"] == "json"
    assert request["data_files"].endswith("test6.jsonl")


# --- profiles --------------------------------------------------------------------------------------------------------


def test_a_profile_takes_whole_groups_the_same_ones_in_any_order():
    rows = [Example(id=f"{g}.{i}", messages=(), gold=None, group=str(g)) for g in range(40) for i in range(3)]
    selected = select_examples(rows, "smoke", None)
    assert len({e.group for e in selected}) == 16
    assert len(selected) == 48
    assert {e.id for e in select_examples(rows[::-1], "smoke", None)} == {e.id for e in selected}
    assert len(select_examples(rows, "paper", None)) == 120
    assert len({e.group for e in select_examples(rows, "paper", 2)}) == 2


def test_profiles_lower_and_never_raise():
    generation = Generation(n=32, max_new_tokens=16384)
    assert (PROFILES["curve"].limit(generation).n, PROFILES["curve"].limit(generation).max_new_tokens) == (4, 4096)
    assert PROFILES["curve"].limit(replace(generation, n=1, max_new_tokens=16)) == replace(
        generation, n=1, max_new_tokens=16
    )
    assert PROFILES["paper"].limit(generation) == generation


def test_pictures_of_a_data_set_stay_files_until_they_are_needed(tmp_path, monkeypatch):
    import datasets

    from lit_uniopd.benchmarks.synthetic_images import draw
    from lit_uniopd.utils.images import open_image

    path = tmp_path / "p.png"
    draw({"drawing": "scene", "objects": ["cat"]}).save(path)
    rows = {"question": ["q"], "image": [str(path)], "answer": ["1"], "type": ["t"]}
    real = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    monkeypatch.setattr("datasets.load_dataset", lambda path, **options: real)
    benchmark = load_benchmark(find_spec("chartqa"), "smoke")
    image = benchmark.examples[0].images[0]
    assert isinstance(image, bytes | str)  # not a decoded picture
    assert open_image(image).size == (224, 224)
    assert load_benchmark(find_spec("chartqa"), "smoke").fingerprint == benchmark.fingerprint


# --- files of users --------------------------------------------------------------------------------------------------


def own(folder: Path, text: str) -> BenchmarkSpec:
    (folder / "mine.yaml").write_text(text)
    return find_spec(str(folder / "mine.yaml"))


def test_a_file_starts_from_a_benchmark_that_comes_with_us(tmp_path):
    base = find_spec("math500")
    spec = own(tmp_path, "inherit: math500\nprotocol: mine\ngeneration: {n: 4}\n")
    assert spec == replace(base, protocol="mine", generation=replace(base.generation, n=4), published={})


def test_other_rows_take_over_nothing_of_what_was_said_about_the_base_s(tmp_path):
    spec = own(tmp_path, "inherit: math500\nid: mine\nhub: {id: me/mine}\ncolumns: {question: q, answer: a}\n")
    assert (spec.hub.split, spec.columns, spec.size, spec.fixture) == (
        "test",
        {"question": "q", "answer": "a"},
        None,
        None,
    )
    assert (spec.published, spec.licence, spec.source, spec.verified) == ({}, "not checked", "", False)
    assert (spec.prompt, spec.scoring) == (find_spec("math500").prompt, find_spec("math500").scoring)
    fallbacks = own(tmp_path, "inherit: chartqa\nid: mine\nhub: {id: me/mine}\n")
    assert find_spec("chartqa").hub.fallbacks
    assert fallbacks.hub.fallbacks == ()
    assert fallbacks.columns == find_spec("chartqa").columns


def test_another_grader_has_no_options_of_the_first(tmp_path):
    spec = own(tmp_path, "inherit: aime24\nprotocol: mine\nscoring: {grader: exact}\n")
    assert find_spec("aime24").scoring.options
    assert spec.scoring.options == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inherit: math50\nid: x\n", r"inherit names 'math50'.*\(did you mean math500\?\)"),
        ("inherit: math500\ngeneration: {temprature: 1.0}\n", r"no key 'temprature' \(did you mean temperature\?\)"),
        ("inherit: math500\nscorin: {grader: exact}\n", r"no key 'scorin' \(did you mean scoring\?\)"),
        ("inherit: math500\nscoring: {grader: exact}\n", "another `scoring` than math500@unidpo, and the same name"),
        ("inherit: math500\ngeneration: {n: 3}\n", "another `generation` than math500@unidpo"),
    ],
)
def test_mistakes_of_a_file_that_inherits(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        own(tmp_path, text)


def test_a_benchmark_by_a_grader_of_one_s_own(tmp_path, monkeypatch, graders):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "graders_of_test_spec.py").write_text(
        "def right(text, gold, row):\n    return text == gold and row['answer'] == gold and 'level' in row\n"
        "def broken(text, row):\n    return row['nothing']\n"
    )
    accepted = {}
    for name in ("right", "broken"):
        text = f"inherit: math500\nprotocol: {name}\nscoring: {{grader: graders_of_test_spec.{name}}}\n"
        benchmark = load_benchmark(own(tmp_path, text), "fixture")
        report = check_golds(benchmark, graders)
        example = benchmark.examples[0]
        item = GradeItem(str(benchmark.grader(example)), example.gold, example.gold, example.row)
        accepted[name] = (report.good, graders.grade([item])[0].correct)
    assert accepted == {"right": (True, True), "broken": (False, None)}
