"""Rules on sizes and options: which values a kernel or the method allows, and why.

* A *hard* rule states what the kernel cannot do otherwise. A *method* rule (`method=True`) states what a fair comparison
  asks for; a suite may relax it by name, and the report then says so.
* The same rules serve dims, build, train and suites. The Python reference is not bound by them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from elmanctl.errors import UserError


@dataclass(frozen=True)
class Multiple:
    """A positive multiple of `step`."""

    step: int
    why: str
    method: bool = False

    def accepts(self, value: int) -> bool:
        return value > 0 and value % self.step == 0

    def text(self) -> str:
        return f"a multiple of {self.step}"

    def nearest(self, value: int) -> list[int]:
        below = value // self.step * self.step
        return [v for v in (below, below + self.step) if v > 0]


@dataclass(frozen=True)
class OneOf:
    """One of the listed values."""

    values: tuple
    why: str
    method: bool = False

    def accepts(self, value: Any) -> bool:
        return value in self.values

    def text(self) -> str:
        return "one of " + ", ".join(map(str, self.values))

    def nearest(self, value: Any) -> list:
        if not isinstance(value, (int, float)):
            return list(self.values)
        below = [v for v in self.values if v < value]
        above = [v for v in self.values if v > value]
        return ([max(below)] if below else []) + ([min(above)] if above else [])


@dataclass(frozen=True)
class Range:
    """At least `low` and at most `high` (None: unbounded)."""

    low: float | None
    high: float | None
    why: str
    method: bool = False

    def accepts(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def text(self) -> str:
        if self.high is None:
            return f"at least {self.low}"
        return f"at most {self.high}" if self.low is None else f"between {self.low} and {self.high}"

    def nearest(self, value: float) -> list:
        return [self.low if self.low is not None and value < self.low else self.high]


Rule = Multiple | OneOf | Range


@dataclass(frozen=True)
class Rules:
    """The rules of one variant.

    Args:
        sizes: rules by name of a Config field, or by `dim` for the model width; the first one broken is reported.
        combinations: `(why, broken)` pairs; `broken(config, dim)` returns a text that names the clash, or None. `dim` is None
            where only the options are known.
    """

    sizes: dict[str, Rule | tuple[Rule, ...]] = field(default_factory=dict)
    combinations: tuple[tuple[str, Callable[[Any, int | None], str | None]], ...] = ()

    def of(self, name: str) -> tuple[Rule, ...]:
        """Return the rules on one size, hard and method."""
        rules = self.sizes.get(name, ())
        return rules if isinstance(rules, tuple) else (rules,)

    def check(self, label: str, config: Any, dim: int | None = None, relaxed: Iterable[str] = ()) -> None:
        """Refuse a configuration that breaks a rule.

        Args:
            label: the name as the user wrote it, for the message.
            config: the variant's Config.
            dim: model width, or None where it is not chosen yet.
            relaxed: names of sizes whose method rules are waived.
        Raises:
            UserError: naming the value, the rule, its reason and the nearest legal values.
        """
        values = {name: getattr(config, name) for name in self.sizes if name != "dim"}
        if dim is not None:
            values["dim"] = dim
        for name, value in values.items():
            for rule in self.of(name):
                if rule.method and name in relaxed:
                    continue
                if not rule.accepts(value):
                    raise UserError(broken(label, name, value, rule))
        for why, clash in self.combinations:
            if text := clash(config, dim):
                raise UserError(f"{label}: {text} ({why}).")


def broken(label: str, name: str, value: Any, rule: Rule) -> str:
    """Return the message for one broken rule."""
    near = ", ".join(map(str, rule.nearest(value)))
    kind = "the method asks for" if rule.method else "the kernel needs"
    return f"{label}: {name}={value} is not {rule.text()} ({rule.why}; {kind} it). Nearest: {near}."


def inner_width(dim: int, expansion: float) -> int:
    """Return a cell's width: the model's width times the expansion, rounded down."""
    return int(dim * expansion)


def inner_multiple(step: int) -> Callable[[Any, int | None], str | None]:
    """Return the `broken` half of a combination: the cell's width, from a Config's `expansion`, must be a multiple of `step`."""

    def clash(config: Any, dim: int | None) -> str | None:
        if dim is None or (width := inner_width(dim, config.expansion)) % step == 0 < width:
            return None
        near = ", ".join(map(str, Multiple(step, "").nearest(width)))
        return f"dim={dim} with expansion={config.expansion} gives a cell of width {width}, not a multiple of {step}. Nearest: {near}"

    return clash
