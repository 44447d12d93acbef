"""Settings: frozen pydantic models, read from one YAML file and ``--set a.b=c``; unknown keys are errors."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facetrm.core.errors import ConfigError, FacetrmError, did_you_mean, short

_LONGEST_YAML: Final = 1_000_000
_DEEPEST_YAML: Final = 100
_MOST_YAML_VALUES: Final = 100_000


class Section(BaseModel):
    """Base class of a recipe section: frozen, rejects unknown keys, and holds the only copy of the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


S = TypeVar("S", bound=Section)

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A random seed that every generator accepts."""


def share_seed(section: S) -> S:
    """Give the seed of a whole recipe to every section inside it that does not set its own.

    A seed that is None stays so: there, what reads the section decides.

    Args:
        section: The settings of a run, as a validator gets them: with a ``seed``, and not yet in use.

    Returns:
        The same object, with sections replaced by copies that have the seed.
    """
    seed: int = section.seed  # type: ignore[attr-defined]  # of a recipe; a field in a base class would be dumped first
    for name, child in section:
        if isinstance(child, Section):
            section.__dict__[name] = _with_seed(child, seed)
    return section


def _with_seed(section: S, seed: int) -> S:
    changed: dict[str, Any] = {}
    for name, value in section:
        if isinstance(value, Section):
            changed[name] = _with_seed(value, seed)
        elif name == "seed" and value is not None and name not in section.model_fields_set:
            changed[name] = seed
    return section.model_copy(update=changed)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: YAML text of at most a million characters, nested at most a hundred levels deep, with at most 100,000
            values after its aliases are expanded. (A few hundred characters of aliases can expand to billions.)

    Raises:
        yaml.YAMLError: The text is not YAML, or a mapping repeats a key (PyYAML would silently keep the last one).
        ValueError: The text is too large or nested too deeply.
    """
    if len(text) > _LONGEST_YAML:
        raise ValueError(f"{len(text):,} characters, more than {_LONGEST_YAML:,}")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    _check_expanded(root)
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, child in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    problem = f"the key '{key.value}' appears twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                keys.add(str(key.value))
                waiting.append(child)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
    return yaml.safe_load(text)


def _check_expanded(root: yaml.Node | None) -> None:
    """Raise ValueError if ``root``, with its aliases expanded, is too large, too deep or contains itself."""
    sizes: dict[int, int] = {}
    waiting: list[tuple[yaml.Node | None, int, bool]] = [(root, 1, False)]
    inside: set[int] = set()
    while waiting:
        node, depth, done = waiting.pop()
        if node is None or (id(node) in sizes and not done):
            continue
        if depth > _DEEPEST_YAML:
            raise ValueError(f"nested more than {_DEEPEST_YAML} levels deep")
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = list(node.value)
        if done:
            inside.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
            if sizes[id(node)] > _MOST_YAML_VALUES:
                raise ValueError(f"its aliases expand to more than {_MOST_YAML_VALUES:,} values")
            continue
        if id(node) in inside:
            raise ValueError("an alias that contains itself")
        inside.add(id(node))
        waiting.append((node, depth, True))
        waiting.extend((child, depth + 1, False) for child in children)


