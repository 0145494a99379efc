"""Tiny detectors."""

from tiny_detectors import dino, mm_dino, omdet, owl, pictures, rt_detr  # noqa: F401  # fixtures
