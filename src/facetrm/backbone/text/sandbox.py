"""The Jinja environment of Transformers' chat templates, extended to count every step and every string.

Tags, filters and functions are those of ``apply_chat_template``. Counting uses internal filters whose names contain
spaces, so that no template can use them. A pass over the parsed template inserts them at loops, slices and lists.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from datetime import datetime
from string import Formatter
from typing import Any, Final, cast, final

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, generate_lorem_ipsum, pass_context
from jinja2.visitor import NodeTransformer

from facetrm.backbone.text.budget import (
    Budget,
    LimitError,
    check_field,
    check_method,
    check_operator,
    check_percent,
    check_widths,
    measure,
)

BUDGET: Final[ContextVar[Budget]] = ContextVar("budget of the rendering")
_STEP, _MADE, _TIME = "step of a loop", "text that was made", "time that passes"  # templates cannot use these names
_EVERY: Final = 16  # number of comparisons per check of the time
# Filters that do not convert the items of their input to text.
_BY_ITEM: Final = frozenset(
    {
        "attr",
        "batch",
        "count",
        "d",
        "default",
        "dictsort",
        "first",
        "groupby",
        "items",
        "last",
        "length",
        "list",
        "map",
        "max",
        "min",
        "random",
        "reject",
        "rejectattr",
        "reverse",
        "select",
        "selectattr",
        "slice",
        "sort",
        "sum",
        "unique",
    }
)
_SLOW: Final = frozenset({"urlize", "striptags", "wordwrap", "xmlattr", "pprint"})
_SLOW_CHARACTERS: Final = 100_000
_ENDING: Final = "\nconcat, str_join, markup_join = environment.concat, environment.str_join, environment.markup_join\n"


@final
class CountedEnvironment(ImmutableSandboxedEnvironment):
    """Transformers' sandboxed environment with cost counting."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension], finalize=_written
        )
        self.filters = {name: _counted(name, cast(Any, filter_)) for name, filter_ in FILTERS.items()}
        self.filters["tojson"] = _counted("tojson", _tojson)
        self.filters |= {_STEP: _step, _MADE: _made, _TIME: _time}
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _Dict(),
            "namespace": _Namespace,
            "lipsum": _lipsum,
        }

    concat = staticmethod(lambda parts: _joined(parts))

    @staticmethod
    def str_join(parts: Iterable[Any]) -> str:
        """Return the concatenation ``a ~ b`` of the parts."""
        parts = list(parts)
        BUDGET.get().make(sum(BUDGET.get().read(part) for part in parts))
        return str_join(parts)

    @staticmethod
    def markup_join(parts: Iterable[Any]) -> str:
        """Return the concatenation of the parts, escaped if a part is marked as safe markup."""
        parts = list(parts)
        BUDGET.get().make(5 * sum(BUDGET.get().read(part) for part in parts))
        return markup_join(parts)

    def _generate(self, source: nodes.Template, *given: Any, **named: Any) -> str:
        watched = _Watched().visit(source)
        watched.set_environment(self)
        return super()._generate(watched, *given, **named) + _ENDING

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Return ``left operator right`` if it is within the budget.

        Args:
            context: context of the rendering.
            operator: operator as written in the template.
            left: first operand.
            right: second operand.

        Raises:
            LimitError: The operation exceeds the budget.
        """
        check_operator(operator, left, right, BUDGET.get())
        result = super().call_binop(context, operator, left, right)
        if not isinstance(result, str):
            BUDGET.get().made(result)
        return result

    def call(__self, __context: Context, __obj: Any, *given: Any, **named: Any) -> Any:  # noqa: N805
        """Call a function or method for a template if it is within the budget.

        Args:
            __context: context of the rendering.
            __obj: object to call.
            given: positional arguments.
            named: keyword arguments.

        Raises:
            LimitError: The call exceeds the budget.
        """
        budget = BUDGET.get()
        budget.step()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | bytes):
            name = __obj.__name__
            if name == "join" and given and not isinstance(given[0], list | tuple | dict | str | bytes):
                given = (list(given[0]), *given[1:])
            said = {key: value for key, value in named.items() if not key.startswith("_")}
            check_method(name, owner, given, said, budget)
        elif isinstance(owner, int):
            check_widths(given)
        result = super().call(__context, __obj, *given, **named)
        budget.made(result)
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return ``str.format`` with checked widths, or None if ``value`` is not a format method."""
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or getattr(value, "__name__", "") not in ("format", "format_map"):
            return None
        mapped = value.__name__ == "format_map"

        def formatted(*given: Any, **named: Any) -> str:
            if mapped:
                (named,), given = given, ()
            return type(owner)(_Format(self).vformat(owner, given, named))

        return formatted


