"""Faults of evaluation: what counts as right. They were planted by hand once, and no test saw them."""

from tests.mutants.mutant import Mutant

_JUDGED = "stages/evaluate_model/judged.py"
_TESTS = ("evaluate_model",)

MUTANTS = (
    Mutant("every-drawing-right", "every drawing counts as right", _JUDGED, "right = [judge_objects(verdict) for verdict in verdicts]", "right = [True for verdict in verdicts]", _TESTS),
    Mutant("understood-is-right", "a description is right if it is understood", _JUDGED, "right = [verdict.claims_true for verdict in verdicts]", "right = [verdict.understood for verdict in verdicts]", _TESTS),
    Mutant("free-without-text", "free documents need no text that fits", _JUDGED, 'output.ended == "eos" and bool(len(pictures)) and judge_objects(verdict_of(text, pictures[0]))', 'output.ended == "eos" and bool(len(pictures))', _TESTS),
)  # fmt: skip