def load_yaml(path: Path, error: type[FacetrmError], *, what: str) -> Any:
    """Return the value of the YAML file ``path``.

    Args:
        path: path of the YAML file.
        error: error class to raise.
        what: what the file should contain, for the error message, such as ``a recipe``.

    Raises:
        FacetrmError: An ``error`` if the file is missing, not text, or not YAML (with line and column).
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error("no such file", place=path, fix=f"give the path of {what}") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise error("not a text file", place=path, fix=f"give the path of {what}") from None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        place = path if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
        raise error(f"not YAML ({getattr(exc, 'problem', exc)})", place=place, fix="fix this line") from None
    except (ValueError, RecursionError) as exc:
        # The parser's constructors raise these for invalid values, such as a date that does not exist.
        raise error(f"not YAML ({exc})", place=path, fix="quote this value") from None


def yaml_line(text: str, keys: Sequence[int | str]) -> int:
    """Return the line number (from 1) of the deepest existing node on the path ``keys`` in a YAML text.

    For an entry of a mapping, this is the line of its key; for an entry of a list, the line of the entry itself.

    Args:
        text: valid YAML text.
        keys: mapping keys and list indices from the root to the node.
    """
    node, line = yaml.compose(text, Loader=yaml.SafeLoader), 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            entry = next(((k, child) for k, child in node.value if k.value == str(key)), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            break
    return line


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the YAML mapping in a recipe file.

    Args:
        path: path of the recipe.

    Raises:
        ConfigError: The file is missing, not text, not YAML, or does not contain a mapping.
    """
    value = load_yaml(path, ConfigError, what="a recipe, a YAML file")
    if not isinstance(value, dict):
        what = "empty" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{what}, not a mapping", place=path, fix="write 'section:' with settings below it")
    return value


def apply_sets(value: dict[str, Any], sets: Sequence[str], *, option: str = "--set") -> dict[str, Any]:
    """Return a copy of a recipe with overrides applied.

    Args:
        value: mapping read from the recipe; it is not changed.
        sets: overrides written as ``section.key=value``; the right side is parsed as YAML.
        option: option of the command line, for error messages.

    Raises:
        ConfigError: An override has no ``=``, has an empty key, is not YAML, or goes through a non-mapping value.
    """
    result = dict(value)
    for item in sets:
        path, equals, text = item.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            example = "gate.settings.steps=500" if option == "--set" else "temperature=0"
            raise ConfigError(f"{short(item)} is not section.key=value", place=option, fix=f"write {option} {example}")
        node = result
        for key in keys[:-1]:
            child = node.get(key)
            if child is None:
                child = {}
            if not isinstance(child, dict):
                raise ConfigError(f"'{key}' in '{path}' is not a section", place=option, fix="remove what follows it")
            node[key] = dict(child)
            node = node[key]
        try:
            node[keys[-1]] = parse_yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError) as exc:
            reason = "" if isinstance(exc, yaml.YAMLError) else f" ({exc})"
            raise ConfigError(
                f"{short(text)} is not a YAML value{reason}", place=f"{option} {path}", fix="quote it"
            ) from None
    return result


