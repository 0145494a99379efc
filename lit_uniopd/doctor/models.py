"""Can everything that the settings name be reached: models, servers, detectors, judges?"""

from collections.abc import Iterator
from typing import Any

from transformers import AutoConfig

from lit_uniopd.doctor.dry_run import Case, Model, complaints
from lit_uniopd.doctor.findings import Finding, complaint, green, red, yellow
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.memory import build_meta_model, model_size
from lit_uniopd.sampling import engine_vllm_server
from lit_uniopd.scorers import Judge
from lit_uniopd.teachers import RemoteTeacher
from lit_uniopd.utils.http import ServerError


def check_models(case: Case) -> Iterator[Finding]:
    """Read config and tokenizer of every model; later checks leave out those that cannot be read."""
    descriptions = []
    for model in case.named_models:
        try:
            assert model.processor is not None
            descriptions.append(_describe(case, model))
        except UserError as error:
            case.missing.add(model.name)
            yield complaint("models", "red", str(error))
    if descriptions:
        yield green("models", f"{'; '.join(descriptions)}.")


_STUDENTS = {
    "student_at_start": "the student before training",
    "student": "the student as it is",
    "student_average": "an average of the student over its steps",
}


def _describe(case: Case, model: Model) -> str:
    """Its class and size; its class alone if its weights are on a server."""
    teacher = None if case.pool is None else case.pool.args.get(model.name.removeprefix("teacher "))
    if teacher is not None and model.name.startswith("teacher ") and teacher.is_student:
        return f"{model.name}: {_STUDENTS[teacher.weights]}"
    kind = (model.config.architectures or [type(model.config).__name__])[0]
    if model.name.removeprefix("teacher ") in ({} if case.pool is None else case.pool.remote):
        return f"{model.name}: the tokenizer of {kind}"
    trained = case.stage == "fit" and model is case.student
    shape = model_size(build_meta_model(model.args, trainable=trained, flag=model.flag))
    lora = "" if model.args.lora is None else f", adapters of rank {model.args.lora.rank}"
    held = "" if model.args.quantization == "none" else f" in {model.args.quantization}"
    return f"{model.name}: {kind}, {_count(shape.parameters)} parameters{held}{lora}"


def _count(number: int) -> str:
    unit, name = next(((unit, name) for unit, name in ((1e9, "B"), (1e6, "M")) if number >= unit), (1e3, "K"))
    return f"{number / unit:.3g}{name}"


def check_servers(case: Case) -> Iterator[Finding]:
    """Ask the servers of teachers and of the rollouts what they serve, each once."""
    if case.stage != "fit":
        return
    for name, teacher in ({} if case.pool is None else case.pool.remote).items():
        with complaints(f"server {name}") as problems:
            problems.append(green(f"server {name}", _check_server(case, name, teacher)))
        if any(problem.status == "red" for problem in problems):
            case.unreachable.add(name)
        yield from problems
    server: Any = getattr(getattr(case.module, "sampling", None), "server", None)
    if server is not None:
        with complaints("server") as problems:
            model = engine_vllm_server.connect(server).weights.model
            problems.append(green("server", f"{', '.join(server.urls)} serves {model}."))
        yield from problems


def _check_server(case: Case, name: str, teacher: RemoteTeacher) -> str:
    """What a teacher's servers offer.

    Raises:
        UserError: if one does not serve what is needed.
    """
    count, protocol = len(teacher.servers.urls), teacher.http.protocol
    servers = f"{count} {protocol} server{'s' if count > 1 else ''}"
    if case.student.name not in case.missing and name in case.teachers:
        teacher.check(case.student.processor, case.student.args)
        named = f", names its {teacher.top_k} likeliest tokens" if teacher.top_k else ""
        return f"{servers}: {teacher.model} is served, scores answers{named} and speaks the student's tokens."
    for url in teacher.servers.urls:  # without a tokenizer there is nothing to compare
        try:
            teacher.check_model(url)
        except ServerError as error:
            raise UserError(
                f"--{teacher.flag}.http.urls {url} {error}; start a {protocol} server there, or mend the address."
            ) from error
    return f"{servers}: {teacher.model} is served; its tokens could not be compared."


def check_judges_and_detectors(case: Case) -> Iterator[Finding]:
    """Does the model exist, does the endpoint serve it?"""
    for judge in (*case.detectors, *case.scorers):
        name = type(judge).__name__
        title = "detectors" if judge in case.detectors else "scorer"
        if isinstance(judge, Judge):
            yield _check_endpoint(judge)
        elif path := getattr(judge, "path", ""):
            yield _check_config(title, name, path, bool(getattr(judge, "trust_remote_code", False)))
        elif title == "detectors":
            with complaints(title) as problems:
                judge.prepare("cpu")
                problems.append(green(title, f"{judge.name} is ready."))
            yield from problems


def _check_endpoint(judge: Judge) -> Finding:
    try:
        served = [model["id"] for model in judge.server.get("/models", retries=0)["data"]]
    except (ServerError, KeyError, TypeError) as error:
        if not isinstance(error, ServerError) or error.status == 404:
            problem = f"Judge.url {judge.url} is there, but does not list its models."
            return yellow("scorer", problem, f"Make sure that it knows {judge.model}.")
        return red("scorer", f"Judge.url {judge.url} {error}.", "Start it, or mend url and its key.")
    if judge.model not in served:
        remedy = "Choose Judge.model among these."
        return red("scorer", f"Judge.url {judge.url} serves {', '.join(served)}, not {judge.model}.", remedy)
    return green("scorer", f"{judge.url} serves {judge.model}.")


def _check_config(title: str, name: str, path: str, trust: bool) -> Finding:
    try:
        kind = type(AutoConfig.from_pretrained(path, trust_remote_code=trust)).__name__
    except (OSError, ValueError, KeyError, ImportError) as error:
        remedy = "Give a hub id or a model directory, or check the network."
        return red(title, f"{name}.path {path} cannot be had ({first_line(error)}).", remedy)
    return green(title, f"{name} of {path} ({kind.removesuffix('Config')}).")
