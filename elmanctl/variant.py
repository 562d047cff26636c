"""What a variant is, and the grammar of its name.

* A variant is a folder: `__init__.py` holds one `Variant`, `layer.py` its modules, `binding.py` and `<name>.cu.cc` its kernel.
* The grammar is derived: a head (name or preset), then the tagged fields in order, then `:option=value,...`.
  `X7h4n32` and `X8h8n32:linear_state=true` are canonical: every tag is spelled, every other field only where it differs from its default.
* Importing this module, or a variant's `__init__.py`, does not import torch.
"""

import dataclasses
import importlib
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elmanctl.errors import UserError, did_you_mean
from elmanctl.options import convert, declared, option, parse_options, show, tagged
from elmanctl.plugins import hookimpl
from elmanctl.rules import Rules

__all__ = ["Spec", "Variant", "option", "parse_options", "tagged"]

HEAD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Variant:
    """One recurrence or baseline, as its folder declares it. The instance is itself a pluggy plugin.

    Args:
        package: `__name__` of the folder's package; layer.py, binding.py and reference.py are found below it.
        name: head of every canonical name, for example `X7`.
        summary: one line for `list`.
        config: frozen dataclass of the options.
        rules: which sizes and combinations are allowed, and why.
        aliases: other spellings of a full name, for example {"X7h4": "X7h4n32"}.
        presets: other heads, each pinning some options; tags may follow them as they follow the name.
        requires: importable modules that a baseline needs.
        install: the command that installs what `requires` names.
        sublayers: classes in layer.py that one depth step runs in order, each with its own norm and residual add.
        library: for a variant without a kernel, whose implementation runs (for records).
    """

    package: str
    name: str
    summary: str
    config: type
    rules: Rules = field(default_factory=Rules)
    aliases: dict[str, str] = field(default_factory=dict)
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    install: str = ""
    sublayers: tuple[str, ...] = ("Layer",)
    library: str = ""

    def __post_init__(self):
        """Refuse a declaration that could not work later; the registry shows it as this plugin's problem."""
        fields = declared(self.name, self.config)
        for head, pinned in self.heads().items():
            if not HEAD.fullmatch(head):
                raise ValueError(f"{head!r} is no name: letters, digits, _ and -, a letter first")
            if unknown := set(pinned) - set(fields):
                raise ValueError(f"preset {head} pins {', '.join(sorted(unknown))}, which {self.name} does not have")
        if unknown := {name for name in self.rules.sizes if name not in (*fields, "dim")}:
            raise ValueError(f"rules name {', '.join(sorted(unknown))}, which {self.name} does not have")
        if self.requires and not self.install:
            raise ValueError(f"{self.name} requires {', '.join(self.requires)} but does not say how to install it")

    @hookimpl
    def elmanctl_variants(self) -> list["Variant"]:
        """Offer this variant to the registry."""
        return [self]

    def __hash__(self) -> int:
        return hash((self.package, self.name))

    @property
    def folder(self) -> Path:
        """The variant's folder."""
        return Path(importlib.import_module(self.package).__file__).parent

    @property
    def has_kernel(self) -> bool:
        return (self.folder / "binding.py").exists()

    def module(self, name: str):
        """Import one file of the folder: `layer`, `binding` or `reference`."""
        return importlib.import_module(f"{self.package}.{name}")

    def kernel(self):
        """Return the Kernel that binding.py declares, or None for a baseline."""
        return self.module("binding").kernel if self.has_kernel else None

    def missing(self) -> list[str]:
        """Return the required modules that cannot be imported here (looked up, not imported)."""

        def absent(name: str) -> bool:
            try:
                return importlib.util.find_spec(name) is None
            except ModuleNotFoundError:  # a parent package is absent
                return True

        return [name for name in self.requires if absent(name)]

    def tags(self) -> list[tuple[str, dataclasses.Field]]:
        return [(f.metadata["tag"], f) for f in dataclasses.fields(self.config) if "tag" in f.metadata]

    def heads(self) -> dict[str, dict[str, Any]]:
        """Return every head a name may start with, with the options it pins."""
        return {self.name: {}, **self.presets}

    def match(self, text: str) -> tuple[dict[str, Any], dict[str, str]] | None:
        """Match the part of a name before `:`; return (pinned by the head, given by tags, as text), or None."""
        lower = text.lower()
        heads = {head: pinned for head, pinned in self.heads().items() if lower.startswith(head.lower())}
        tags = "".join(f"(?:{tag}(?P<{f.name}>[0-9]+))?" for tag, f in self.tags()) if heads else ""
        for head, pinned in sorted(heads.items(), key=lambda item: -len(item[0])):
            if found := re.fullmatch(tags, text[len(head) :], re.IGNORECASE):
                return pinned, {name: value for name, value in found.groupdict().items() if value is not None}
        return None

    def configure(self, label: str, *sources: tuple[str, dict[str, Any]]) -> Any:
        """Build a Config from several sources that must agree.

        Args:
            label: the name as given, for messages.
            sources: (where it came from, {field: value}), for example ("the name", {"n_heads": 4}).
        Raises:
            UserError: for an unknown option, a bad value, or two sources that disagree.
        """
        fields = {f.name: f for f in dataclasses.fields(self.config)}
        lower = {name.lower(): name for name in fields}
        values: dict[str, tuple[Any, str]] = {}
        for origin, given in sources:
            for key, raw in given.items():
                key = lower.get(key.lower(), key)
                if key not in fields:
                    raise UserError(
                        f"{label}: {self.name} has no option {key}.{did_you_mean(key, fields)} Options: {', '.join(fields) or 'none'}."
                    )
                value = convert(label, fields[key], raw)
                if key in values and values[key][0] != value:
                    first, where = values[key]
                    way_out = "Give it once."
                    if where.startswith(("the preset", "the alias")):  # a name cannot be had without what it stands for
                        way_out = f"Start from {self.name} and give the options that you want."
                    raise UserError(
                        f"{label}: {key}={show(value)} from {origin} contradicts {key}={show(first)} from {where}. {way_out}"
                    )
                values[key] = (value, origin)
        return self.config(**{key: value for key, (value, _) in values.items()})

    def format(self, config: Any) -> str:
        """Return the canonical name: every tag, then each other option that differs from its default."""
        text = self.name + "".join(f"{tag}{getattr(config, f.name)}" for tag, f in self.tags())
        other = [
            f
            for f in dataclasses.fields(self.config)
            if "tag" not in f.metadata and getattr(config, f.name) != f.default
        ]
        return text + (":" + ",".join(f"{f.name}={show(getattr(config, f.name))}" for f in other) if other else "")


