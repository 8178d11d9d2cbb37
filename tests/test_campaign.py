"""A small part of benchmarks/campaign.py; docs/reliability.md has the whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="the trials are forked and measured by Linux")
def test_trials_of_the_campaign_find_no_fault_and_none_is_done_twice(tmp_path):
    kinds = ["signal", "operation", "signal-drawing", "checkpoint", "cache", "table", "contents"]
    done = {"kind": "signal", "number": 0, "kills": 1, "bits": 0, "faults": []}
    log = tmp_path / "trials-0.jsonl"
    log.write_text(f"{json.dumps(done)}\n")
    flags = ["--trials", "10", "--kinds", *kinds, "--folder", str(tmp_path)]
    # a process: its trials are copies of it, and pytest has threads
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.campaign", *flags],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["faults"] for line in lines] == [[]] * 10, process.stdout
    assert (process.returncode, process.stderr) == (0, "")
    assert {line["kind"] for line in lines} == set(kinds)
    assert len({(line["kind"], line["number"]) for line in lines}) == 10
