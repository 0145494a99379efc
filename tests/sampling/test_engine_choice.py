"""`engine: auto`: who writes where nobody says."""

import logging
from typing import Any

import pytest
from sampling.test_engines import PROMPTS, tiny

from lit_uniopd.errors import UserError
from lit_uniopd.sampling import ColocateArgs, SamplingArgs, engine_vllm_colocated, engines, sample
from lit_uniopd.sampling.args import ServerArgs
from lit_uniopd.sampling.engines import likely_engine, settled, staying_awake

ROOM = ColocateArgs(max_model_len=100)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with a GPU, and vLLM on it that runs everything; what it was asked for."""
    asked: list[Any] = []
    monkeypatch.setattr(engines, "_on_gpu", lambda _: True)
    monkeypatch.setattr(engine_vllm_colocated, "is_installed", lambda: True)
    monkeypatch.setattr(engine_vllm_colocated, "engine_for", lambda _, args, processor: asked.append((args, processor)))
    engines._say_once.cache_clear()
    return asked


def test_on_a_gpu_it_is_vllm(gpu, caplog):
    caplog.set_level(logging.INFO)
    args = SamplingArgs(colocate=ROOM)
    assert args.engine == "auto"
    result = settled(args, tiny())
    assert (result.engine, result.colocate) == ("vllm", ROOM)
    assert gpu == [(args, None)]
    settled(args, tiny())
    assert [r.message for r in caplog.records] == ["sampling.engine=auto is vllm for Qwen3ForCausalLM."]


def test_on_a_cpu_it_is_the_loop_also_where_vllm_is_installed(gpu, monkeypatch):
    monkeypatch.setattr(engines, "_on_gpu", lambda _: False)
    assert settled(SamplingArgs(), tiny()).engine == "loop"
    assert gpu == []


def test_what_vllm_cannot_run_falls_back_and_says_why(gpu, monkeypatch, caplog):
    def refuse(*_: Any) -> None:
        raise UserError("vLLM cannot run this; set sampling.engine=loop.")

    monkeypatch.setattr(engine_vllm_colocated, "engine_for", refuse)
    result = settled(SamplingArgs(colocate=ROOM), tiny())
    assert (result.engine, result.colocate) == ("loop", ColocateArgs())
    assert "sampling.engine=auto is the loop for Qwen3ForCausalLM: vLLM cannot run this" in caplog.text


def test_it_gets_the_processor_that_reads_pictures(gpu):
    processor = object()
    assert settled(SamplingArgs(), tiny(), processor).engine == "vllm"
    assert [asked for _, asked in gpu] == [processor]


def test_without_vllm_one_warning_names_what_it_costs_and_the_extra(gpu, monkeypatch, caplog):
    monkeypatch.setattr(engine_vllm_colocated, "is_installed", lambda: False)
    for _ in range(2):
        assert settled(SamplingArgs(), tiny()).engine == "loop"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "several times as long" in record.message
    assert "pip install 'lit_uniopd[vllm]'" in record.message


@pytest.mark.parametrize("engine", ["loop", "generate", "vllm"])
def test_a_choice_of_the_user_stays(gpu, engine):
    args = SamplingArgs(engine=engine)
    assert settled(args, tiny()) is args
    assert likely_engine(args, cuda=True) == engine


def test_a_plan_is_made_for_what_will_be_chosen(gpu, monkeypatch):
    assert (likely_engine(SamplingArgs(), cuda=True), likely_engine(SamplingArgs(), cuda=False)) == ("vllm", "loop")
    monkeypatch.setattr(engine_vllm_colocated, "is_installed", lambda: False)
    assert likely_engine(SamplingArgs(), cuda=True) == "loop"


def test_servers_are_vllm_without_saying_so():
    server = ServerArgs(urls=["http://localhost:1"], model="student", directory="/tmp/weights")
    assert SamplingArgs(server=server).engine == "vllm"


def test_engines_stay_awake_between_the_requests_of_an_evaluation(monkeypatch):
    rests: list[int] = []

    class Engine:
        def check_length(self, *_: Any) -> None: ...
        def take_weights(self, *_: Any) -> None: ...
        def answers(self, request: Any) -> Any:
            return iter(())

        def rest(self) -> None:
            rests.append(1)

    engine: Any = Engine()
    monkeypatch.setattr(engine_vllm_colocated, "engine_for", lambda *_: engine)
    monkeypatch.setattr(engine_vllm_colocated, "_engines", {(): engine})
    monkeypatch.setattr(engine_vllm_colocated, "is_installed", lambda: True)

    def write() -> None:
        sample(tiny(), PROMPTS, SamplingArgs(n=1, max_new_tokens=2, engine="vllm"), eos_ids=[], pad_id=0, seed=0)

    write()
    assert len(rests) == 1
    with staying_awake():
        write()
        with staying_awake():
            write()
        write()
        assert len(rests) == 1
    assert len(rests) == 2
