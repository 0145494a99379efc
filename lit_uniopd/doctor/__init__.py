"""What could go wrong with a run, looked at before its first step (docs/doctor.md)."""

from lit_uniopd.doctor.all_checks import run_all_checks as run_all_checks
from lit_uniopd.doctor.console import show as show
from lit_uniopd.doctor.findings import Finding as Finding
from lit_uniopd.doctor.findings import exit_status as exit_status
