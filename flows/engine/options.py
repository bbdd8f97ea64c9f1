"""The parameters of a spec as options of a command: one description serves terminal, spec file and Prefect's form."""

from __future__ import annotations

import reprlib
import shlex
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from tasks.parameters import Group, names_function
from tasks.preprocess_choice import names_code
from tasks.spec import DissectSpec

#: Parameters of a whole run.
EVERYTHING = DissectSpec.model_fields
#: Parameters that make code run, and what it is. Specs are published and passed on: a file alone must not choose it.
RUN_CODE: dict[str, tuple[Callable[[str], bool], str]] = {
    "target": (names_function, "a Python function, which would be imported and called"),
    "preprocess": (names_code, "a Python function, which would be imported and called"),
    "dask_address": (bool, "a Dask scheduler, which tells its clients what to unpickle"),
}
#: How a wrong value is shown: with aliases, a few lines of YAML are a list of lists without end.
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring = 2, 200
SpecT = TypeVar("SpecT", bound=Group)


class SpecError(click.UsageError):
    """Options that make no valid spec; every problem is named, not the first."""


class SpecCommand(click.Command):
    """A command whose help shows its options in the groups of its spec."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section per group of parameters."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                sections.setdefault(getattr(parameter, "section", "Other"), []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


class SpecOption(click.Option):
    """An option that belongs to a section of the help."""

    section: str


def spec_options(spec: type[Group]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds an option for every parameter of `spec`, and `--spec` for a file that holds them."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for name, field in reversed(spec.model_fields.items()):
            command = _option(name, field, _section(spec, name))(command)
        file = click.option(
            "--spec",
            "spec_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            cls=SpecOption,
            help="YAML file with these parameters, as every run writes beside its tables; options given here win.",
        )
        return file(command)

    return add


def build_spec(spec: type[SpecT], spec_file: Path | None, options: dict[str, Any]) -> SpecT:
    """The spec of a command line. Raises `SpecError` with all that is wrong."""
    values = _read(spec_file) if spec_file else {}
    # The file of a whole run serves its stages too; what no run knows is refused below.
    values = {name: value for name, value in values.items() if name in spec.model_fields or name not in EVERYTHING}
    given = {name: value for name, value in options.items() if value is not None}
    _refuse_code(spec_file, values, given)
    values |= given
    try:
        return spec(**values)
    except ValidationError as error:
        raise SpecError("\n".join(_problem(problem) for problem in error.errors())) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:  # ValueError: 2001-99-99
        raise SpecError(f"{file} is no YAML: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise SpecError(f"{file} holds {type(values).__name__}, not parameters by name.")
    return values


def _refuse_code(spec_file: Path | None, of_file: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises `SpecError` where a file would make code run that is not asked for on the command line too."""
    typed = [
        (name, value, what)
        for name, (runs, what) in RUN_CODE.items()
        if name not in given and isinstance(value := of_file.get(name), str) and runs(value)
    ]
    if typed:
        named = "; ".join(f"the {name} {value!r} is {what}" for name, value, what in typed)
        options = " ".join(f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value, _ in typed)
        raise SpecError(
            f"{spec_file} would make code run: {named}. A file alone does not decide that. Where you trust it, add "
            f"to the command: {options}"
        )


def _option(name: str, field: FieldInfo, section: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    flag, kind, text = f"--{name.replace('_', '-')}", _inner(field.annotation), field.description or ""
    if field.is_required():
        text += "  [required]"
    elif field.default not in (None, False):
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        text += f"  [default: {default}]"
    option: dict[str, Any] = {"default": None, "help": text, "cls": SpecOption}
    if kind is bool:
        option |= {"is_flag": True, "flag_value": True}
    elif get_origin(kind) is Literal:
        option |= {"type": click.Choice(get_args(kind))}
    elif get_origin(kind) is tuple and _is_repeated(field):
        option |= {"multiple": True, "callback": _none_if_not_given, "metavar": "SOURCE"}
    elif get_origin(kind) is tuple:
        option |= {"callback": _split, "metavar": "NAME,NAME"}
    else:
        option |= {"type": kind}

    def add(command: Callable[..., None]) -> Callable[..., None]:
        decorated = click.option(flag, name, **option)(command)
        decorated.__click_params__[-1].section = section  # type: ignore[attr-defined]
        return decorated

    return add


def _is_repeated(field: FieldInfo) -> bool:
    """Whether a parameter of several values is an option given several times, not once with commas."""
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("repeated"))


def _none_if_not_given(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...] | None:
    del context, parameter
    return value or None  # click has no other word for it, and a --spec file may have the parameter


def _split(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    del context, parameter
    return tuple(part.strip() for part in value.split(",") if part.strip()) if value is not None else None


def _inner(annotation: Any) -> Any:
    """`int` of `int | None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def _section(spec: type[Group], name: str) -> str:
    # The group that describes a parameter is the last in line to have it.
    owner = next(group for group in reversed(spec.__mro__) if name in getattr(group, "model_fields", {}))
    return (owner.__doc__ or "").strip()


def _problem(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    flag = f"--{str(problem['loc'][0]).replace('_', '-')}"
    if problem["type"] == "missing":
        return f"{flag} is needed."
    if problem["type"] == "too_short":
        return f"{flag} names nothing: give at least one."
    if message.startswith(flag):
        return str(message)
    if problem["type"] == "extra_forbidden":
        return f"There is no parameter {problem['loc'][0]!r}."
    return f"{flag} {SHORT.repr(problem['input'])}: {message}."
