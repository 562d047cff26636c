"""verify on a GPU: a captured graph is held against eager runs, and a layer that a graph breaks is found."""

import shutil
from pathlib import Path

import pytest
import torch

from elmanctl.plugins.registry import registry
from elmanctl.verify.plan import Plan, Request

pytestmark = pytest.mark.gpu
TOY = Path(__file__).parents[1] / "verify" / "integrator"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Return the integrator's plan on CUDA."""
    folder = tmp_path / "variants" / f"integrator_{tmp_path.name.replace('-', '_')[-24:]}"
    shutil.copytree(TOY, folder)
    (folder / "integrator.cu.cc").rename(folder / f"{folder.name}.cu.cc")
    monkeypatch.setenv("ELMANCTL_VARIANTS", str(tmp_path / "variants"))
    monkeypatch.setenv("ELMANCTL_HOME", str(tmp_path / "home"))
    registry.cache_clear()
    yield Plan(Request(registry().resolve("Integrator"), "cuda"))
    registry.cache_clear()


@pytest.mark.parametrize("what", ["graph", "compile", "moves", "modes", "tokens"])
def test_a_right_layer_passes_on_the_device(plan, what):
    check = plan.run(plan.named(f"layer {what}"))
    assert check.ok, check.message


@pytest.mark.parametrize("what", ["opcheck", "split", "tokens", "repeat"])
def test_a_right_kernel_passes_on_the_device(plan, what):
    check = plan.run(plan.named(f"float32 {what}"))
    assert check.ok, check.message


def test_a_layer_that_keeps_what_capture_saw_is_found(plan, monkeypatch):
    """Its first call's input is used for ever: every replay is right only for the numbers of the capture."""
    module, kept = plan.spec.variant.module("layer"), []
    original = module.Layer.forward

    def stale(self, x, state=None):
        kept.append(x.detach().clone()) if torch.cuda.is_current_stream_capturing() and not kept else None
        y, last = original(self, x, state)
        return (y + 1e-3 * kept[0].mean() if kept and not torch.cuda.is_current_stream_capturing() else y), last

    monkeypatch.setattr(module.Layer, "forward", stale)
    check = plan.run(plan.named("layer graph"))
    assert not check.ok and "differs from eager in y" in check.message


def test_a_layer_that_synchronises_is_found(plan, monkeypatch):
    module = plan.spec.variant.module("layer")
    original = module.Layer.forward

    def asks(self, x, state=None):
        return original(self, x * (1.0 if x.abs().sum().item() >= 0 else 0.0), state)

    monkeypatch.setattr(module.Layer, "forward", asks)
    assert not plan.run(plan.named("layer graph")).ok