def parse_config(
    model: type[S],
    value: dict[str, Any],
    *,
    place: object,
    locate: Callable[[Sequence[int | str]], object] | None = None,
) -> S:
    """Validate ``value`` as ``model``.

    Args:
        model: section class that describes the recipe.
        value: mapping read from YAML.
        place: file name, for error messages.
        locate: function that maps the key path of a wrong setting to a more precise place, such as ``file:line``.

    Returns:
        The validated, frozen settings.

    Raises:
        ConfigError: A setting is wrong. The message gives the first one's key, value, place and fix, and counts the
            others.
    """
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        # Report a misspelt setting first: the intended setting is then also reported as missing.
        errors = sorted(exc.errors(include_url=False), key=lambda error: error["type"] != "extra_forbidden")
    first = errors[0]
    place = place if locate is None else locate(first["loc"])
    key, section = _locate(model, first["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    raise _config_error(first, key, section, place=place, more=more)


def _config_error(
    first: Mapping[str, Any], key: str, section: type[BaseModel], *, place: object, more: str
) -> ConfigError:
    """Return a ConfigError that states pydantic's complaint about the setting ``key`` in terms of the recipe."""
    kind, given, about = first["type"], first["input"], first.get("ctx", {})
    if kind == "extra_forbidden":
        fix = _known_settings(str(first["loc"][-1]), key, section)
        return ConfigError(f"unknown setting '{key}'{more}", place=place, fix=fix)
    if kind == "missing":
        return ConfigError(f"setting '{key}' is missing{more}", place=place, fix=f"add '{key}'")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        names = [str(tag) for child in _sections_of(section, key) for tag in _tags(child)]
        key = f"{key}.{str(about['discriminator']).strip(chr(39))}"
        if kind == "union_tag_invalid":
            fix = did_you_mean(str(about["tag"]), names)
            return ConfigError(f"setting '{key}' is {short(about['tag'])}{more}", place=place, fix=fix)
        return ConfigError(f"setting '{key}' is missing{more}", place=place, fix=f"write one of {', '.join(names)}")
    message = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list").replace("Tuple", "List")
    fix = message[0].lower() + message[1:]
    if kind == "value_error" and isinstance(given, Mapping):
        where = f"the settings of '{key}'" if key else "the sections"
        return ConfigError(f"{where} do not fit together{more}", place=place, fix=fix)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        fix = f"write a section of settings: {', '.join(dict.fromkeys(_child_fields(section, key)))}"
    return ConfigError(f"setting '{key}' is {short(given)}{more}", place=place, fix=fix)


def _known_settings(name: str, key: str, section: type[BaseModel]) -> str:
    """Return a hint for an unknown setting: a similar name in the same section, or in a nested one.

    Args:
        name: unknown name, as the user wrote it.
        key: full dotted path to that name.
        section: section that does not have this setting.
    """
    beside = did_you_mean(name, section.model_fields)
    inside: dict[str, list[str]] = {}
    for path in _names_inside(section):
        leaf = path.rpartition(".")[2]
        found = inside.setdefault(leaf, [])
        if not found or found[0].count(".") == path.count("."):
            found.append(path)
    near = difflib.get_close_matches(name, inside, n=1, cutoff=0.8)
    if not near or near[0] in section.model_fields:
        return beside
    sibling = difflib.get_close_matches(name, section.model_fields, n=1, cutoff=0.8)
    if sibling and near[0] != name:
        return beside
    return f"did you mean {' or '.join(repr(key.removesuffix(name) + path) for path in inside[near[0]])}?"


def _names_inside(section: type[BaseModel], *, depth: int = 4) -> list[str]:
    """Return the dotted names of all settings in a section and its nested sections, least nested first."""
    found = list(section.model_fields)
    for name in section.model_fields if depth > 1 else ():
        for child in _sections_of(section, name):
            found += [f"{name}.{path}" for path in _names_inside(child, depth=depth - 1)]
    return sorted(dict.fromkeys(found), key=lambda path: path.count("."))


def dump_yaml(config: Section) -> str:
    """Return the resolved settings as YAML, including every default."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _locate(model: type[BaseModel], path: Sequence[int | str]) -> tuple[str, type[BaseModel]]:
    """Return the key at ``path`` as a recipe writes it, and the section that contains its last part.

    If a section is a union of several kinds, pydantic's path includes the kind, which recipes do not write.
    """
    shown: list[str] = []
    section, rest = model, list(path)
    while rest:
        name = str(rest.pop(0))
        shown.append(name)
        children = _sections_of(section, name)
        if len(children) > 1 and rest:
            tag = rest.pop(0)
            children = [child for child in children if tag in _tags(child)]
        if not children or not rest:
            break
        section = children[0]
    return ".".join([*shown, *map(str, rest)]), section


def _sections_of(section: type[BaseModel], key: str) -> list[type[BaseModel]]:
    """Return the section classes that are allowed as the value of the last part of ``key``."""
    field = section.model_fields.get(key.rpartition(".")[2])
    waiting, found = [] if field is None else [field.annotation], []
    while waiting:
        kind = waiting.pop(0)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(kind)
        waiting.extend(get_args(kind))
    return found


def _tags(section: type[BaseModel]) -> list[object]:
    return [field.default for field in section.model_fields.values() if get_args(field.annotation) == (field.default,)]


def _child_fields(section: type[BaseModel], key: str) -> list[str]:
    return [name for child in _sections_of(section, key) for name in child.model_fields]
