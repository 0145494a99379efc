"""Do the settings fit the objective? The sentences are those of ``fit``."""

from collections.abc import Iterator

from lit_uniopd.doctor.dry_run import Case, complaints
from lit_uniopd.doctor.findings import Finding, green, shown


def check_setup(case: Case) -> Iterator[Finding]:
    """What the module itself warns of or refuses when a run begins."""
    with complaints("settings") as problems:
        case.module.setup(case.stage)
    yield from problems
    if not problems and not case.objected:
        yield green("settings", f"{type(case.module).__name__} has nothing to object.")


def check_objections(case: Case) -> Iterator[Finding]:
    """Settings with which the run would do something else than they say."""
    if case.stage != "fit":
        return
    with complaints("settings") as problems:
        for finding in shown(case.module.objections()):
            problems.append(finding)  # what was found before an error stays
    yield from problems
    case.objected = any(problem.name == "settings" for problem in problems)
    if case.on_policy and not any(problem.name == "sampling" for problem in problems):
        sampling, answers = case.module.sampling, case.trainer_data.batch_size * case.module.sampling.n
        yield green(
            "sampling",
            f"{sampling.n} answers a prompt of up to {sampling.max_new_tokens} tokens, temperature "
            f"{sampling.temperature:g} for student and teachers, {answers} answers a rollout.",
        )
