"""The plugin system: hook markers, hook specifications and the registry."""

import pluggy

hookspec = pluggy.HookspecMarker("elmanctl")
hookimpl = pluggy.HookimplMarker("elmanctl")
