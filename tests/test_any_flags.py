import contextlib
import io
import math
from dataclasses import fields

import pytest

from config import EvaluateConfig, GenerateConfig, JudgeConfig, ManipulateConfig, TrainConfig
from vae.errors import script
from vae.flags import as_flag, read_flags

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=5),
    st.sampled_from(["auto", "cpu", "sharp", "64", "1e39", "9" * 5000, "٣", "a\nb", "\udcff"]),
)


@pytest.mark.parametrize(
    "config_class", [TrainConfig, JudgeConfig, GenerateConfig, ManipulateConfig, EvaluateConfig]
)
@hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
@hypothesis.given(data=st.data())
def test_any_flags_give_settings_within_their_rules_or_one_line(config_class, data):
    known = st.sampled_from([as_flag(entry.name) for entry in fields(config_class)])
    pairs = data.draw(st.lists(st.tuples(known, VALUES), max_size=4))
    argv = [word for pair in pairs for word in pair] + data.draw(st.lists(VALUES, max_size=1))
    read = []

    @script
    def main(argv):
        read.append(read_flags(config_class, argv, None))

    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(err):
        code = main(argv)
    if not read:
        assert code == 2 or "-h" in argv
        assert err.getvalue().count("\n") == 1 or "-h" in argv
        return
    assert (code, err.getvalue()) == (0, "")
    for entry in fields(config_class):
        value, rules = getattr(read[0], entry.name), entry.metadata
        for one in value if isinstance(value, tuple) else () if value is None else (value,):
            assert one in rules.get("choices", [one])
            if {"at_least", "at_most", "above", "below"} & rules.keys():
                assert math.isfinite(one)
                assert rules.get("at_least", one) <= one <= rules.get("at_most", one)
                assert rules.get("above", -math.inf) < one < rules.get("below", math.inf)
