"""The fuzz itself: a case of each kind keeps to the rules, a broken rule is seen, and the table of planted defects is in date."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# In a process of its own: pytest's has threads by now, which a fork would lose.
TRY = """
import json, sys
from stages.core import hardware
from stages.train_model.monitor import throughput
from tests.fuzz.__main__ import a_world
from tests.fuzz.planted import DEFECTS, planted
from tests.fuzz.rules import Case, stage, try_case
from tests.fuzz.runner import KINDS, fuzz, steps_of
from tests.fuzz.steps import Step
from tests.fuzz.strays import each_stage
hardware.matmul_peak = throughput.matmul_peak = lambda *_: 1e11  # measured, it takes half a second of each training
if __name__ == "__main__":
    with a_world() as world:
        report = fuzz(world, list(KINDS), 600, 0, stop_at=1000, cases=1, folder=None)
        found = [f"{finding.rule}: {finding.text}: {steps_of(case)}" for case, finding in report.found]
        other = try_case(world, Case("test", 0, 0, [Step("delete", "work/checkpoint")], [stage("train", "--set", "seed=1")]))
        place = world.copy("half")
        codes = [place.run(*stage(each)).rc for each in ("vae", "encode", "train")]  # what is half done goes on
        assert codes == [0, 0, 0], codes
        assert place.digests() == world.reference
        hang = try_case(world, Case("test", 0, 0, [], [stage("train", "--force")], limit=0.01))
        for defect in DEFECTS:
            with planted(defect):
                pass
        strays = each_stage(world)
    print(json.dumps({"counts": report.counts, "found": found, "other": other and other.rule, "hang": hang and hang.rule,
        "strays": strays}))
"""


def test_a_case_of_each_kind_and_rules_that_are_broken(tmp_path: Path) -> None:
    script = tmp_path / "a_few_cases.py"
    script.write_text(TRY)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": "/tmp"}
    done = subprocess.run([sys.executable, script], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["counts"].values()) == {1}
    assert len(told["counts"]) == 14
    assert told["found"] == []
    assert told["other"] == "result"  # a stage that makes something else with exit code 0
    assert told["hang"] == "hang"
    assert told["strays"] == []  # a file of somebody else's in a growing folder of each kind
