"""The command line of every job: one YAML file, any field overridden as `--SECTION.FIELD VALUE`, one-line errors."""

import argparse
import reprlib
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import CliSettingsSource

from siamdiff.config import Config
from siamdiff.credentials import refuse_in
from siamdiff.errors import UserError, nearest
from siamdiff.presets import expand, merge, table

# Mappings given as NAME=VALUE, the option once for each.
_NAMED = {
    "evaluate.synthetic": "[NAME=]URI",
    "evaluate.extractors": "NAME[=SOURCE]",
    "segment.synthetic": "[NAME=]URI",
    "segment.tests": "[NAME=]URI",
}


def load(argv: list[str], default: Path, description: str) -> tuple[Config, bool]:
    """The resolved configuration of a command line, and whether it is the default experiment (no --config given).

    Args:
        argv: arguments after the program's name.
        default: YAML file taken where --config is left out.
        description: first lines of --help.

    Raises:
        UserError: unknown field or preset (naming the nearest valid one), value out of range, unreadable file.
    """
    parser = _Parser(
        usage="%(prog)s [--config FILE] [--SECTION.FIELD VALUE ...]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"""What stands in [brackets] is used where a field is left out. A value in the file stands before the
default shown here; without --config the file is {default.name}. S3 credentials and endpoint come from the
standard AWS variables.

presets, for --preset NAME: above what the file says, below what else the command line says:
{table()}""",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help=f"experiment file [{default.name}: the demo on phantoms]"
    )
    source = CliSettingsSource[Any](Config, root_parser=parser, cli_hide_none_type=True, cli_avoid_json=True)
    for action in parser._actions:
        action.help = (action.help or "").replace(" (default: None)", "")
        if action.dest in _NAMED:
            action.metavar = _NAMED[action.dest]
    parsed = parser.parse_args(argv)
    file = Path(parsed.config) if parsed.config else default
    arguments = vars(parsed) | {"config": None}
    # pydantic-settings would cut URIs at commas, and keep the last of two sets of one name
    named = {field: arguments.pop(field, None) for field in _NAMED}
    given = source(parsed_args=arguments)()
    given.pop("config", None)
    for field, values in named.items():
        section, _, name = field.partition(".")
        if values:
            given.setdefault(section, {})[name] = values
    in_file = _read_yaml(file)
    for values in (in_file, given):
        refuse_in(values)
    try:
        config = Config(**merge(expand(in_file), expand(given)))
    except ValidationError as error:
        raise UserError(explain(error)) from None
    return config.resolve(), parsed.config is None


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest valid option."""

    def error(self, message: str) -> NoReturn:
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            option = message.removeprefix(prefix).split()[0].partition("=")[0]
            valid = [name for action in self._actions for name in action.option_strings]
            raise UserError(f"unknown option {option!r}{nearest(option, valid)} (--help lists them)")
        raise UserError(f"{message} (--help lists the options)")


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(
            f"cannot read the configuration {file}: {error.strerror}; give an existing YAML file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{file} must hold sections such as 'data:' and 'train:', not {type(content).__name__}"
        )
    return content


_short = reprlib.Repr()  # a YAML file of a few lines may hold a value of gigabytes, by its aliases
_short.maxstring = _short.maxother = 300
_short.maxlevel = 3


def explain(error: ValidationError) -> str:
    """One line for the first faults of a configuration."""
    parts = []
    for fault in error.errors()[:3]:
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            parts.append(f"unknown field {where!r}{nearest(where, field_names(Config))}")
        elif where and not (len(fault["loc"]) == 1 and isinstance(fault["input"], dict)):
            parts.append(f"{where} = {_short.repr(fault['input'])}: {_sentence(fault['msg'])}")
        else:
            parts.append(_sentence(fault["msg"]))
    return "; ".join(parts)


def _sentence(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of every field, sections included: ["root", "data", "data.source", ...]."""
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names += field_names(kind, f"{prefix}{name}.")
    return names
