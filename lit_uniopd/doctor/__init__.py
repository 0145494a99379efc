"""What could go wrong with a run, looked at before its first step (docs/doctor.md)."""

from lit_uniopd.doctor.examine import examine as examine
from lit_uniopd.doctor.findings import Finding as Finding
from lit_uniopd.doctor.findings import exit_status as exit_status
from lit_uniopd.doctor.screen import show as show
