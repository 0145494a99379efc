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
from lit_uniopd.doctor.hub_reachability import asked_once
from lit_uniopd.doctor.image_tokens import check_images
from lit_uniopd.doctor.models import check_models, check_parts, check_servers
from lit_uniopd.doctor.self_distillation import check_itself, check_reference
from lit_uniopd.doctor.settings import check_sampling, check_setup
from lit_uniopd.doctor.teacher_routing import check_routes
from lit_uniopd.doctor.token_disagreement import check_disagreement
from lit_uniopd.doctor.tokenizers import check_ends, check_tokenizers
from lit_uniopd.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """One family of questions; it finds nothing where they make no sense."""

    title: str
    run: Callable[[Case], Iterator[Finding]]
    loads_weights: bool = False


CHECKS = (
    Check("versions", check_versions),
    Check("device", check_device),
    Check("models", check_models),
    Check("servers", check_servers),
    Check("parts", check_parts),
    Check("data", check_data),
    Check("sandbox", check_sandbox),
    Check("golds", check_graders),
    Check("teachers", check_routes),
    Check("tokens", check_tokenizers),
    Check("ends", check_ends),
    Check("templates", check_templates),
    Check("pictures", check_images),
    Check("sampling", check_sampling),
    Check("settings", check_setup),
    Check("memory", check_memory),
    Check("disk", check_disk),
    Check("self-test", check_itself, loads_weights=True),
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
    misfit: Finding | None = None,
    on_check: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Look at a run before its first step.

    Nothing is trained and nothing is written. In a notebook:

        for finding in run_all_checks(UniOPD(student=..., teachers=...), PromptDataModule(train=...)):
            print(finding.status, finding.name, finding.found, finding.remedy)

    Args:
        module: one of ours.
        data: its datamodule.
        trainer: with which it would be fitted, and still can be. None: one for the CPU.
        quick: leave out what loads weights.
        stage: what is to be done. None: train what can be trained; else validate, or predict where the data are for
            nothing but that.
        misfit: what is wrong with the trainer that is wanted, and that ``trainer`` stands in for.
        on_check: called with the title of each check before it begins.

    Returns:
        What was found, in the order of the checks.
    """
    with quiet():
        if trainer is None:
            trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        case, found = Case(module, data, trainer, stage, misfit), list[Finding]()
        try:
            with asked_once(case.paths):
                for check in CHECKS:
                    if not (quick and check.loads_weights):
                        on_check(check.title)
                        found.extend(finding for finding in _findings(check, case) if not _is_told(finding, found))
        finally:
            case.release()
    return found


def _is_told(finding: Finding, found: list[Finding]) -> bool:
    """Whether another check has said so: what cannot be had is found by several."""
    if finding.status == "red":
        return any(finding.found in other.found for other in found if other.status == "red")
    return any((finding.name, finding.found) == (other.name, other.found) for other in found)


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
    """Log nothing below an error: what our code warns of on the way is among the findings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
