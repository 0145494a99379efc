"""vLLM's protocol against a server process with a real model behind it: the same answers, and never from old weights."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from peft import LoraConfig, get_peft_model
from sampling.test_engines import answers, teacher_forced
from serving import ModelServers
from transformers import AutoModelForCausalLM

from lit_uniopd.errors import UserError
from lit_uniopd.sampling import SamplingArgs, check_engine, engine_vllm_server, sample, weight_directory
from lit_uniopd.sampling.args import ServerArgs
from lit_uniopd.sampling.engines import begin, collect
from lit_uniopd.sampling.request import GenerationRequest
from lit_uniopd.sampling.weight_sync import WeightSync, fingerprint
from lit_uniopd.utils import http as http

PROMPTS = [[11, 12, 13], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [10], [11, 12, 13, 14]]
EOS = [3, 20, 21, 22, 23, 24]


@pytest.fixture
def model(model_dirs: dict[str, str]) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_dirs["student"]).eval()


def with_adapter(model: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    ).eval()


def shift(model: Any, by: float = 0.05) -> None:
    """An optimizer step."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn_like(parameter)


def args(urls: list[str], tmp_path: Path, *, server: dict[str, Any] | None = None, **options: Any) -> SamplingArgs:
    servers = ServerArgs(
        **{"urls": urls, "model": "student", "directory": str(tmp_path / "weights"), "timeout": 20, "retries": 2}
        | (server or {})
    )
    settings = {"n": 2, "max_new_tokens": 12, "temperature": 0.0} | options
    return SamplingArgs(**settings, engine="vllm", server=servers)


def run(model: Any, sampling: SamplingArgs, prompts: list[list[int]] = PROMPTS, **options: Any) -> Any:
    return sample(model, prompts, sampling, **{"eos_ids": EOS, "pad_id": 0, "seed": 1, **options})


def same_as_the_loop(model: Any, sampling: SamplingArgs) -> None:
    done = run(model, sampling)
    loop = run(model, SamplingArgs(n=2, max_new_tokens=12, temperature=0.0))
    assert answers(done) == answers(loop)
    assert done.finish == loop.finish
    torch.testing.assert_close(done.logps_BT, loop.logps_BT, atol=1e-4, rtol=0)


def models_of(url: str) -> list[str]:
    with urlopen(f"{url}/v1/models", timeout=20) as reply:
        return [card["id"] for card in json.load(reply)["data"]]


def stored(tmp_path: Path) -> list[str]:
    """Weights in the directory."""
    return sorted(path.name for path in (tmp_path / "weights").iterdir() if path.is_dir())


# ------------------------------------------------------------------------------------------------------------ answers


def test_greedy_answers_are_the_loops_with_ends_and_log_probs(rollout_servers, model, tmp_path) -> None:
    sampling = args(rollout_servers.all, tmp_path)
    same_as_the_loop(model, sampling)
    done = run(model, sampling)
    for answer, reason in zip(answers(done), done.finish, strict=True):
        assert (answer[-1] in EOS) == (reason == "stop")
        assert not set(answer[:-1]) & set(EOS)
    model_eos = model.generation_config.eos_token_id
    assert model_eos not in EOS  # the model's own end does not end an answer that the caller does not want ended
    never = run(model, sampling, eos_ids=[])
    assert set(never.finish) == {"length"}
    assert never.mask_BT.all()


