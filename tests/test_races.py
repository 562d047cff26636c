"""Every shipped kernel, compiled with the race check: a barrier between any two accesses to one place, in two orders."""

import ctypes
import shutil
from pathlib import Path

import pytest
import torch

from elmanctl import build, launch, ops, toolchain
from elmanctl.plugins.discovery import load_folder
from elmanctl.variant import Spec
from elmanctl.verify.cases import other_sizes

KERNELS = sorted(p.parent for p in (Path(__file__).parent.parent / "variants").glob("*/*.cu.cc"))


def race_library(path: Path, kernel, constants, remove: str = "") -> ctypes.CDLL:
    """Compile a kernel, optionally without one piece of its sources' text, for the race check."""
    compiler, csrc = toolchain.compiler(toolchain.HOST)[0], path / "csrc"
    shutil.copytree(toolchain.csrc_folder(), csrc)
    folder = toolchain.folder_of(kernel)
    if remove:
        family = next((csrc / "elman/families").glob(f"{remove.split('|')[0]}.cuh"))
        text = family.read_text()
        assert remove.split("|")[1] in text
        family.write_text(text.replace(remove.split("|")[1], ""))
    (path / "elman_args.h").write_text(kernel.header())
    defines = ["-DELMAN_DTYPE=elman::float32", *(f"-DELMAN_{name}={value}" for name, value in constants.items())]
    include = [f"-I{path}", f"-I{folder}", f"-I{csrc}"]
    call = [compiler, *toolchain.HOST_FLAGS, "-fsanitize=thread", "-x", "c++", *defines, *include]
    toolchain.execute([*call, "-c", str(toolchain.kernel_source(folder)), "-o", str(path / "kernel.o")])
    checker = str(csrc / "elman/host/race.cc")
    toolchain.execute([compiler, *toolchain.HOST_FLAGS, f"-I{csrc}", "-c", checker, "-o", str(path / "race.o")])
    objects = [str(path / "kernel.o"), str(path / "race.o"), *build.runtime_objects(toolchain.HOST)]
    script = f"-Wl,--version-script={build.version_script(path)}"
    toolchain.execute([compiler, "-shared", *objects, script, "-o", str(path / "kernel.so")])
    return build.Library(path / "kernel.so")


def run_watched(monkeypatch, library, spec, kernel, constants, order) -> None:
    """Run forward and backward with every tensor watched."""
    reference = spec.variant.module("reference")
    sizes = other_sizes(spec, kernel) | {"B": 2, "T": 3} | constants
    generator = torch.Generator().manual_seed(0)
    shapes = {s.name: s.shape(sizes) for s in kernel.input_specs if s.present(constants)}
    drawn = reference.draw("typical", shapes, constants, lambda *s: torch.randn(*s, generator=generator).double())
    inputs = {name: drawn[name].float().requires_grad_() for name in shapes}
    pack = launch._pack

    def watch(arguments, tensors, *more):
        library.handle.elman_race_unwatch()
        for t in tensors.values():
            library.handle.elman_race_watch(
                ctypes.c_void_p(t.data_ptr()), ctypes.c_size_t(t.numel() * t.element_size())
            )
        return pack(arguments, tensors, *more)

    monkeypatch.setattr(launch, "_pack", watch)
    monkeypatch.setattr(launch, "load", lambda *request: library)
    library.handle.elman_host_order(ctypes.c_int(order), ctypes.c_uint64(1))
    try:
        with ops.using("host"):
            outputs = ops.recurrence(kernel, inputs, constants)
        sum(o.square().sum() for o in outputs.values()).backward()
    finally:
        library.handle.elman_race_unwatch()


@pytest.mark.parametrize("folder", KERNELS, ids=lambda p: p.name)
def test_no_race(folder, tmp_path, monkeypatch):
    variant = load_folder(folder).variant
    kernel, spec = variant.kernel(), Spec(variant, variant.config())
    constants = variant.module("binding").constants(spec.config)
    library = race_library(tmp_path, kernel, constants)
    for order in (0, 2):
        run_watched(monkeypatch, library, spec, kernel, constants, order)


def test_a_barrier_left_out_of_a_family_is_found(tmp_path, monkeypatch):
    variant = load_folder(KERNELS[0].parent / "e1").variant
    kernel, spec = variant.kernel(), Spec(variant, variant.config())
    library = race_library(tmp_path, kernel, {}, remove="dense_recurrence|  sync_block();\n")
    with pytest.raises(
        RuntimeError, match=r"race: .* of shared memory byte .* \(dense_recurrence\.cuh:\d+, then dense_rec"
    ):
        run_watched(monkeypatch, library, spec, kernel, {}, 0)
