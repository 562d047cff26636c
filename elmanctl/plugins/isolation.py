"""Calling hooks so that one failing plugin does not stop the others."""

from collections.abc import Callable
from typing import Any

import pluggy


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, except that it looks for hooks neither in a plugin's data, nor in its properties, which it would evaluate, nor in what every
    object has."""

    def parse_hookimpl_opts(self, plugin, name):
        kind = type(plugin)
        data = name in getattr(kind, "__dataclass_fields__", ()) or isinstance(getattr(kind, name, None), property)
        if data or name.startswith("__"):
            return None
        return super().parse_hookimpl_opts(plugin, name)


class Hooks:
    """Calls a hook in every plugin, as `registry().hook.elmanctl_suites()`; a plugin that raises becomes a problem and a note on stderr."""

    def __init__(self, manager: pluggy.PluginManager, report: Callable[[str, BaseException], None]):
        self._manager, self._report = manager, report

    def __getattr__(self, name: str) -> Callable[..., list]:
        caller = getattr(self._manager.hook, name)

        def call(**arguments: Any) -> list:
            results = []
            for plugin in [impl.plugin for impl in reversed(caller.get_hookimpls())]:
                others = [p for p in self._manager.get_plugins() if p is not plugin]
                try:
                    results += self._manager.subset_hook_caller(name, others)(**arguments)
                except (Exception, SystemExit) as error:
                    self._report(self._manager.get_name(plugin), name, error)
            return results

        return call
