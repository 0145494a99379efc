"""A chat template whose turns end where sampling stops, and a filter of the doctor's findings."""

from tiny import CHAT

from lit_uniopd.doctor import Finding

ENDING = CHAT.replace("<end>", "<eos>")


def of(findings: list[Finding], name: str) -> list[Finding]:
    """The findings of one name, the worst first."""
    return sorted((f for f in findings if f.name == name), key=lambda f: ["red", "yellow", "green"].index(f.status))
