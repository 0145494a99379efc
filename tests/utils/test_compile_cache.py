"""Code of `torch.compile` for one kind of processor is not taken for another's."""

import pytest
from torch._inductor.runtime.cache_dir_utils import cache_dir

from lit_uniopd.utils.compile_cache import CAPABILITY, DIRECTORY, separate_compile_cache


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    monkeypatch.delenv(DIRECTORY, raising=False)
    monkeypatch.delenv(CAPABILITY, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def directory_under(capability, monkeypatch, looked: bool) -> str:
    monkeypatch.delenv(DIRECTORY, raising=False)
    if looked:
        cache_dir()
    if capability is not None:
        monkeypatch.setenv(CAPABILITY, capability)
    separate_compile_cache()
    return cache_dir()  # where torch looks from now on


@pytest.mark.parametrize("looked", [False, True], ids=["", "torch has looked before"])
def test_each_capability_has_a_directory(monkeypatch, looked):
    directories = [directory_under(capability, monkeypatch, looked) for capability in (None, "avx2", "default")]
    assert len(set(directories)) == 3
    assert directories[1] == f"{directories[0]}_avx2"


def test_a_named_directory_stays(monkeypatch, tmp_path):
    monkeypatch.setenv(CAPABILITY, "avx2")
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "mine"))
    separate_compile_cache()
    assert cache_dir() == str(tmp_path / "mine")
