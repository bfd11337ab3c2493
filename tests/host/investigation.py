"""What the scripted model does: an investigation of feature 12 of the demo's store, with numbers that hold there.

The overview shows seven tokens and a family, control_flow. Two explanations predict different things where ` break`
and ` continue` are left out: if the feature follows control flow, the other keywords still fire it; if it follows
those two words, the family's effect is gone. It is gone (0.28 % of positions against 0.28 % without the family).
"""

from typing import Any

from tests.host.fake_model import Call, Reading, Script

FEATURE = 12
RESOURCE_TOOL = "ReadMcpResourceTool"
"""Claude Code's own."""
TOKENS = ("obj", " obj", " continue", " break", " u", " ex", " TypeError")
RULE = " or ".join(f'token:"{token}"' for token in TOKENS)
TEXT = (
    "Fires on a handful of unrelated tokens: obj, ' obj', ' continue', ' break', ' u', ' ex' and ' TypeError'. "
    "What it does on other tokens is left open."
)
WITHOUT_TWO = 'not token:" break" and not token:" continue"'
FOLLOWS = "It goes with control flow: the family fires it eight times as often as the rest."
TWO = "It goes with the tokens ' break' and ' continue', which are in that family, not with the family."
PREDICTION = "Without those two tokens the family's firing rate falls to that of the rest, 0.28 %."
SEEN = "Without those two tokens the family fires it no more than anything else."
SWEEP: dict[str, Any] = {"feature": FEATURE, "family": "control_flow"}
TEST: dict[str, Any] = {"feature": FEATURE, "rule": RULE}


def label(status: str, evidence: list[str]) -> Call:
    return Call(
        "label_save",
        {
            "feature": FEATURE,
            "text": TEXT,
            "rule": RULE,
            "category": "mechanical",
            "status": status,
            "confidence": 0.6,
            "evidence": evidence,
        },
    )


def note(kind: str, text: str, **more: Any) -> Call:
    return Call("note_save", {"feature": FEATURE, "kind": kind, "text": text, **more})


def judged(note_id: str, status: str) -> Call:
    return Call("note_save", {"feature": FEATURE, "note_id": note_id, "status": status})


def investigation(server: str) -> Script:
    """Eleven turns, some of several calls, reads and writes; one call is misspelt, one comes too early.

    Args:
        server: the host's name for our server, which its own tool for resources asks for.
    """
    yield [
        Call("store_status", {}),
        Call("feature_overview", {"feature": FEATURE}),
        Call("token_influence", {"feature": FEATURE, "limit": 10}),
    ]
    yield [Call("family_sweep", {"feature": FEATURE, "famly": "control_flow"})]
    supposed = yield [
        note("hypothesis", FOLLOWS, status="testing"),
        note("hypothesis", TWO, status="testing"),
    ]
    follows, two = (reading.body["entries"][0]["note_id"] for reading in supposed)
    yield [note("prediction", PREDICTION, supports=[two])]
    sweeps = yield [
        Call("family_sweep", SWEEP),
        Call("family_sweep", {**SWEEP, "where": WITHOUT_TWO}),
        Call("feature_examples", {"feature": FEATURE, "pick": "spread", "limit": 12}),
        Call("feature_examples", {"feature": FEATURE, "pick": "silent", "where": RULE, "limit": 5}),
    ]
    seen = evidence(sweeps[:2])
    yield [
        note(
            "observation",
            SEEN,
            evidence=seen,
            supports=[two],
            refutes=[follows],
        ),
        judged(follows, "refuted"),
        judged(two, "supported"),
    ]
    on_explain = yield [Call("test_rule", {**TEST, "split": "explain"})]
    cited = seen + evidence(on_explain)
    yield [label("supported", cited)]
    held_out = yield [Call("test_rule", TEST)]
    saved = yield [label("supported", cited + evidence(held_out))]
    yield [
        Call("label_get", {"feature": FEATURE}),
        Call("note_get", {"feature": FEATURE}),
        Call("evidence_replay", {"evidence": cited[1]}),
        Call(RESOURCE_TOOL, {"server": server, "uri": f"saeinterp://evidence/{cited[1]}"}),
    ]
    return f"Feature {FEATURE}: label {saved[0].body['label_id']} is supported."


def evidence(readings: list[Reading]) -> list[str]:
    return [reading.body["evidence"] for reading in readings]
