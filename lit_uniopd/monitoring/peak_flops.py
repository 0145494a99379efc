"""What a device can do at most, for the share of it that a run uses."""

import torch

TFLOPS: dict[str, float] = {
    "B300": 2250,
    "B200": 2250,
    "GB200": 2500,
    "GH200": 989,
    "H200": 989,
    "H20": 148,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H800": 989,
    "A800": 312,
    "A100": 312,
    "A40": 150,
    "A30": 165,
    "A10G": 70,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 6000 Ada": 364,
    "RTX A6000": 155,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "MI355X": 2516,
    "MI325X": 1307,
    "MI300X": 1307,
    "MI250X": 383,
}
"""Part of a device's name -> 10^12 dense bfloat16 operations a second with float32 sums, as its maker says."""


def peak_flops(device: torch.device) -> float | None:
    """Operations a second in bfloat16 at the peak; None: unknown, as of every CPU."""
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_of(name: str) -> float | None:
    """Of a device with this name.

    Example:
        >>> peak_of("NVIDIA H100 PCIe"), peak_of("NVIDIA A100-SXM4-80GB"), peak_of("NVIDIA L40S"), peak_of("llvmpipe")
        (756000000000000.0, 312000000000000.0, 362000000000000.0, None)
    """
    words = name.replace("-", " ").upper().split()
    fitting = [part for part in TFLOPS if _has_words(words, part.upper().split())]
    return TFLOPS[max(fitting, key=len)] * 1e12 if fitting else None


def _has_words(words: list[str], part: list[str]) -> bool:
    return any(words[i : i + len(part)] == part for i in range(len(words)))
