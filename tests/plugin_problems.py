"""`problems`: what the registry could not load, by plugin."""

from elmanctl.plugins.registry import registry


def problems():
    return {p.plugin: p for p in registry().problems()}
