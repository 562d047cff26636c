"""The registry: every variant and plugin that can be loaded here, what is wrong with the others, and names resolved to specs.

* One broken plugin is one problem with its error text; everything else goes on.
* Names are unique without regard to case. Of two plugins that claim one name the first stays, and the problem names both.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

from elmanctl.console import note
from elmanctl.errors import UserError, did_you_mean
from elmanctl.plugins import discovery, hookspecs
from elmanctl.plugins.discovery import Found, Source
from elmanctl.plugins.isolation import Hooks, PluginManager
from elmanctl.variant import Spec, Variant, parse_options


@dataclass(frozen=True)
class Problem:
    """A plugin that cannot be used: its short name, where it is, and its error in one line."""

    plugin: str
    where: str
    text: str


class Registry:
    """What is found from the current directory and environment. Build it through `registry()`."""

    def __init__(self):
        self._manager = PluginManager("elmanctl")
        self._manager.add_hookspecs(hookspecs)
        self._problems: list[Problem] = []
        self._variants: dict[str, Variant] = {}
        self._sources: dict[str, Source] = {}
        self._where: dict[str, Source] = {}  # by plugin name
        self._load()
        self.hook = Hooks(self._manager, self._hook_failed)

    def variants(self) -> dict[str, Variant]:
        """Return every usable variant by name, in natural order (X2, X10)."""
        return dict(self._variants)

    def sources(self) -> dict[str, Source]:
        """Return where each variant came from, by variant name."""
        return dict(self._sources)

    def problems(self) -> list[Problem]:
        """Return what could not be loaded and why."""
        return list(self._problems)

    def resolve(self, text: str, options: dict[str, Any] | None = None) -> Spec:
        """Turn a name, without regard to case, into a variant and its options. Rules are not applied: see Spec.check.

        Args:
            text: a name such as `X7h4n32`, an alias, or a preset; `:key=value,...` may follow.
            options: further options; where the name gives the same one, the values must agree.
        Raises:
            UserError: for an unknown name, with near misses, or for options that are unknown, malformed or in conflict.
        """
        text = text.strip()
        base, colon, rest = text.partition(":")
        inline = parse_options(rest.split(",") if colon else (), text)
        sources = [("the name", inline), ("the options", options or {})]
        for variant in self._variants.values():
            spelled = {alias.lower(): target for alias, target in variant.aliases.items()}
            if target := spelled.get(base.lower()):
                head, _, tail = target.partition(":")
                found = variant.match(head)
                if found is None:
                    raise UserError(f"{text}: its alias target {target} is no name of {variant.name}.")
                pinned, tags = found
                alias = {**parse_options(tail.split(",") if tail else (), target), **tags}
                origin = f"the alias {base} = {target}"
                return Spec(variant, variant.configure(text, (origin, pinned), (origin, alias), *sources))
        for variant in self._variants.values():
            if found := variant.match(base):
                pinned, tags = found
                parts = (("the preset", pinned), ("the name", tags), *sources)
                return Spec(variant, variant.configure(text, *parts))
        raise UserError(self._unknown(base))

    def names(self) -> list[str]:
        """Return every name worth proposing: variants, presets, aliases and canonical defaults."""
        known: dict[str, None] = {}
        for variant in self._variants.values():
            known |= dict.fromkeys([*variant.heads(), *variant.aliases, variant.format(variant.config())])
        return list(known)

    def _unknown(self, base: str) -> str:
        broken = [p for p in self._problems if p.plugin.lower() == base.lower()]
        if broken:
            return f"{base} could not be loaded: {broken[0].text} Correct {broken[0].where} and run elmanctl list."
        text = f"Unknown variant {base or repr(base)}.{did_you_mean(base, self.names())}"
        heads = [
            (head, v) for v in self._variants.values() for head in v.heads() if base.lower().startswith(head.lower())
        ]
        if heads:
            head, variant = max(heads, key=lambda item: len(item[0]))
            tags = " ".join(f"{tag}<{f.name}>" for tag, f in variant.tags())
            text += (
                f" After {head} may come {tags}, in this order."
                if tags
                else f" {head} takes nothing after it but :option=value."
            )
        return f"{text} Run elmanctl list to see all {len(self._variants)}."

    def _load(self) -> None:
        for found in discovery.plan():
            self._add(found)
        self._variants = dict(sorted(self._variants.items(), key=lambda item: natural(item[0])))

    def _add(self, found: Found) -> None:
        """Load and register one plugin and take its variants; whatever goes wrong becomes its problem."""
        name, source, plugin = found.name, found.source, None
        self._where[name] = source
        try:
            plugin = found.load()
            self._manager.register(plugin, name=name)
            self._manager.check_pending()
            if not self._manager.get_hookcallers(plugin):
                raise TypeError(f"{type(plugin).__name__} implements no hook")
            impl = [i for i in self._manager.hook.elmanctl_variants.get_hookimpls() if i.plugin is plugin]
            variants = impl[0].function() if impl else []
            if not isinstance(variants, list) or not all(isinstance(v, Variant) for v in variants):
                raise TypeError("elmanctl_variants did not return a list of Variant")
        except (Exception, SystemExit) as error:  # every failure is reported, as this plugin's problem
            if plugin is not None and self._manager.get_plugin(name) is plugin:
                self._manager.unregister(plugin)
            folder = Path(source.where)
            text = discovery.describe(error, folder if folder.is_dir() else None)
            if isinstance(error, pluggy.PluginValidationError):
                known = [hook for hook in dir(hookspecs) if hook.startswith("elmanctl_")]
                text = f"{error}. Hooks: {', '.join(known)}."
            self._problems.append(Problem(name, source.where, text))
            return
        for variant in variants:
            if clash := self._clash(variant):
                self._problems.append(Problem(name, source.where, clash))
            else:
                self._variants[variant.name] = variant
                self._sources[variant.name] = source

    def _clash(self, new: Variant) -> str | None:
        """Return why a variant's names collide with one that is already there, or None."""
        for old in self._variants.values():
            for a, b in ((new, old), (old, new)):
                taken = {n.lower() for n in (*b.heads(), *b.aliases)}
                both = [n for n in (*a.heads(), *a.aliases) if n.lower() in taken or b.match(n)]
                if both:
                    there = self._sources[old.name].where
                    return f"{new.name} collides with {old.name} of {there}: both claim {both[0]}. Rename one; {old.name} stays."
        return None

    def _hook_failed(self, plugin: str, hook: str, error: BaseException) -> None:
        problem = Problem(plugin, self._where[plugin].where, f"{hook}: {discovery.describe(error)}")
        self._problems.append(problem)
        note(f"Plugin {plugin} failed. {problem.text}")


@functools.cache
def registry() -> Registry:
    """Return the registry of this process, built on the first call; `registry.cache_clear()` forgets it."""
    return Registry()


def natural(name: str) -> list:
    """Return a sort key that orders X2, X10."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.split(r"([0-9]+)", name) if part
    ]
