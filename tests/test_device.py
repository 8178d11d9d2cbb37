import importlib.machinery
import importlib.util

import pytest
import torch
from torch import nn

from vae.device import (
    autocast,
    device_of,
    memory_format,
    pick_compile,
    pick_device,
    pick_precision,
    prepare_backend,
)
from vae.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_auto_takes_a_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert pick_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "tpu:0", "", "cuda:99", "cuda:x"])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(UserError, match=f"--device .*{name}"):
        pick_device(name)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_the_first_gpu_is_named_with_its_index(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device(name) == torch.device("cuda:0")


def test_torchrun_gives_each_rank_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert pick_device("cuda") == torch.device("cuda:2")
    assert pick_device("cuda:1") == torch.device("cuda:1")


# How the backend computes


@pytest.fixture
def backend(monkeypatch):
    """Return a function that reads the flags of the backend; they are restored after the test."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    yield lambda: (torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision(before)


def test_the_backend_of_a_cuda_device_is_set_and_no_other(backend, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for device in (CPU, torch.device("mps")):
        prepare_backend(device)
    assert backend() == (False, "highest")
    assert chosen == []
    prepare_backend(torch.device("cuda:1"))
    assert backend() == (True, "high")
    assert chosen == [torch.device("cuda:1")]


def test_picking_a_device_sets_no_flag(backend, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cpu", "cuda", "cuda:1"):
        pick_device(name)
    assert backend() == (False, "highest")
    assert chosen == []


# Precision


def test_a_precision_that_is_asked_for_is_taken():
    assert pick_precision(CPU, "fp32") == "fp32"
    assert pick_precision(CPU, "bf16") == "bf16"
    assert pick_precision(torch.device("mps"), "auto") == "fp32"


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32")],
)
def test_auto_is_bf16_where_the_processor_computes_it(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert pick_precision(CPU, "auto") == precision


def test_bf16_on_a_gpu_without_it_is_refused_and_auto_is_fp32(monkeypatch):
    # emulated bfloat16 counts as none
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    with pytest.raises(UserError, match=r"--precision bf16: .*no bfloat16; pass --precision fp32"):
        pick_precision(CUDA, "bf16")
    assert pick_precision(CUDA, "auto") == "fp32"
    assert pick_precision(CUDA, "fp32") == "fp32"


def test_auto_is_bf16_on_a_gpu_that_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert pick_precision(CUDA, "auto") == "bf16"
    assert pick_precision(CUDA, "bf16") == "bf16"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_convolutions_run_in_the_precision(precision, dtype):
    layer = nn.Conv2d(3, 4, 3).to(memory_format=memory_format(CPU))
    with autocast(CPU, precision):
        assert layer(torch.rand(2, 3, 8, 8)).dtype == dtype


def test_the_device_of_a_module_is_that_of_its_weights():
    assert device_of(nn.Linear(2, 3)) == CPU
    assert device_of(nn.Linear(2, 3, device="meta")) == torch.device("meta")


# Compilation


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that sets what a machine with a GPU has: by default all that is needed."""

    def install(triton=True, compilers=("gcc",), capability=(8, 0)):
        spec = importlib.machinery.ModuleSpec("triton", None) if triton else None
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        monkeypatch.setattr("shutil.which", lambda name: name if name in compilers else None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    monkeypatch.delenv("CC", raising=False)
    return install


def test_auto_compiles_on_one_gpu_alone(gpu, capsys):
    gpu()
    assert pick_compile(CUDA, "auto")
    assert pick_compile(CUDA, "on")
    assert not pick_compile(CUDA, "off")
    assert not pick_compile(CUDA, "auto", ranks=2)
    assert not pick_compile(CPU, "auto")
    assert not pick_compile(torch.device("mps"), "auto")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["auto", "on"])
@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ({"triton": False}, "triton is not installed"),
        ({"compilers": ()}, "no C compiler"),
        ({"capability": (6, 1)}, "triton needs a GPU of compute capability 7.0"),
    ],
)
def test_a_gpu_that_cannot_compile_does_without_and_says_why(gpu, capsys, name, missing, line):
    gpu(**missing)
    assert not pick_compile(CUDA, name)
    assert capsys.readouterr().out == f"not compiling: {line}\n"


def test_the_c_compiler_may_be_named_by_the_environment(gpu, monkeypatch):
    gpu(compilers=("my-cc",))
    assert not pick_compile(CUDA, "auto")
    monkeypatch.setenv("CC", "my-cc")
    assert pick_compile(CUDA, "auto")


def test_a_processor_without_a_compiler_does_without_and_says_so(monkeypatch, capsys):
    assert not pick_compile(CPU, "off")
    monkeypatch.setattr("shutil.which", lambda name: name if name == "g++" else None)
    assert pick_compile(CPU, "on")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not pick_compile(CPU, "on")
    assert capsys.readouterr().out == "not compiling: no C++ compiler\n"
