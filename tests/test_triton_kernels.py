"""The tool's Triton kernels, each by its cases, which are a program of their own: Triton looks once in a process whether it interprets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from elmanctl.norms import fused

ROOT = Path(__file__).resolve().parent.parent
CASES = sorted((ROOT / "tests").glob("*_kernel_cases.py"))


def passes(cases: Path, device: str, **environment: str) -> None:
    ran = subprocess.run([sys.executable, cases, device], env=os.environ | environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_every_module_of_kernels_and_a_model_of_them_have_cases():
    modules = {path.stem.removesuffix("_kernels") for path in (ROOT / "elmanctl").glob("*_kernels.py")}
    assert [path.stem.removesuffix("_kernel_cases") for path in CASES] == sorted({*modules, "model"})


@pytest.mark.skipif(not fused(), reason="triton is not installed")
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_right_statement_by_statement_under_triton_s_interpreter(cases):
    passes(cases, "cpu", TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.gpu
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_right_on_a_gpu(cases):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is visible to torch")
    passes(cases, "cuda")