@dataclass(frozen=True)
class Spec:
    """A variant with its options chosen: what a name stands for."""

    variant: Variant
    config: Any

    @property
    def name(self) -> str:
        return self.variant.format(self.config)

    def check(self, dim: int | None = None, relaxed: tuple[str, ...] = ()) -> None:
        """Refuse sizes that break a rule; see Rules.check."""
        self.variant.rules.check(self.name, self.config, dim, relaxed)

    def kind(self, device: str) -> str:
        """Return what runs on a device (`cpu` or `cuda`): `kernel`, `reference` or `library`."""
        if not self.variant.has_kernel:
            return "library"
        return "kernel" if device == "cuda" else "reference"

    def layers(self, dim: int) -> list:
        """Build the modules of one depth step, in order. Raises UserError where a required package is absent."""
        if missing := self.variant.missing():
            raise UserError(
                f"{self.name} needs {', '.join(missing)}, which cannot be imported. Install: {self.variant.install}"
            )
        module = self.variant.module("layer")
        return [getattr(module, name)(dim, self.config) for name in self.variant.sublayers]


def check_relaxed(given: str, relaxed: Iterable[str], specs: list[Spec]) -> None:
    """Refuse to waive a rule on a size on which no model has one; `given` says where it was asked for."""
    ruled = dict.fromkeys(("dim", *(name for spec in specs for name in spec.variant.rules.sizes)))
    for name in relaxed:
        if name not in ruled:
            models = ", ".join(dict.fromkeys(spec.variant.name for spec in specs))
            raise UserError(
                f"{given} {name}: there is no rule on that size in {models}.{did_you_mean(name, ruled)} Rules are on: {', '.join(ruled)}."
            )
