"""What a teacher reads in the place of the student's prompt: the rules, and the numbers that come of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tokenizer
from transformers import AutoModelForCausalLM

from lit_uniopd.errors import UserError
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import HttpArgs, ReadsArgs, TeacherArgs, WorkedExample
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.teachers.reading import Reading, transcript, with_places
from lit_uniopd.types import Prompt, Rollouts

FLAG = "model.teachers.t.reads"
IMAGE = {"type": "image"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def asked(content: Any = "1+2=", **options: Any) -> Prompt:
    return Prompt(
        **{"id": "p", "messages": ({"role": "user", "content": content},), "gold": "3", "grader": "exact"} | options
    )


def read(prompt: Prompt, **options: Any) -> Prompt:
    return Reading(ReadsArgs(**options), FLAG)(prompt)


# --- the rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{prompt}\nA correct solution: {answer}", "1+2=\nA correct solution: 3"),
        ("{answer} is the answer to {prompt} {prompt}", "3 is the answer to 1+2= 1+2="),
        ("box it, \\boxed{{{answer}}}: {prompt}", "box it, \\boxed{3}: 1+2="),
        ("{hint}, {notes[0]}, {more[why]}, {level:02d}, {my column}; {domain} {id}", "add, a, b, 07, c; d p"),
        ("{answer!r:>5}", "  '3'"),
        ("nothing of it", "nothing of it"),
        ("{seen}; {seen:. }.; {notes:-}", "cup, dog, 3; cup. dog. 3.; a"),
    ],
)
def test_a_template_is_a_format_string_over_the_row(template, expected):
    row = {"hint": "add", "notes": ["a"], "more": {"why": "b"}, "level": 7, "my column": "c", "seen": ["cup", "dog", 3]}
    prompt = asked(row=row, domain="d")
    assert read(prompt, template=template).messages == ({"role": "user", "content": expected},)
    assert prompt.messages == ({"role": "user", "content": "1+2="},)


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        ("{solution}", {"b": 1}, r"asks for 'solution', .* choose among answer, b, domain, id, prompt\."),
        ("{b}", {"b": None}, "'p' has nothing in 'b'"),
        ("{b}", {"b": ""}, "'p' has nothing in 'b'"),
        ("{b[2]}", {"b": [1]}, r"'p' has nothing in 'b\[2\]'"),
        ("{b}", {"b": []}, "'p' has nothing in 'b'"),
        ("{b}", {"b": ["x", {}]}, r"'p' has a list in 'b', .* \{b\[0\]\}"),
        ("{b.real}", {"b": 1}, "'p' has nothing in 'b.real'"),  # of Python, and not of the data
        ("{b:d}", {"b": "x"}, "cannot write 'b' of prompt 'p'"),
    ],
)
def test_a_row_without_what_the_template_asks_for_is_refused(template, row, message):
    with pytest.raises(UserError, match=message):
        read(asked(row=row), template=template)


@pytest.mark.parametrize("template", ["\\boxed{}", "{0}", "{", "}", "{prompt!r}", "{prompt:>9}"])
def test_what_is_no_template_is_refused_before_any_row(template):
    with pytest.raises(UserError, match=rf"^--{FLAG}.template "):
        Reading(ReadsArgs(template=template), FLAG)


def test_examples_are_earlier_turns_behind_the_system_message():
    examples = [WorkedExample("1+1=", "2"), WorkedExample("2+2=", "4")]
    turns = [("user", "1+1="), ("assistant", "2"), ("user", "2+2="), ("assistant", "4")]

    def roles(prompt: Prompt) -> list[tuple[str, str]]:
        return [(message["role"], message["content"]) for message in prompt.messages]

    assert roles(read(asked(), examples=examples)) == [*turns, ("user", "1+2=")]
    spoken = ({"role": "system", "content": "mine"}, *asked().messages)
    theirs = asked(messages=spoken)
    assert roles(read(theirs, examples=examples)) == [("system", "mine"), *turns, ("user", "1+2=")]
    assert roles(read(theirs, examples=examples, system="yours"))[0] == ("system", "yours")
    assert roles(read(theirs, system="yours")) == [("system", "yours"), ("user", "1+2=")]
    row = replace(theirs, teacher_system="the row's")
    assert roles(read(row, system="yours")) == [("system", "the row's"), ("user", "1+2=")]
    assert roles(Reading(None, FLAG)(row)) == [("system", "the row's"), ("user", "1+2=")]
    own = replace(theirs, teacher_messages=({"role": "system", "content": "own"}, {"role": "user", "content": "q"}))
    assert roles(read(own, system="yours", template="{nothing}")) == [("system", "own"), ("user", "q")]
    assert roles(read(replace(own, teacher_system="row"))) == [("system", "row"), ("user", "q")]


def test_only_the_last_question_of_a_conversation_is_put_into_the_template():
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "so")]
    prompt = asked(messages=tuple({"role": role, "content": words} for role, words in turns))
    assert [m["content"] for m in read(prompt, template="{prompt}{answer}").messages] == ["a", "b", "c3", "so"]
    with pytest.raises(UserError, match="has no question of a user"):
        read(asked(messages=({"role": "assistant", "content": "so"},)), template="{prompt}")


def test_examples_come_from_a_file(tmp_path):
    rows = [{"prompt": "a\u2028b", "answer": "x", "level": 3}, {"prompt": "c", "answer": "y"}]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (tmp_path / "e.json").write_text(json.dumps(rows))
    expected = [("user", "a\u2028b"), ("assistant", "x"), ("user", "c"), ("assistant", "y")]
    for name in ("e.jsonl", "e.json"):
        assert Reading(ReadsArgs(examples=str(tmp_path / name)), FLAG).turns == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "cannot be read"),
        ("e.txt", "x", "of an unknown kind"),
        ("e.jsonl", "\n", "holds no rows"),
        ("e.jsonl", '{"prompt": "a"}', "e.jsonl:1 has no text as 'answer'"),
        ("e.jsonl", '{"prompt": "a", "answer": 3}', "e.jsonl:1 has no text as 'answer'"),
        ("e.jsonl", '{"prompt"', "e.jsonl:1 is not valid JSON"),
        ("e.json", '{"prompt": "a", "answer": "b"}', "must hold a list of rows"),
        ("e.json", '["a"]', "e.json:1 has no text as 'prompt'"),
    ],
)
def test_a_file_without_examples_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Reading(ReadsArgs(examples=str(tmp_path / name)), FLAG)


def test_pictures_keep_their_places_or_take_those_of_the_others():
    one = asked([IMAGE, text("what?")], images=("a",))
    assert read(one, template="{answer}. {prompt} Look!").messages[0]["content"] == [
        text("3"),
        text(". "),
        IMAGE,
        text("what?"),
        text(" Look!"),
    ]
    assert read(one, template="{answer}").messages[0]["content"] == [
        IMAGE,
        text("3"),
    ]  # it sees the picture all the same
    crops = replace(one, teacher_images=("b", "c"))
    assert Reading(None, FLAG)(crops).images == ("b", "c")
    assert Reading(None, FLAG)(crops).messages[0]["content"] == [IMAGE, IMAGE, text("what?")]
    blind = Reading(None, FLAG)(replace(one, teacher_images=()))
    assert (blind.images, blind.messages[0]["content"]) == ((), "what?")
    sees = Reading(None, FLAG)(asked(teacher_images=("b",)))
    assert (sees.images, sees.messages[0]["content"]) == (("b",), [IMAGE, text("1+2=")])
    turns = read(one, examples=[WorkedExample("q", "a")], system="s").messages
    assert [m["content"] for m in turns] == [[text("s")], [text("q")], [text("a")], [IMAGE, text("what?")]]
    between = [text("first "), IMAGE, text(" then "), IMAGE, text(".")]
    moved = with_places(({"role": "user", "content": between},), 2, 3)
    assert moved[0]["content"] == [text("first "), IMAGE, IMAGE, IMAGE, text(" then "), text(".")]


@pytest.mark.parametrize("prompt", [asked(), asked([IMAGE, text("what?")], images=("a",)), asked([text(""), IMAGE])])
def test_what_changes_nothing_is_the_students_prompt_itself(prompt):
    assert Reading(None, FLAG)(prompt) is prompt
    assert read(prompt) is prompt
    if prompt.messages[0]["content"][0] != text(""):
        assert read(prompt, template="{prompt}") is prompt
        assert Reading(None, FLAG)(replace(prompt, teacher_messages=prompt.messages)).messages == prompt.messages


def test_a_transcript_names_speakers_and_pictures():
    assert transcript(read(asked([IMAGE, text("what?")]), system="s")) == "system: s\n\nuser: [picture]what?"


def test_keys_tell_rows_apart_by_what_teachers_read_and_the_student_does_not(tmp_path):
    rows = [asked(), asked(teacher_messages=asked("9").messages), asked(teacher_system="s"), asked(teacher_images=())]
    assert len({row.key for row in rows}) == 1
    assert len({row.teacher_key for row in rows}) == 4
    assert rows[0].key == rows[0].teacher_key


# --- the numbers -----------------------------------------------------------------------------------------------------

READS = ReadsArgs(
    template="{prompt} is {answer}:",
    system="be good",
    examples=[WorkedExample("1+1=", "2"), WorkedExample("3+0=", "3")],
)
HEAD = "<bos>s:be good<end><bos>u:1+1=<end><bos>a:2<end><bos>u:3+0=<end><bos>a:3<end>"
PLACEMENTS = ["resident", "cpu_offload", "disk_cache", "vllm", "sglang"]


@pytest.fixture(scope="module")
def student(model_dirs) -> Policy:
    return Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)


def rows() -> list[Prompt]:
    """Of two domains; the last says by itself what its teacher reads."""
    prompts = [asked("1+" * i + f"{i}=", id=f"p{i}", gold=str(i * i), domain=["math", "code"][i % 2]) for i in range(5)]
    return [*prompts, asked("2-1=", id="own", domain="code", teacher_messages=asked("one?").messages)]


def expected_text(prompt: Prompt) -> str:
    """Written by hand in the tiny template."""
    if prompt.id == "own":
        return f"{HEAD}<bos>u:one?<end><bos>a:"
    return f"{HEAD}<bos>u:{prompt.messages[0]['content']} is {prompt.gold}:<end><bos>a:"


@pytest.fixture(scope="module")
def rollouts(student) -> Rollouts:
    return write_answers(student, rows(), SamplingArgs(n=3, max_new_tokens=8), seed=0)


@torch.no_grad()
def exact_logps(path: str, prompt: str, answer: list[int]) -> torch.Tensor:
    """Of all tokens at each place of an answer, ``[T, V]``, by plain transformers in float64."""
    tokens = make_tokenizer()(prompt, add_special_tokens=False).input_ids
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    logits = model(input_ids=torch.tensor([[*tokens, *answer]])).logits[0, len(tokens) - 1 : -1]
    return logits.log_softmax(-1)


def answers_of(rollouts: Rollouts) -> list[list[int]]:
    return [row[mask].tolist() for row, mask in zip(rollouts.tokens_BT, rollouts.mask_BT, strict=True)]


def expected_logps(paths: dict[str, str], rollouts: Rollouts) -> torch.Tensor:
    result = torch.zeros(rollouts.tokens_BT.shape, dtype=torch.float64)
    for row, answer in enumerate(answers_of(rollouts)):
        prompt = rollouts.prompts[row]
        logps = exact_logps(paths[prompt.domain], expected_text(prompt), answer)
        result[row, : len(answer)] = logps.gather(1, torch.tensor(answer)[:, None])[:, 0]
    return result


def placed(placement: str, paths: dict[str, str], root: Path, servers: Any, reads: ReadsArgs | None) -> TeacherPool:
    options: dict[str, Any] = {"placement": placement}
    if placement == "disk_cache":
        options["cache"] = str(root / "cache")
    teachers = {}
    for name in ("math", "code"):
        if placement in ("vllm", "sglang"):
            http = HttpArgs(urls=servers.urls["math"], protocol=placement, model="math")  # type: ignore[arg-type]
            options = {"placement": "http", "http": http}
        teachers[name] = TeacherArgs(path=paths[name], reads=reads, **options)
    return TeacherPool(teachers)


def scored(pool: TeacherPool, student: Policy, rollouts: Rollouts) -> torch.Tensor:
    pool.load(student)
    logps_BT, ok_B = pool.score(rollouts, temperature=1.0, max_tokens=200)
    assert ok_B.all(), pool.failures
    return logps_BT


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.thinned(6)
def test_every_teacher_scores_answers_behind_its_own_prompt(
    model_dirs, student, rollouts, tmp_path, model_servers, placement
):
    on_server = placement in ("vllm", "sglang")
    paths = {**model_dirs, "code": model_dirs["math"]} if on_server else model_dirs
    expected = expected_logps(paths, rollouts).float()
    pools = [placed(placement, paths, tmp_path, model_servers, READS) for _ in range(2)]
    for pool in pools:  # the second time from the cache, where there is one
        torch.testing.assert_close(scored(pool, student, rollouts), expected, atol=2e-5, rtol=1e-4)
    if placement == "disk_cache":
        assert pools[1].cache_counts() == (len(rollouts), 0)
        assert not pools[1].loaded
        other = placed(placement, paths, tmp_path, model_servers, replace(READS, system="be bad"))
        assert (scored(other, student, rollouts) - expected).abs().max() > 0.01
        assert other.cache_counts() == (0, len(rollouts))
    plain = make_tokenizer()
    for prompt, tokens in zip(rollouts.prompts, rollouts.prompt_tokens, strict=True):  # the student has seen none of it
        assert plain.decode(tokens) == f"<bos>u:{prompt.messages[0]['content']}<end><bos>a:"


def test_a_template_that_changes_nothing_changes_no_bit(model_dirs, student, rollouts, tmp_path):
    rollouts.prompts, before = [replace(p, teacher_messages=None) for p in rollouts.prompts], rollouts.prompts
    try:
        without = scored(placed("resident", model_dirs, tmp_path, None, None), student, rollouts)
        equal = scored(
            placed("resident", model_dirs, tmp_path, None, ReadsArgs(template="{prompt}")), student, rollouts
        )
    finally:
        rollouts.prompts = before
    assert torch.equal(without, equal)


def test_teachers_write_off_policy_what_they_would_write_behind_their_own_prompt(model_dirs, student, tmp_path):
    pool = placed("resident", model_dirs, tmp_path, None, READS)
    pool.load(student)
    greedy = SamplingArgs(n=1, temperature=0.0, max_new_tokens=8)
    written = pool.write(student, rows(), greedy, seed=0)
    for row, answer in enumerate(answers_of(written)):
        prompt = written.prompts[row]
        logps = exact_logps(model_dirs[prompt.domain], expected_text(prompt), answer)
        assert answer == logps.argmax(-1).tolist()
    assert written.prompt_tokens == [student.encode(prompt).tokens for prompt in rows()]


def test_longest_prompts_and_lengths_are_the_teachers(model_dirs, student, tmp_path, model_servers):
    lengths = [len(make_tokenizer()(expected_text(p), add_special_tokens=False).input_ids) for p in rows()]
    by_name = {
        name: max(n for n, p in zip(lengths, rows(), strict=True) if p.domain == name) for name in ("math", "code")
    }
    for placement in PLACEMENTS:
        pool = placed(placement, model_dirs, tmp_path, model_servers, READS)
        assert pool.longest_prompts(rows(), student.processor, student.args) == by_name
        assert pool.lengths(rows()) == lengths
    plain = placed("resident", model_dirs, tmp_path, None, None)
    assert plain.longest_prompts(rows(), student.processor, student.args) == {"code": 11}  # of the row's own prompt
    assert plain.lengths(rows()) == [0] * 5 + [11]


def test_a_model_that_cannot_read_turns_is_refused_before_it_is_loaded(model_dirs, student, new_model):
    base = new_model("base", tokenizer=make_tokenizer(chat_template=None))
    for reads in (ReadsArgs(system="s"), ReadsArgs(examples=[WorkedExample("q", "a")])):
        pool = TeacherPool({"math": TeacherArgs(path=base, reads=reads)})
        with pytest.raises(UserError, match=r"^--model.teachers.math.reads has a system message or examples, which"):
            pool.check(student.processor, student.args)
    TeacherPool({"math": TeacherArgs(path=base, reads=ReadsArgs(template="{prompt}!"))}).check(
        student.processor, student.args
    )
    strict = make_tokenizer(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['content'] + '<end>' }}{% endfor %}"
    )
    pool = TeacherPool({"math": TeacherArgs(path=new_model("strict", tokenizer=strict), reads=ReadsArgs(system="s"))})
    with pytest.raises(UserError, match="no system"):
        pool.check(student.processor, student.args)


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> dict[str, str]:
    paths = {}
    for seed, name in enumerate(("student", "math")):
        directory = tmp_path_factory.mktemp("vision") / name
        write_tiny_vision(directory, seed)
        paths[name] = str(directory)
    return paths


def test_a_teacher_sees_crops_and_a_cache_knows_them(seeing, tmp_path):
    """The student sees the whole picture; the teacher two parts of it and a solution, in plain transformers."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    whole = Image.effect_noise((64, 64), 90).convert("RGB")
    crops = [whole.crop((0, 0, 32, 64)), whole.crop((20, 10, 60, 50))]
    prompt = asked([IMAGE, text("what? ")], id="seen", images=(whole,), gold="a cat", domain="math")
    prompt = replace(prompt, teacher_images=tuple(crops))
    student = Policy.load(PolicyArgs(path=seeing["student"]), trainable=True)
    rollouts = write_answers(student, [prompt], SamplingArgs(n=2, max_new_tokens=6), seed=0)
    processor: Any = AutoProcessor.from_pretrained(seeing["math"])
    model: Any = AutoModelForImageTextToText.from_pretrained(seeing["math"], dtype=torch.float64)
    inputs = processor(
        text=["<|im_start|>user\n<image><image>what? It is a cat.<|im_end|>\n<|im_start|>assistant\n"],
        images=crops,
        return_tensors="pt",
        text_kwargs={"add_special_tokens": False},
    )
    prompt_ids = inputs["input_ids"][0].tolist()
    reads = ReadsArgs(template="{prompt}It is {answer}.")
    pool = TeacherPool(
        {"math": TeacherArgs(path=seeing["math"], reads=reads, placement="disk_cache", cache=str(tmp_path / "cache"))}
    )
    logps_BT = scored(pool, student, rollouts)
    for row, answer in enumerate(answers_of(rollouts)):
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([[*prompt_ids, *answer]]), pixel_values=inputs["pixel_values"].double()
            ).logits[0, len(prompt_ids) - 1 : -1]
        exact = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(logps_BT[row, : len(answer)].double(), exact, atol=2e-5, rtol=1e-4)
    # Other crops of the same size are the same tokens, and other answers to the cache.
    moved = replace(prompt, teacher_images=tuple(whole.crop(box) for box in ((5, 0, 37, 64), (0, 0, 40, 40))))
    assert pool.encode("math", [moved])[0].tokens == pool.encode("math", [prompt])[0].tokens == prompt_ids
    rollouts.prompts = [moved] * len(rollouts)
    assert (scored(pool, student, rollouts) - logps_BT).abs().max() > 1e-4
    assert pool.cache_counts() == (0, len(rollouts))
