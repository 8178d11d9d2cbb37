import pytest
import torch

from vae.device import autocast, memory_format, pick_compile, pick_device, pick_precision
from vae.errors import UserError


def test_auto_takes_a_gpu_where_one_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert pick_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "tpu:0", "", "cuda:99", "cuda:x"])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(UserError, match=f"--device .*{name}"):
        pick_device(name)


def test_a_precision_that_was_asked_for_is_taken():
    cpu = torch.device("cpu")
    assert pick_precision(cpu, "fp32") == "fp32"
    assert pick_precision(cpu, "bf16") == "bf16"
    assert pick_precision(torch.device("mps"), "auto") == "fp32"


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32")],
)
def test_auto_computes_in_bf16_where_the_processor_does(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert pick_precision(torch.device("cpu"), "auto") == precision


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_convolutions_run_in_the_precision(precision, dtype):
    cpu = torch.device("cpu")
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=memory_format(cpu))
    with autocast(cpu, precision):
        assert layer(torch.rand(2, 3, 8, 8)).dtype == dtype


def test_compiling_without_a_compiler_falls_back_with_one_line(monkeypatch, capsys):
    cpu = torch.device("cpu")
    assert not pick_compile(cpu, "auto")
    assert not pick_compile(cpu, "off")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not pick_compile(cpu, "on")
    assert capsys.readouterr().out == "not compiling: a C++ compiler is missing\n"
