"""Does this machine have what the run needs: memory, disk, sandbox, accelerator, versions?"""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_uniopd.doctor.dry_run import Case, complaints
from lit_uniopd.doctor.findings import Finding, green, red, yellow
from lit_uniopd.memory import build_meta_model, check_fits, free_bytes, model_size, plan_memory
from lit_uniopd.memory.plan import readable
from lit_uniopd.rewards.registry import IN_THREAD
from lit_uniopd.utils.versions import versions

COMPROMISED = {"lightning": {"2.6.2", "2.6.3"}}
"""Releases that were tampered with."""
STATES = 3
"""A checkpoint holds weights and, in Adam's case, two moments of their size."""


def check_memory(case: Case) -> Iterator[Finding]:
    """The memory plan, against what the device has free."""
    if case.stage != "fit":
        return
    free = free_bytes(case.device, case.trainer.num_devices)
    with complaints("memory") as problems:
        setup = case.module.memory_setup()
        plan = plan_memory(setup)
        if case.trainer_problem is not None:  # this machine has no such device
            yield green("memory", f"About {readable(plan.total)} at the peak ({plan.peak}) on one device.")
            return
        warning = check_fits(setup, plan, free, str(case.device))
        if warning is not None:
            problem, _, remedy = warning.rstrip(".").rpartition("; ")
            problems.append(yellow("memory", f"{problem}.", f"{remedy[:1].upper()}{remedy[1:]}.", plan.table()))
        else:
            usage = f"About {readable(plan.total)} at the peak ({plan.peak}) on each device"
            problems.append(green("memory", f"{usage}, {readable(free)} free there."))
    yield from problems


def check_disk(case: Case) -> Iterator[Finding]:
    """Free space where the run writes, against the checkpoints that it keeps."""
    directory = case.directory.absolute()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    model = build_meta_model(case.student.args, trainable=True, flag=case.student.flag)
    checkpoint_bytes = STATES * model_size(model).trainable_bytes if case.stage == "fit" else 0
    callbacks = [callback for callback in case.trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    count = sum(_checkpoints_on_disk(callback) for callback in callbacks)
    # A new one is written before an old one is removed.
    needed = checkpoint_bytes * (count + 1) if count else 0
    usage = f"{readable(free)} free at {_relative_to_cwd(existing)}; checkpoints take about {readable(needed)}"
    if needed > free:
        yield red(
            "disk", f"{usage}.", "Make room, choose another --trainer.logger.save_dir, or keep fewer by save_top_k."
        )
    elif needed > 0.5 * free:
        yield yellow("disk", f"{usage}.", "Make room, or keep fewer checkpoints by save_top_k.")
    else:
        yield green("disk", f"{usage}.")


def _checkpoints_on_disk(callback: ModelCheckpoint) -> int:
    return max(callback.save_top_k, 1 if callback.save_top_k else 0) + bool(callback.save_last)


def _relative_to_cwd(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def check_sandbox(case: Case) -> Iterator[Finding]:
    """Which sandbox holds a program that tries to get out."""
    if case.detectors:  # nothing is graded
        return
    names = {prompt.grader for prompt in (*case.train_prompts, *case.val_prompts, *case.predict_prompts)}
    names |= {benchmark.grader(example) for benchmark in case.benchmarks for example in benchmark.examples}
    programs = sorted(str(name) for name in names if name in IN_THREAD)
    if not programs:
        return
    with complaints("sandbox") as problems:
        case.module.graders.prepare(programs)
        backend = case.module.graders.sandbox_backend
        if backend == "plain":
            problems.append(
                yellow(
                    "sandbox",
                    f"Programs of {', '.join(programs)} run unprotected, with your files and network.",
                    "Install bubblewrap and set the sandbox's backend to auto and allow_unsafe to false.",
                )
            )
        else:
            problems.append(green("sandbox", f"{backend}: a program that tried to get out, could not."))
    yield from problems


def check_device(case: Case) -> Iterator[Finding]:
    """Accelerator, precision and attention kernel together."""
    if case.trainer_problem is not None:
        yield case.trainer_problem
        return
    device, precision = case.device, str(case.trainer.precision)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    problems = [*_attention(case, precision)]
    if device.type == "cpu" and torch.cuda.is_available():
        problems.append(
            yellow("device", "The run uses the CPU, and a GPU is here.", "Add -c configs/trainer/gpu.yaml.")
        )
    if device.type == "cuda" and precision == "32-true" and case.stage == "fit":
        remedy = "Set --trainer.precision bf16-mixed, which keeps the weights in float32."
        problems.append(yellow("device", f"{name} computes in 32 bits, several times slower than in 16.", remedy))
    yield from problems
    if not problems:
        yield green("device", f"{case.trainer.num_devices} x {name}, precision {precision}.")


def _attention(case: Case, precision: str) -> Iterator[Finding]:
    for model in case.models:
        kernel = model.args.attn_implementation or ""
        if not kernel.startswith("flash_attention"):
            continue
        flag, remedy = f"--{model.flag}.attn_implementation {kernel}", f"Set --{model.flag}.attn_implementation sdpa"
        if case.device.type != "cuda":
            yield red("device", f"{flag} needs a GPU, and the run is on {case.device.type}.", f"{remedy}.")
        elif importlib.util.find_spec("flash_attn") is None and kernel == "flash_attention_2":
            yield red("device", f"{flag} needs the package flash-attn, which is not here.", f"{remedy}, or install it.")
        elif "16" not in precision and model.args.dtype in ("auto", "float32"):
            yield red(
                "device",
                f"{flag} cannot compute in 32 bits (--trainer.precision {precision}).",
                f"Set --trainer.precision bf16-mixed. Or: {remedy[:1].lower()}{remedy[1:]}.",
            )


def check_versions(case: Case) -> Iterator[Finding]:
    """What the numbers of the run depend on."""
    installed = versions()
    bad = [f"{name} {installed[name]}" for name, releases in COMPROMISED.items() if installed.get(name) in releases]
    if bad:
        yield red(
            "versions",
            f"{bad[0]} is a release that was tampered with.",
            "Install lightning>=2.6.5 and change your keys.",
        )
    present = ", ".join(f"{name} {number}" for name, number in installed.items() if number != "not installed")
    missing = [name for name, number in installed.items() if number == "not installed"]
    yield green("versions", present + (f"; not installed: {', '.join(missing)}" if missing else "") + ".")
