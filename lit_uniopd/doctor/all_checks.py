"""All checks, one after the other, those that load weights last."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning import Trainer

from lit_uniopd.doctor.chat_templates import check_templates
from lit_uniopd.doctor.data import check_data, check_graders
from lit_uniopd.doctor.dry_run import Case, Stage
from lit_uniopd.doctor.findings import Finding, complaint, red
from lit_uniopd.doctor.hardware import check_device, check_disk, check_memory, check_sandbox, check_versions
from lit_uniopd.doctor.hub_reachability import offline_if_unreachable
from lit_uniopd.doctor.image_tokens import check_images
from lit_uniopd.doctor.models import check_judges_and_detectors, check_models, check_servers
from lit_uniopd.doctor.self_distillation import check_reference, check_self_distillation
from lit_uniopd.doctor.settings import check_objections, check_setup
from lit_uniopd.doctor.teacher_routing import check_routes
from lit_uniopd.doctor.token_disagreement import check_disagreement
from lit_uniopd.doctor.tokenizers import check_ends, check_tokenizers
from lit_uniopd.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """One family of questions; it yields nothing where they do not apply."""

    title: str
    run: Callable[[Case], Iterator[Finding]]
    loads_weights: bool = False


CHECKS = (
    Check("versions", check_versions),
    Check("device", check_device),
    Check("models", check_models),
    Check("servers", check_servers),
    Check("parts", check_judges_and_detectors),
    Check("data", check_data),
    Check("sandbox", check_sandbox),
    Check("golds", check_graders),
    Check("teachers", check_routes),
    Check("tokens", check_tokenizers),
    Check("ends", check_ends),
    Check("templates", check_templates),
    Check("pictures", check_images),
    Check("sampling", check_objections),
    Check("settings", check_setup),
    Check("memory", check_memory),
    Check("disk", check_disk),
    Check("self-test", check_self_distillation, loads_weights=True),
    Check("self-test", check_reference, loads_weights=True),
    Check("disagreement", check_disagreement, loads_weights=True),
)


def run_all_checks(
    module: Any,
    data: Any = None,
    trainer: Trainer | None = None,
    *,
    quick: bool = False,
    stage: Stage | None = None,
    trainer_problem: Finding | None = None,
    on_check: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Look at a run before its first step.

    Nothing is trained and nothing is written. In a notebook:

        for finding in run_all_checks(UniOPD(student=..., teachers=...), PromptDataModule(train=...)):
            print(finding.status, finding.name, finding.message, finding.remedy)

    Args:
        module: one of ours.
        data: its datamodule.
        trainer: that would fit it, and still can afterwards. None: one for the CPU.
        quick: leave out the checks that load weights.
        stage: what is to be run. None: fit what can be trained; else validate, or predict where the data serve
            nothing else.
        trainer_problem: what is wrong with the trainer of the run, if ``trainer`` stands in for it.
        on_check: called with the title of each check before it begins.

    Returns:
        The findings, in the order of the checks.
    """
    with quiet():
        if trainer is None:
            trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        case, findings = Case(module, data, trainer, stage, trainer_problem), list[Finding]()
        try:
            with offline_if_unreachable(case.paths):
                for check in CHECKS:
                    if not (quick and check.loads_weights):
                        on_check(check.title)
                        findings.extend(new for new in _findings(check, case) if not _is_repeated(new, findings))
        finally:
            case.release()
    return findings


def _is_repeated(finding: Finding, earlier: list[Finding]) -> bool:
    """Whether another check has said so: several stumble over the same missing file."""
    if finding.status == "red":
        return any(finding.message in other.message for other in earlier if other.status == "red")
    return any((finding.name, finding.message) == (other.name, other.message) for other in earlier)


def _findings(check: Check, case: Case) -> Iterator[Finding]:
    try:
        yield from check.run(case)
    except UserError as error:
        yield complaint(check.title, "red", str(error))
    except Exception as error:  # the other checks still have something to say
        log.debug("%s failed.", check.title, exc_info=True)
        yield red(
            check.title,
            f"This check failed itself: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}",
            "See where by `uniopd fit --debug` with the same arguments, which is likely to stop there too.",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing below an error: warnings of our own code are among the findings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
