"""The page's table of attacks says what this machine's backends do, and its list what programs can read."""

from pathlib import Path

from sandbox.outside import ATTACKS, PAGE, PROGRAM, belongings, read_table, verdicts

from lit_uniopd.sandbox import Sandbox, SandboxArgs, backends


def test_each_attack_ends_as_the_page_says(sandbox: Sandbox, tmp_path: Path):
    assert verdicts(sandbox, tmp_path) == read_table()[sandbox.backend]


def test_without_a_sandbox_the_attacks_succeed(tmp_path: Path):
    """Else a mistake in one would pass for a refusal; left out is what harms a machine or what not all of them allow."""
    plain = Sandbox(SandboxArgs(backend="plain", allow_unsafe=True))
    left_out = ("fork", "unlink", "chmod", "syscall", "flock", "'/new'", "shmget", "/mem")
    tried = {name: attack for name, attack in ATTACKS.items() if not any(word in attack for word in left_out)}
    with belongings(tmp_path) as user:
        result = next(iter(plain.calls(PROGRAM, "f", [[user, tried]], timeout=60)))
    assert result.status == "ok", result
    kinds = {"System V": user["shm"] >= 0, "POSIX queues": bool(user["mq"])}
    lacking = [kind for kind, there in kinds.items() if not there]
    assert [name for name in tried if name not in result.value and not any(kind in name for kind in lacking)] == []


def test_the_page_lists_what_a_program_can_read():
    text = PAGE.read_text()
    for path in (*backends._SYSTEM, *backends._DEVICES):
        assert f"`{path}`" in text, path
