"""Does every prompt have a teacher, and every teacher a prompt?"""

from collections import Counter
from collections.abc import Iterator

from lit_uniopd.doctor.dry_run import Case
from lit_uniopd.doctor.findings import Finding, complaint, green, red, shown
from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd.objections import idle_teachers


def check_routes(case: Case) -> Iterator[Finding]:
    """Send every training prompt to its teacher."""
    if case.pool is None or not case.train_prompts:
        return
    counts: Counter[str] = Counter()
    errors: list[str] = []
    for prompt in case.train_prompts:
        try:
            counts.update(case.pool.routes([prompt]))
        except UserError as error:
            errors.append(str(error))
    if errors:
        first = complaint("teachers", "red", errors[0])
        yield red("teachers", f"{len(errors):,} prompts have no teacher. {first.message}", first.remedy)
    if counts:
        yield green("teachers", ", ".join(f"{name}: {count:,} prompts" for name, count in sorted(counts.items())) + ".")
    yield from shown(idle_teachers(counts, case.pool))
