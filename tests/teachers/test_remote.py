"""Teachers on servers: a process of its own with a real model behind vLLM's and SGLang's interfaces."""

import logging
import socket
from typing import Any

import pytest
import torch
from serving import ModelServers
from tiny import CHARACTERS, make_tokenizer

from lit_uniopd.errors import UserError
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import HttpArgs, RemoteTeacher, TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt, Rollouts

PROTOCOLS = ["vllm", "sglang"]


@pytest.fixture(autouse=True)
def naps(monkeypatch) -> list[float]:
    """Pauses, which take no time."""
    pauses: list[float] = []
    monkeypatch.setattr("lit_uniopd.utils.http.time.sleep", pauses.append)
    return pauses


def prompts(count: int = 4) -> list[Prompt]:
    return [
        Prompt(id=f"p{i}", messages=({"role": "user", "content": "1+" * i + f"{i}="},), domain="math")
        for i in range(count)
    ]


def remote(urls: list[str], path: str = "", **options: Any) -> TeacherPool:
    args = TeacherArgs(path=path, placement="http", http=HttpArgs(urls=urls, **options))
    return TeacherPool({"math": args})


@pytest.fixture(scope="module")
def student(model_dirs) -> Policy:
    return Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)


@pytest.fixture(scope="module")
def rollouts(student) -> Rollouts:
    return write_answers(student, prompts(), SamplingArgs(n=3, max_new_tokens=12), seed=0)


@pytest.fixture(scope="module")
def expected(model_dirs, student, rollouts) -> torch.Tensor:
    """What the same teacher says in this process."""
    pool = TeacherPool({"math": TeacherArgs(path=model_dirs["math"])})
    pool.load(student)
    logps_BT, ok_B = pool.score(rollouts, temperature=1.0, max_tokens=1000)
    assert ok_B.all()
    return logps_BT


def score(pool: TeacherPool, student: Policy, rollouts: Rollouts) -> tuple[torch.Tensor, torch.Tensor]:
    pool.load(student)
    return pool.score(rollouts, temperature=1.0, max_tokens=1000)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("batch", [1, 5])
def test_numbers_are_those_of_the_local_teacher(
    model_servers, model_dirs, student, rollouts, expected, protocol, batch
):
    pool = remote(model_servers.urls["math"], protocol=protocol, model="math", batch=batch, requests=4)
    model_servers.behave()
    logps_BT, ok_B = score(pool, student, rollouts)
    assert ok_B.all()
    assert not pool.failures
    torch.testing.assert_close(logps_BT, expected, atol=1e-5, rtol=1e-5)
    counts = [model_servers.counts(url) for url in model_servers.urls["math"]]
    assert sum(server["requests"] for server in counts) == -(-12 // batch) + 2  # and one probe of each
    assert all(server["requests"] > 1 for server in counts)  # in turn
    assert pool.loaded == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_student_that_is_its_own_teacher_has_no_advantage(model_servers, student, rollouts, protocol):
    pool = remote(model_servers.urls["student"], protocol=protocol)
    logps_BT, ok_B = score(pool, student, rollouts)
    assert ok_B.all()
    assert float((logps_BT - rollouts.student_logps_BT).abs().max()) < 1e-5


def test_the_prompt_is_rendered_in_the_teachers_own_template(model_servers, new_model, student, rollouts):
    """Its tokenizer is here, its weights are not."""
    template = "{% for m in messages %}{{ '<bos>' + m['content'] + '=' }}{% endfor %}"
    other = new_model("other", seed=1, tokenizer=make_tokenizer(template))
    pool = remote(model_servers.urls["math"], path=other, model="math")
    logps_BT, _ = score(pool, student, rollouts)
    local = TeacherPool({"math": TeacherArgs(path=other)})  # the weights of "math" have the same seed
    torch.testing.assert_close(logps_BT, score(local, student, rollouts)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("short", "too many or too few log-probs"),
        ("nan", "log-probs that are not finite"),
        ("ids", "log-probs of other tokens"),
        ("html", "no answer (200)"),
        ("refuse", "no answer (400)"),
        ("error", "no answer (500)"),
        ("busy", "no answer (503)"),
        ("drop", "no answer (no connection)"),
    ],
)
@pytest.mark.thinned(3)
def test_answers_of_a_bad_server_are_marked_and_counted(
    model_servers, student, rollouts, caplog, protocol, fault, reason
):
    (url, _) = model_servers.urls["math"]
    pool = remote([url], protocol=protocol, model="math", retries=1, requests=1)
    pool.load(student)
    model_servers.misbehave(url, fault)
    with caplog.at_level(logging.WARNING):
        logps_BT, ok_B = pool.score(rollouts, temperature=1.0, max_tokens=1000)
    assert not ok_B.any()
    assert not logps_BT.any()
    (failure,) = pool.failures
    assert pool.failures[failure] == 12
    assert failure == f"math, {reason}"
    assert f"Teachers could not score 12 of 12 answers ({failure}: 12)" in caplog.text


