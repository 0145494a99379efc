"""The choice of a backend: by what a canary managed, once per process, and never silently an unsafe one."""

import logging
import marshal
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sandbox.attacks import attempts

from lit_uniopd.errors import UserError
from lit_uniopd.sandbox import Sandbox, SandboxArgs, backends, process
from lit_uniopd.sandbox.child import confinement, landlock, seccomp, view


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str | None]]:
    """A machine on which the probes end as one likes; counts them."""
    ends: dict[str, str | None] = dict.fromkeys(backends.SAFE, "is broken")
    probed: list[str] = []
    monkeypatch.setattr(backends, "_failures", {})
    monkeypatch.setattr(backends, "probe", lambda name: probed.append(name) or ends[name])
    monkeypatch.setattr(backends, "probed", probed, raising=False)
    backends._announced.cache_clear()
    yield ends
    backends._announced.cache_clear()


def replace_in_child(monkeypatch: pytest.MonkeyPatch, module: ModuleType, old: str, new: str) -> None:
    """Change a line of a module that runs in the child, on top of earlier changes to others."""
    codes = dict(marshal.loads(process._child_code()))
    source = Path(str(module.__file__)).read_text()
    assert old in source
    codes[module.__name__] = compile(source.replace(old, new), module.__name__, "exec")
    monkeypatch.setattr(process, "_child_code", lambda: marshal.dumps(list(codes.items())))


def test_a_canary_that_gets_out_is_noticed():
    """The plain backend stands in for one that promises more than it keeps."""
    failure = backends.probe("plain")
    assert failure is not None
    for escape in ("network connection", "read a file", "start processes", "leave a process behind"):
        assert escape in failure


@pytest.mark.parametrize(
    ("layer", "escape"),
    [("landlock_version", "read a file outside"), ("filter_supported", "start processes without bound")],
)
def test_a_layer_that_the_kernel_lacks_is_missed_where_it_is_needed(sandbox, monkeypatch, layer, escape):
    """A view of the files of one's own stands in for Landlock; nothing stands in for the filter."""
    replace_in_child(monkeypatch, confinement, f"if {layer}():", "if False:")
    failure = backends.probe(sandbox.backend)
    if layer == "landlock_version" and sandbox.backend in backends.WRAPPED:
        assert failure is None
    else:
        assert escape in (failure or "")


def test_a_view_that_can_be_written_to_is_no_sandbox(monkeypatch):
    """The interpreter and the installed packages may belong to the user."""
    if not os.access(os.__file__, os.W_OK):
        pytest.skip("the library belongs to somebody else")
    replace_in_child(monkeypatch, confinement, "if landlock_version():", "if False:")
    assert backends.probe("unshare") is None
    replace_in_child(monkeypatch, view, '"<QQQQ", 1,', '"<QQQQ", 0,')
    assert backends.probe("unshare") == "a program can write to the library"


@pytest.mark.parametrize("version", [1, 2])
def test_a_landlock_that_cannot_guard_from_truncation_needs_the_filter(sandbox, monkeypatch, tmp_path, version):
    """Linux 5.13 to 6.1."""
    replace_in_child(monkeypatch, landlock, "return max(0, ", f"return min({version}, ")
    (tmp_path / "file").write_text("secret")
    program = """
        def f(path):
            attempt("truncate", lambda: os.truncate(path, 0) or True)
            for mode in range(4): attempt(mode, lambda: os.open(path, mode | os.O_TRUNC) or True)
            return managed
    """
    assert backends.probe(sandbox.backend) is None
    assert attempts(sandbox, "import os\n" + textwrap.dedent(program), str(tmp_path / "file")) == []
    assert (tmp_path / "file").read_text() == "secret"


def test_without_both_the_probe_sees_files_emptied_and_memory_shared(monkeypatch):
    """Landlock as it was before Linux 6.2, and a filter that allows both: no backend to choose by itself."""
    replace_in_child(monkeypatch, landlock, "return max(0, ", "return min(2, ")
    more = 'ALLOWED: dict[str, tuple[int, int | None]] = {"truncate": (76, 45), "shmat": (30, 196),'
    replace_in_child(monkeypatch, seccomp, "ALLOWED: dict[str, tuple[int, int | None]] = {", more)
    failure = backends.probe("seccomp")
    assert failure == "a program can empty a file outside, change shared memory"


@pytest.mark.parametrize("working", backends.SAFE)
def test_auto_takes_the_first_that_proves_itself_and_says_so_once(outcomes, working, caplog):
    outcomes[working] = None
    caplog.set_level(logging.INFO, logger=backends.__name__)
    assert {Sandbox().backend for _ in range(5)} == {working}
    assert [record.getMessage() for record in caplog.records] == [f"Programs run in the {working} sandbox."]
    assert backends.probed == list(backends.SAFE[: backends.SAFE.index(working) + 1])  # type: ignore[attr-defined]


def test_a_named_backend_that_fails_is_an_error_even_if_another_would_work(outcomes):
    outcomes["seccomp"] = None
    with pytest.raises(UserError, match=r"sandbox\.backend unshare .*is broken.* choose auto"):
        _ = Sandbox(SandboxArgs(backend="unshare", allow_unsafe=True)).backend


def test_without_a_working_one_nothing_runs_unless_asked_for(outcomes, caplog):
    with pytest.raises(UserError, match=r"sandbox\.allow_unsafe"):
        Sandbox().calls("", "f", [[1]], timeout=1)
    with pytest.raises(UserError, match=r"sandbox\.allow_unsafe"):
        Sandbox().stdio("", "", timeout=1)
    assert not caplog.records
    assert Sandbox(SandboxArgs(allow_unsafe=True)).backend == "plain"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_safe_one_is_preferred_even_if_an_unsafe_one_is_allowed(outcomes):
    outcomes["seccomp"] = None
    assert Sandbox(SandboxArgs(allow_unsafe=True)).backend == "seccomp"


def test_the_unsafe_one_must_be_asked_for_twice():
    with pytest.raises(UserError, match=r"sandbox\.allow_unsafe"):
        SandboxArgs(backend="plain")
    with pytest.raises(UserError, match=r"sandbox\.backend must be one of"):
        SandboxArgs(backend="docker")  # type: ignore[arg-type]


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    backends.command.cache_clear()
    assert backends.probe("bubblewrap") == "bwrap is not installed"
    backends.command.cache_clear()


def test_a_sandbox_that_fails_later_is_not_the_programs_fault(sandbox, monkeypatch):
    assert sandbox.backend
    monkeypatch.setattr(backends, "command", lambda name: ("/bin/sh", "-c", "echo no more namespaces >&2", "--"))
    results = [*sandbox.calls("", "f", [[1]], timeout=1), sandbox.stdio("", "", timeout=1)]
    assert [(result.status, result.message) for result in results] == [("error", "no more namespaces")] * 2
