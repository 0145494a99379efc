"""Uni-OPD: on-policy distillation (`uni_opd`) and its parts."""