class _Format(SandboxedFormatter, Formatter):
    """``str.format`` that counts its fields."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """Return one formatted field."""
        check_field(format_spec)
        BUDGET.get().read(value)
        return cast(str, super().format_field(value, format_spec))


class _Watched(NodeTransformer):
    """Inserts counting into a template: at every loop iteration, slice and list, and a time check at comparisons."""

    def __init__(self) -> None:
        self._compared = 0

    def visit(self, node: nodes.Node, *given: Any, **named: Any) -> Any:
        """Return ``node`` with counting inserted into it and its children."""
        node = self.generic_visit(node, *given, **named)
        if isinstance(node, nodes.For):
            node.body.insert(0, nodes.ExprStmt(_filtered(nodes.Const(None), _STEP, node), lineno=node.lineno))
            if node.test is not None:  # skipped iterations count too
                node.test = nodes.And(_filtered(nodes.Const(True), _STEP, node), node.test, lineno=node.lineno)
        elif isinstance(node, nodes.Compare):
            if len(node.ops) > _EVERY:
                raise LimitError(f"it compares {len(node.ops)} values in one chain")
            return self._timed(node)
        elif isinstance(node, nodes.Test):
            return self._timed(node)
        elif _is_made(node):
            return _filtered(cast(nodes.Expr, node), _MADE, node)
        return node

    def _timed(self, node: nodes.Expr) -> nodes.Expr:
        self._compared += 1
        return node if self._compared % _EVERY else _filtered(node, _TIME, node)


def _is_made(node: nodes.Node) -> bool:
    """Return whether ``node`` creates a slice or a non-constant list, dict or tuple (not an assignment target)."""
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Slice)
    if not isinstance(node, nodes.List | nodes.Dict | nodes.Tuple):
        return False
    loaded = not isinstance(node, nodes.Tuple) or node.ctx == "load"
    return loaded and not all(isinstance(item, nodes.Const) for item in node.items)


def _filtered(node: nodes.Expr, name: str, where: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=where.lineno)


class _Generation(Extension):
    """The ``generation`` tag, which marks text written by the model; its body is rendered unchanged."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.CallBlock:
        """Return the parsed block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body", lineno=line), [], [], body, lineno=line)

    @staticmethod
    def _body(caller: Callable[[], str]) -> str:
        return caller()


@pass_context
def _step(_: Context, value: Any) -> Any:
    BUDGET.get().step()
    return value


@pass_context
def _made(_: Context, value: Any) -> Any:
    BUDGET.get().made(value)
    return value


@pass_context
def _time(_: Context, value: Any) -> Any:
    BUDGET.get().check_time()
    return value


def _written(value: Any) -> Any:
    """Count the output of an expression, and return it."""
    if not isinstance(value, str):
        BUDGET.get().read(value)
    return value


def _joined(parts: Iterable[str]) -> str:
    parts = list(parts)
    BUDGET.get().make(sum(map(len, parts)))
    return "".join(parts)


def _counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter ``name`` with checks of its arguments before it runs and of its result after."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def counted(*given: Any, **named: Any) -> Any:
        budget = BUDGET.get()
        if name == "join" and len(given) > first and not isinstance(given[first], str | list | tuple | dict):
            given = (*given[:first], list(given[first]), *given[first + 1 :])
        values = [*given[first:], *named.values()]
        if name not in _BY_ITEM:
            _check_filter(name, values, budget)
        else:
            check_widths(values[1:])
            if name == "sum" and values and isinstance(values[0], list | tuple):  # each addition copies the list
                budget.make(len(values[0]) * measure(values[0])[0] if isinstance(values[-1], list | tuple) else 0)
        budget.check_time()
        result = function(*given, **named)
        budget.made(result)
        return result

    return counted


def _check_filter(name: str, values: Sequence[Any], budget: Budget) -> None:
    """Check the cost of a filter that converts its arguments to text."""
    check_widths(values[1:])
    sizes = [budget.read(value) for value in values]
    own, others = sum(sizes[:1]), sum(sizes[1:])
    numbers = max((abs(value) for value in values[1:] if isinstance(value, int)), default=0)
    if name in _SLOW and own + others > _SLOW_CHARACTERS:
        raise LimitError(f"it asks for the filter '{name}' of {own + others} characters")
    if name == "replace" and len(values) > 2:
        check_method("replace", str(values[0]), [str(values[1]), str(values[2])], {}, budget)
    elif name == "format":
        check_percent(str(values[0]), tuple(values[1:]), budget)
    elif name == "join":
        parts = values[0] if isinstance(values[0], list | tuple | dict | str) else ()
        budget.make(own + len(parts) * others)
    elif name == "indent":
        budget.make(own + (str(values[0]).count("\n") + 1) * (others + numbers))
    elif name in ("wordwrap", "urlize", "xmlattr", "tojson", "pprint"):
        budget.make(own * max(1, sum(s for s, v in zip(sizes[1:], values[1:], strict=True) if isinstance(v, str))))
        if name != "wordwrap":
            budget.make(own * max(1, numbers))
    else:
        budget.make(own + numbers)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    BUDGET.get().read(message)
    raise TemplateError(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > 1_000:
        raise LimitError("it asks for a date in a form of more than 1000 characters")
    return datetime.now().strftime(form)


def _lipsum(n: int = 5, html: bool = True, min: int = 20, max: int = 100) -> str:
    if n * max > 10_000:
        raise LimitError("it asks for more than 10000 words of filling text")
    return generate_lorem_ipsum(n, html, min, max)


class _Dict:
    """The ``dict`` constructor and ``fromkeys``, without the other attributes of the class."""

    def __call__(self, *given: Any, **named: Any) -> dict[Any, Any]:
        return dict(*given, **named)

    def fromkeys(self, *given: Any) -> dict[Any, Any]:
        """Return ``dict.fromkeys(*given)``."""
        return dict.fromkeys(*given)


class _Namespace(Namespace):
    """A namespace that rejects names that begin with an underscore."""

    def __init__(*given: Any, **named: Any) -> None:
        self, given = given[0], given[1:]
        attributes = dict(*given, **named)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise TemplateError(f"a namespace name cannot begin with an underscore, such as {name[:40]!r}")