def test_only_the_answers_that_failed_are_marked(model_servers, student, rollouts, expected):
    (url, _) = model_servers.urls["math"]
    pool = remote([url], model="math", requests=1, retries=0)
    pool.load(student)
    model_servers.misbehave(url, "short", times=2)
    logps_BT, ok_B = pool.score(rollouts, temperature=1.0, max_tokens=1000)
    assert int((~ok_B).sum()) == 2
    torch.testing.assert_close(logps_BT[ok_B], expected[ok_B], atol=1e-5, rtol=1e-5)
    assert not logps_BT[~ok_B].any()
    assert pool.score(rollouts, temperature=1.0, max_tokens=1000)[1].all()
    assert not pool.failures


def test_a_request_that_fails_by_its_own_fault_is_asked_for_answer_by_answer(
    model_servers, student, rollouts, expected
):
    """One answer is too long for the server, which refuses the whole request."""
    (url, _) = model_servers.urls["math"]
    pool = remote([url], model="math", batch=12, requests=1)
    pool.load(student)
    long = Rollouts.cat([rollouts])
    long.prompts = [*long.prompts]
    long.prompts[5] = Prompt(id="long", messages=({"role": "user", "content": "1+" * 150},), domain="math")
    model_servers.behave()
    logps_BT, ok_B = pool.score(long, temperature=1.0, max_tokens=1000)
    assert [row for row, ok in enumerate(ok_B) if not ok] == [5]
    assert pool.failures == {"math, no answer (400)": 1}
    torch.testing.assert_close(logps_BT[ok_B], expected[ok_B], atol=1e-5, rtol=1e-5)
    assert model_servers.counts(url)["requests"] == 13


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_is_too_slow_costs_its_answers_and_no_more_time(
    model_servers, student, rollouts, expected, protocol
):
    slow, quick = model_servers.urls["math"]
    patient = remote([slow, quick], protocol=protocol, model="math", timeout=30.0)
    patient.load(student)
    model_servers.misbehave(slow, "slow", seconds=0.2)
    logps_BT, ok_B = patient.score(rollouts, temperature=1.0, max_tokens=1000)
    assert ok_B.all()
    torch.testing.assert_close(logps_BT, expected, atol=1e-5, rtol=1e-5)
    hasty = remote([slow], protocol=protocol, model="math", timeout=0.3, retries=0)
    model_servers.behave()
    hasty.load(student)
    model_servers.misbehave(slow, "slow", seconds=3.0)
    _, ok_B = hasty.score(rollouts, temperature=1.0, max_tokens=1000)
    assert not ok_B.any()
    assert hasty.failures == {"math, no answer in time": 12}


def test_a_server_that_goes_away_is_made_up_for_and_one_that_was_alone_given_up(
    model_servers, model_dirs, student, rollouts, expected, naps
):
    dying = ModelServers([("math", model_dirs["math"])])
    both = remote([*dying.all, model_servers.urls["math"][0]], model="math")
    alone = remote(dying.all, requests=1, retries=2)
    both.load(student)
    alone.load(student)
    dying.close()
    logps_BT, ok_B = both.score(rollouts, temperature=1.0, max_tokens=1000)
    assert ok_B.all()
    torch.testing.assert_close(logps_BT, expected, atol=1e-5, rtol=1e-5)
    naps.clear()
    assert not alone.score(rollouts, temperature=1.0, max_tokens=1000)[1].any()
    assert alone.failures == {"math, no answer (no connection)": 12}
    assert len(naps) == 2  # the first request waited twice, the others not at all


