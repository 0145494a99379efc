"""Models whose answers end where their chat template says, and what a doctor finds in runs of them."""

from collections.abc import Callable
from typing import Any

import pytest
from doctor_data import ENDING
from tiny import Prompts, make_model, make_tokenizer, module, prompts, trainer

from lit_uniopd.doctor import Finding, run_all_checks


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A student and two teachers of one family."""
    root = tmp_path_factory.mktemp("healthy")
    speaks = make_tokenizer(ENDING)
    names = ("student", "math", "code")
    return {name: str(make_model(root / name, seed=i, tokenizer=speaks)) for i, name in enumerate(names)}


@pytest.fixture
def examined(healthy: dict[str, str], tmp_path: Any) -> Callable[..., list[Finding]]:
    """Examine a run of UniOPD with some of its models, prompts or options changed."""

    def look(
        paths: dict[str, str] | None = None,
        data: Any = None,
        quick: bool = True,
        callbacks: Any = (),
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> list[Finding]:
        run = module({**healthy, **(paths or {})}, **options)
        runner = trainer(tmp_path, callbacks=list(callbacks), **(settings or {}))
        return run_all_checks(run, data or Prompts(prompts(8)), runner, quick=quick)

    return look
