"""A small part of benchmarks/campaign.py; docs/reliability.md has the whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run_campaign(folder, *flags):
    """Run it as a process: its trials are copies of it, and pytest has threads."""
    command = [sys.executable, "-m", "benchmarks.campaign", "--folder", str(folder), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="the trials are forked and measured by Linux")
def test_trials_of_the_campaign_find_no_fault_and_are_not_done_twice(tmp_path):
    kinds = ["signal", "operation", "signal-drawing", "checkpoint", "cache", "table", "contents"]
    flags = ["--trials", "12", "--kinds", *kinds]
    first = run_campaign(tmp_path, *flags)
    log = tmp_path / "trials-0.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["kind"] for line in lines} == set(kinds)
    assert [line["faults"] for line in lines] == [[]] * 12, first.stdout
    assert first.returncode == 0
    before = log.read_bytes()
    assert run_campaign(tmp_path, *flags).returncode == 0
    assert log.read_bytes() == before