def test_no_more_requests_are_on_their_way_than_asked_for(model_servers, student, rollouts):
    (url, _) = model_servers.urls["math"]
    pool = remote([url], model="math", requests=3)
    pool.load(student)
    model_servers.misbehave(url, "slow", seconds=0.1)
    pool.score(rollouts, temperature=1.0, max_tokens=1000)
    assert model_servers.counts(url)["most_at_once"] == 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_another_model_is_refused_before_anything_is_loaded(model_servers, student, model_dirs, protocol):
    (url,) = model_servers.urls["student"]
    with pytest.raises(UserError, match=r"--model\.teachers\.math\.http\.urls \S+ serves .*student.* and not math;"):
        remote([url], protocol=protocol, model="math").load(student)
    # The name is the path's where none is given.
    with pytest.raises(UserError, match=r"and not .*; mend the address, or set --model.teachers.math.http.model"):
        remote([url], path=model_dirs["math"], protocol=protocol).load(student)
    mixed = [*model_servers.urls["math"], url]
    with pytest.raises(UserError, match=r"serves .* and not"):
        remote(mixed, protocol=protocol).load(student)


def test_a_server_that_changes_its_model_loses_its_answers(model_servers, student, rollouts):
    (url, _) = model_servers.urls["math"]
    pool = remote([url], model="math")
    pool.load(student)
    model_servers.misbehave(url, "model")
    assert not pool.score(rollouts, temperature=1.0, max_tokens=1000)[1].any()
    assert pool.failures == {"math, answers of another model": 12}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_servers_that_speak_other_tokens_are_refused(model_servers, new_model, student, protocol):
    (url, _) = model_servers.urls["math"]
    model_servers.misbehave(url, "tokens")
    with pytest.raises(UserError, match=r"speaks other tokens: \d+ is '.' here and '.' there .* of one family"):
        remote([url], protocol=protocol, model="math").load(student)
    # A local tokenizer of the teacher is compared with the student's by its table, as a local teacher's is.
    other = new_model("other", tokenizer=make_tokenizer(characters=CHARACTERS[::-1]))
    with pytest.raises(UserError, match=r"--model\.teachers\.math has another tokenizer than --model\.student"):
        remote([url], path=other, protocol=protocol, model="math").load(student)


def test_servers_that_are_not_there_or_of_another_kind_are_named(model_servers, student):
    (url, _) = model_servers.urls["math"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=rf"http\.urls {nowhere} cannot be reached .*start a vllm server there"):
        remote([url, nowhere], model="math", retries=0).load(student)
    for fault, message in (
        ("error", "answers 500"),
        ("html", "does not answer in JSON"),
    ):
        model_servers.misbehave(url, fault)
        with pytest.raises(UserError, match=message):
            remote([url], model="math", retries=0).load(student)


@pytest.mark.parametrize("fault", ["short", "ids", "logits"])
def test_a_server_that_lies_is_found_out_at_the_start(model_servers, student, fault):
    (url, _) = model_servers.urls["math"]
    pool = remote([url], model="math")
    teacher: Any = pool._teachers["math"]
    assert isinstance(teacher, RemoteTeacher)
    check = teacher._check_tokens
    teacher._check_tokens = lambda url: model_servers.misbehave(url, fault) or check(url)
    with pytest.raises(
        UserError, match=r"sends (log-probs|too many).* when asked to score a text; see that it is a vllm"
    ):
        pool.load(student)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"urls": []}, r"http\.urls: Give the address of at least one server"),
        ({"urls": ["localhost:8000"]}, r"http\.urls: .*must begin with http://"),
        ({"urls": ["http://h"], "requests": 0}, r"http\.requests must be at least 1"),
        ({"urls": ["http://h"], "batch": 0}, r"http\.batch must be at least 1"),
        ({"urls": ["http://h"], "api_key_variable": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set in the environment"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TeacherPool({"math": TeacherArgs(placement="http", http=HttpArgs(**options))})


def test_an_address_may_end_in_v1_and_a_key_is_sent(model_servers, student, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "secret")
    (url,) = model_servers.urls["student"]
    pool = remote([url + "/v1/"], api_key_variable="TEACHER_KEY")
    pool.load(student)
    teacher: Any = pool._teachers["math"]
    assert teacher.servers.headers["Authorization"] == "Bearer secret"


def test_what_needs_the_model_itself_is_told_where_it_is(model_servers, student):
    pool = remote(model_servers.urls["math"], model="math")
    with pytest.raises(UserError, match="is on a server"):
        _ = pool["math"]