@pytest.mark.parametrize("options", [{}, {"top_k": 5, "top_p": 0.8}])
def test_sampled_answers_and_log_probs_are_those_that_were_drawn_with(
    rollout_servers, model, tmp_path, options
) -> None:
    sampling = args(rollout_servers.all, tmp_path, n=3, temperature=0.7, **options)
    done = run(model, sampling)
    for row, answer in enumerate(answers(done)):
        expected = teacher_forced(model, PROMPTS[row // 3], answer, 0.7)
        logps_T = done.logps_BT[row, : len(answer)]
        if options:  # a cut distribution is larger where it is left
            assert bool((logps_T > expected - 1e-4).all())
        else:
            torch.testing.assert_close(logps_T, expected, atol=1e-4, rtol=0)
    assert len({tuple(answer) for answer in answers(done)[:3]}) == 3
    turned = run(model, sampling, PROMPTS[::-1], keys=[3, 2, 1, 0])
    assert answers(turned)[:3] == answers(done)[-3:]  # noise goes by the prompt's key, not by its place
    assert answers(run(model, sampling, seed=2)) != answers(done)


def test_requests_are_dealt_out_bounded_and_counted(rollout_servers, model, tmp_path) -> None:
    sampling = args(rollout_servers.all, tmp_path, server={"requests": 2}, max_new_tokens=4)
    run(model, sampling)
    rollout_servers.behave()  # counts from now on
    calls: list[tuple[int, int]] = []
    sample(
        model, PROMPTS * 2, sampling, eos_ids=[], pad_id=0, seed=0, on_progress=lambda *progress: calls.append(progress)
    )
    assert calls == [(done, 16) for done in range(2, 17, 2)]
    counts = [rollout_servers.counts(url) for url in rollout_servers.all]
    assert [server["requests"] for server in counts] == [4, 4]
    assert sum(server["most_at_once"] for server in counts) <= 4
    assert max(server["most_at_once"] for server in counts) <= 2


# ------------------------------------------------------------------------------------------------------------ weights


def test_every_version_of_an_adapter_is_loaded_and_the_last_one_unloaded(rollout_servers, model, tmp_path) -> None:
    adapted, sampling = with_adapter(model), args(rollout_servers.all, tmp_path)
    plain = answers(run(adapted, SamplingArgs(n=2, max_new_tokens=12, temperature=0.0)))
    names = set()
    for _ in range(3):
        same_as_the_loop(adapted, sampling)
        (name,) = stored(tmp_path)
        assert [models_of(url) for url in rollout_servers.all] == [["student", name]] * 2
        assert (tmp_path / "weights" / name / "adapter_model.safetensors").exists()
        names.add(name)
        shift(adapted)
    assert len(names) == 3
    assert answers(run(adapted, sampling)) != plain


@pytest.mark.parametrize("adapter", [False, True])
def test_whole_weights_are_transferred_with_adapters_merged_and_old_prompts_forgotten(
    rollout_servers, model, tmp_path, adapter
) -> None:
    trained, sampling = (
        with_adapter(model) if adapter else model,
        args(rollout_servers.all, tmp_path, server={"sync": "reload"}),
    )
    for _ in range(2):
        same_as_the_loop(trained, sampling)  # the first log-prob is that of a prompt that the server keeps
        (name,) = stored(tmp_path)
        for url in rollout_servers.all:
            with urlopen(f"{url}/weight_info", timeout=20) as reply:
                assert json.load(reply) == {"weight_version": name}
        shift(trained)
    rollout_servers.behave()
    run(trained, sampling)
    moved = rollout_servers.counts(rollout_servers.all[0])["requests"]
    run(trained, sampling)
    assert (
        rollout_servers.counts(rollout_servers.all[0])["requests"] == moved + 2
    )  # its two prompts: equal weights are not sent twice


def test_ranks_meet_in_the_directory_and_only_the_first_brings_the_weights(rollout_servers, model, tmp_path) -> None:
    sampling = args(rollout_servers.all[:1], tmp_path, server={"sync": "reload"})
    assert sampling.server is not None
    arguments = (sampling.server.urls, "student", sampling.server.directory, "reload", 20, 0)
    ranks = [engine_vllm_server.ServerPool(*arguments) for _ in range(3)]
    rollout_servers.behave()
    threads = [threading.Thread(target=rank.weights.publish, args=(model,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rollout_servers.counts(rollout_servers.all[0])["requests"] == 5  # pause, reload, forget, name, resume: once
    assert all(rank.weights.publish(model) == "student" for rank in ranks)
    assert rollout_servers.counts(rollout_servers.all[0])["requests"] == 5


def test_half_written_and_older_weights_of_a_killed_run_are_cleared_away(rollout_servers, model, tmp_path) -> None:
    for name in (".writing-dead", "uniopd-0123456789abcdef"):
        (tmp_path / "weights" / name).mkdir(parents=True)
    (tmp_path / "weights" / "mine").mkdir()
    (tmp_path / "weights" / "published.json").write_text('{"http://127')  # killed while it wrote
    same_as_the_loop(with_adapter(model), args(rollout_servers.all, tmp_path))
    assert len(stored(tmp_path)) == 2
    assert "mine" in stored(tmp_path)


@pytest.mark.slow
def test_nothing_is_left_in_the_directory_when_the_run_ends(rollout_servers, model_dirs, tmp_path) -> None:
    """In a process of its own, as it happens at its exit."""
    code = f"""
from transformers import AutoModelForCausalLM
from lit_uniopd.sampling.args import ServerArgs
from lit_uniopd.sampling import SamplingArgs, sample
model = AutoModelForCausalLM.from_pretrained({model_dirs["student"]!r}).eval()
server = ServerArgs(urls={rollout_servers.all!r}, model="student", directory={str(tmp_path / "weights")!r})
args = SamplingArgs(n=1, max_new_tokens=2, engine="vllm", server=server)
sample(model, [[5, 6]], args, eos_ids=[3], pad_id=0, seed=0)
import pathlib
print(len(list(pathlib.Path(server.directory).glob("uniopd-*"))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "1"
    assert "Writing model shards" not in done.stderr
    assert stored(tmp_path) == []


def test_a_fingerprint_tells_any_change_of_any_weight(model) -> None:
    before = fingerprint(model.named_parameters())
    assert fingerprint(model.named_parameters()) == before
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 2] += 1e-4
    assert fingerprint(model.named_parameters()) != before


def test_a_server_that_takes_no_weights_stops_the_run(rollout_servers, model, tmp_path) -> None:
    adapted = with_adapter(model)
    second = rollout_servers.all[1]
    sampling = args(rollout_servers.all, tmp_path, server={"retries": 0})
    run(adapted, sampling)
    shift(adapted)
    rollout_servers.misbehave(second, "error")
    with pytest.raises(UserError) as caught:
        run(adapted, sampling)
    assert str(caught.value).startswith(f"The server {second} ")
    assert "start it again" in str(caught.value) or "did not take the student's new adapter" in str(caught.value)
    rollout_servers.behave()
    same_as_the_loop(adapted, sampling)  # mended and resumed

    unseen = WeightSync(engine_vllm_server.connect(sampling.server).servers, "student", tmp_path / "weights", "auto")  # type: ignore[union-attr, arg-type]
    unseen._write = lambda *_: None  # type: ignore[method-assign]  # a directory that the server does not see
    shift(adapted)
    with pytest.raises(UserError, match=r"did not take the student's new adapter from .*No adapter found.*old ones"):
        unseen.publish(adapted)


def test_a_directory_that_cannot_be_written_is_named(rollout_servers, model, tmp_path) -> None:
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(UserError, match=r"^Cannot write to sampling\.server\.directory .*weights"):
        run(model, args(rollout_servers.all, tmp_path))


# ------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", ["busy", "error", "drop"])
def test_a_server_that_fails_once_is_asked_again(rollout_servers, model, tmp_path, fault) -> None:
    adapted, sampling = with_adapter(model), args(rollout_servers.all[:1], tmp_path)
    run(adapted, sampling)
    pool = engine_vllm_server.connect(sampling.server)  # type: ignore[arg-type]
    rollout_servers.misbehave(rollout_servers.all[0], fault, times=2)
    url, answer = pool.complete({**body(pool, adapted), "n": 1}, 0, adapted)
    assert url == rollout_servers.all[0]
    assert len(answer["choices"]) == 1


def body(pool: Any, model: Any) -> dict[str, Any]:
    return {
        "model": pool.weights.publish(model),
        "prompt": [5, 6],
        "max_tokens": 3,
        "logprobs": 0,
        "return_token_ids": True,
    }


def test_another_server_answers_for_one_that_is_gone_or_slow(rollout_servers, model, tmp_path) -> None:
    sampling = args(rollout_servers.all, tmp_path, server={"timeout": 1.0})
    shift(model)
    expected = answers(run(model, sampling))
    for fault in ("drop", "slow", "error"):
        pool = engine_vllm_server.connect(sampling.server)  # type: ignore[arg-type]
        weights, pool.weights.publish = pool.weights.publish, lambda *_: "student"  # type: ignore[method-assign]
        confirm, pool.weights.confirm = pool.weights.confirm, lambda *_, **__: None  # type: ignore[method-assign]
        rollout_servers.misbehave(rollout_servers.all[0], fault, seconds=1.5)
        assert answers(run(model, sampling)) == expected
        assert rollout_servers.counts(rollout_servers.all[1])["requests"] >= 4
        rollout_servers.behave()
        pool.weights.publish, pool.weights.confirm = weights, confirm  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("half", r"answers 1 times instead of 2 times"),
        ("unended", r"answers with \d+ tokens that end in \d+ for the reason"),
        ("abort", r"answers with \d+ tokens .* for the reason 'abort'"),
        ("old", r"answers in another form; use a vLLM that knows return_token_ids"),
        ("refuse", r"answers 400 .*out of order.*no answer could be had"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_stops_the_run(
    rollout_servers, model, tmp_path, fault, message
) -> None:
    sampling = args(rollout_servers.all[:1], tmp_path, temperature=1.0)
    run(model, sampling)
    pool = engine_vllm_server.connect(sampling.server)  # type: ignore[arg-type]
    pool.weights.publish = lambda *_: "student"  # type: ignore[method-assign]
    rollout_servers.misbehave(rollout_servers.all[0], fault)
    with pytest.raises(UserError, match=rf"^The server {rollout_servers.all[0]} {message}"):
        run(model, sampling)


@pytest.mark.parametrize("sync", ["adapter", "reload"])
def test_a_server_restarted_in_the_middle_of_a_rollout_gets_the_weights_again(
    rollout_servers, model, tmp_path, sync
) -> None:
    adapted = with_adapter(model)
    sampling = args(rollout_servers.all[:1], tmp_path, server={"sync": sync, "requests": 1})
    pool = engine_vllm_server.connect(sampling.server)  # type: ignore[arg-type]
    publish = pool.weights.publish

    def restarted(*options: Any) -> str:
        name = publish(*options)
        rollout_servers.tell(rollout_servers.all[0], "/restart", {})
        rollout_servers.misbehave(rollout_servers.all[0], "drop", times=1)
        return name

    pool.weights.publish = restarted  # type: ignore[method-assign]
    same_as_the_loop(adapted, sampling)


@pytest.mark.parametrize("sync", ["adapter", "reload"])
def test_a_server_restarted_between_rollouts_gets_the_weights_again(rollout_servers, model, tmp_path, sync) -> None:
    adapted, sampling = with_adapter(model), args(rollout_servers.all, tmp_path, server={"sync": sync})
    run(adapted, sampling)
    rollout_servers.tell(rollout_servers.all[1], "/restart", {})
    same_as_the_loop(adapted, sampling)


@pytest.mark.parametrize("sync", ["adapter", "reload"])
def test_a_server_that_kept_old_weights_is_not_believed_the_next_time(rollout_servers, model, tmp_path, sync) -> None:
    adapted, sampling = with_adapter(model), args(rollout_servers.all[:1], tmp_path, server={"sync": sync})
    run(adapted, sampling)
    shift(adapted)
    rollout_servers.misbehave(rollout_servers.all[0], "stale")
    for _ in range(2):  # resumed with the same weights
        with pytest.raises(
            UserError, match=rf"^The server {rollout_servers.all[0]} (kept old weights|is \d\.\d+ nats from)"
        ):
            run(adapted, sampling)
    rollout_servers.behave()
    same_as_the_loop(adapted, sampling)


def test_a_server_that_loses_its_weights_unseen_is_noticed_afterwards(rollout_servers, model, tmp_path) -> None:
    sampling = args(rollout_servers.all[:1], tmp_path, server={"sync": "reload"})
    pool = engine_vllm_server.connect(sampling.server)  # type: ignore[arg-type]
    publish = pool.weights.publish
    pool.weights.publish = lambda *options: (
        publish(*options),
        rollout_servers.tell(rollout_servers.all[0], "/restart", {}),
    )[0]  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"has changed its weights during the rollout \(to version 'default'\)"):
        run(model, sampling)


@pytest.mark.slow
def test_older_servers_reload_and_a_killed_process_stops_the_run_until_there_is_a_new_one(
    model_dirs, model, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(engine_vllm_server, "PAUSE_S", 0.05)
    monkeypatch.setattr(http, "PAUSE_S", 0.05)
    first = ModelServers([("student", model_dirs["student"])], "rollout_server.py", ("--old",))
    try:
        sampling = args(first.all, tmp_path, server={"sync": "reload"})
        for _ in range(2):
            same_as_the_loop(model, sampling)
            shift(model)
    finally:
        first.close()
    with pytest.raises(UserError) as caught:
        run(model, sampling)
    assert str(caught.value).startswith(f"The server {first.all[0]} ")
    assert "cannot be reached" in str(caught.value)
    port = first.all[0].rpartition(":")[2]
    again = ModelServers([("student", f"{model_dirs['student']}@{port}")], "rollout_server.py", ("--old",))
    try:
        same_as_the_loop(model, sampling)
    finally:
        again.close()


# --------------------------------------------------------------------------------- answers that are collected later


def begun(model: Any, sampling: SamplingArgs) -> engine_vllm_server.PendingAnswers:
    request = GenerationRequest(
        model=model,
        prompt_tokens=PROMPTS,
        args=sampling,
        eos_ids=EOS,
        pad_id=0,
        seed=1,
        keys=range(len(PROMPTS)),
        vision=[{}] * len(PROMPTS),
        unprocessed=[None] * len(PROMPTS),
    )
    return begin(request)


@pytest.mark.parametrize("lost", [False, True])
def test_answers_of_the_weights_before_come_while_the_model_is_trained(
    rollout_servers, model, tmp_path, monkeypatch, lost
) -> None:
    """Also where a server is restarted meanwhile: it cannot get those weights again, and the other answers."""
    sampling = args(rollout_servers.all, tmp_path, server={"sync": "reload", "requests": 1}, temperature=1.0)
    shift(model)
    expected = answers(run(model, sampling))
    rollout_servers.behave()
    publish = WeightSync.publish

    def published(*options: Any) -> str:
        name = publish(*options)
        if lost:
            rollout_servers.tell(rollout_servers.all[0], "/restart", {})
            rollout_servers.misbehave(rollout_servers.all[0], "drop", times=1)
        return name

    with monkeypatch.context() as patch:
        patch.setattr(WeightSync, "publish", published)
        pending = begun(model, sampling)
    shift(model)
    assert answers(collect(pending)) == expected
    asked = [rollout_servers.counts(url)["requests"] for url in rollout_servers.all]
    assert asked[1] == (4 if lost else 2)
    assert answers(run(model, sampling)) != expected  # both have the weights of now


def test_servers_that_have_all_lost_the_weights_before_are_told(rollout_servers, model, tmp_path, monkeypatch) -> None:
    sampling = args(rollout_servers.all[:1], tmp_path, server={"sync": "reload", "retries": 1})
    publish = WeightSync.publish

    def restarted(*options: Any) -> str:
        name = publish(*options)
        rollout_servers.tell(rollout_servers.all[0], "/restart", {})
        rollout_servers.misbehave(rollout_servers.all[0], "drop", times=1)
        return name

    monkeypatch.setattr(WeightSync, "publish", restarted)
    pending = begun(model, sampling)
    with pytest.raises(UserError, match=r"has lost the weights that write this rollout, .* start it again and resume"):
        collect(pending)


# ----------------------------------------------------------------------------------------------------------- mistakes


def test_the_servers_are_asked_at_the_start_what_they_serve(rollout_servers, tmp_path) -> None:
    check_engine(args(rollout_servers.all, tmp_path))
    with pytest.raises(UserError, match=r"serves student, not sampling\.server\.model policy; correct the name"):
        check_engine(args(rollout_servers.all, tmp_path, server={"model": "policy"}))
    with pytest.raises(
        UserError, match=r"^The server http://127\.0\.0\.1:9 of sampling\.server\.urls cannot be reached"
    ):
        check_engine(args(["http://127.0.0.1:9"], tmp_path, server={"retries": 0}))
    rollout_servers.misbehave(rollout_servers.all[1], "html")
    with pytest.raises(UserError, match=r"does not answer in JSON.*a proxy's page.*start it, or correct the address"):
        check_engine(args(rollout_servers.all, tmp_path, server={"retries": 0, "timeout": 19}))


def test_a_key_is_sent_where_servers_want_one(rollout_servers, tmp_path, monkeypatch) -> None:
    sampling = args(rollout_servers.all, tmp_path, server={"api_key_variable": "ROLLOUT_KEY"})
    with pytest.raises(UserError, match=r"^sampling\.server\.api_key_variable ROLLOUT_KEY is not set"):
        check_engine(sampling)
    monkeypatch.setenv("ROLLOUT_KEY", "secret")
    assert sampling.server is not None
    assert engine_vllm_server.connect(sampling.server).servers.headers["Authorization"] == "Bearer secret"


def test_what_does_not_fit_or_cannot_be_sent_is_refused(rollout_servers, model, tmp_path) -> None:
    with pytest.raises(
        UserError,
        match=r"max_new_tokens=250 does not fit: the servers take 256 tokens and the longest prompt has 10; lower it to 246",
    ):
        run(model, args(rollout_servers.all, tmp_path, max_new_tokens=250))
    with pytest.raises(UserError, match=r"sync adapter needs a student with adapters"):
        run(model, args(rollout_servers.all, tmp_path, server={"sync": "adapter"}))


def test_servers_belong_to_their_engine() -> None:
    with pytest.raises(UserError, match=r"^sampling\.server needs sampling\.engine=vllm; set both, or leave"):
        SamplingArgs(engine="loop", server=ServerArgs(urls=["http://a"], model="m", directory="d"))


def test_an_address_is_enough_for_servers_on_this_machine(rollout_servers, model) -> None:
    url = rollout_servers.all[0]
    sampling = SamplingArgs(n=2, max_new_tokens=12, temperature=0.0, server=ServerArgs(urls=[url]))
    for _ in range(2):
        shift(model)
        same_as_the_loop(model, sampling)
    directory = engine_vllm_server.connect(ServerArgs(urls=[url])).weights.directory
    assert [path.name.startswith("uniopd-") for path in directory.glob("[!.]*") if path.is_dir()] == [True]
    shutil.rmtree(directory)


def test_a_directory_of_somebody_else_is_not_used(tmp_path, monkeypatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(weight_directory, "MEMORY", tmp_path)
    path = weight_directory.directory_in_memory(["http://localhost:8000"])
    assert path.parent == tmp_path
    path.rmdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"is not a directory of yours; delete it, or name another as sampling\.server"):
        weight_directory.directory_in_memory(["http://localhost:8000"])


def test_an_address_without_http_is_told_as_such() -> None:
    with pytest.raises(UserError, match=r"localhost:8000"):
        engine_vllm_server.connect(ServerArgs(urls=["localhost:8000"]))


@pytest.mark.parametrize("url", ["http://10.0.0.7:8000", "http://gpu-1:8000", "http://localhost.example.org"])
def test_servers_elsewhere_need_a_directory(url: str) -> None:
    with pytest.raises(UserError, match=rf"^sampling\.server\.directory must be named, since {url} may be another"):
        ServerArgs(urls=["http://localhost:8000", url])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("urls", []),
        ("sync", "nccl"),
        ("requests", 0),
        ("timeout", 0.0),
        ("retries", -1),
        ("max_drift", 0.0),
    ],
)
def test_a_wrong_flag_is_named(field: str, value: Any) -> None:
    good = {"urls": ["http://a"], "model": "m", "directory": "d"}
    with pytest.raises(UserError, match=rf"^sampling\.server\.{field} must be "):
        ServerArgs(**{**good, field: value})
