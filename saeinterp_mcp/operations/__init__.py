"""OPERATIONS: the one list from which all faces are made."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saeinterp_mcp.labels.records import RecordedAnswer
from saeinterp_mcp.operations.base import Result
from saeinterp_mcp.operations.compare_explainers import compare_explainers
from saeinterp_mcp.operations.decoder_influence import decoder_influence
from saeinterp_mcp.operations.evidence_replay import evidence_replay
from saeinterp_mcp.operations.family_heatmap import draw_heatmap, family_heatmap
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.feature_examples import feature_examples
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.features_search import features_search
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.label_delete import label_delete
from saeinterp_mcp.operations.label_get import label_get
from saeinterp_mcp.operations.label_save import label_save
from saeinterp_mcp.operations.label_score import label_score, score_again
from saeinterp_mcp.operations.match_patterns import match_patterns
from saeinterp_mcp.operations.note_get import note_get
from saeinterp_mcp.operations.note_save import note_save
from saeinterp_mcp.operations.queue_next import queue_next
from saeinterp_mcp.operations.similar_features import similar_features
from saeinterp_mcp.operations.stability import stability
from saeinterp_mcp.operations.store_status import store_status
from saeinterp_mcp.operations.test_rule import test_rule
from saeinterp_mcp.operations.token_influence import token_influence
from saeinterp_mcp.operations.token_interactions import token_interactions
from saeinterp_mcp.store.base import Store


@dataclass(frozen=True)
class Operation:
    """A question, and how the faces name it.

    The function's first parameter is `store: Store`, or `stores: ServedStores` for a question about all of them; the
    others, with their `Annotated` types and defaults, are the arguments of every face. Its docstring is what an agent
    reads. It is plain and synchronous, returns a `Result`, and raises `SaeInterpError` for a caller's mistake.
    """

    function: Callable[..., Result]
    command: str
    """On the command line; two words make a subcommand."""
    title: str
    picture: Callable[[Any], bytes] | None = None
    """Draws a PNG of the result, when the call asks for it with `image`."""
    writes: bool = False
    """Whether it changes what the labels file says; hosts may ask the user first."""
    repeatable: bool = True
    """Whether the same call again changes nothing more."""
    is_evidence: bool = True
    """Whether its answers are about a store, so that labels can cite them and they can be asked again."""
    reaches_out: bool = False
    """Whether it may ask a service beyond this machine, where the operator configured one."""
    again: Callable[[Store, RecordedAnswer], Result] | None = None
    """Works a recorded answer out anew, where to make the same call again would ask somebody who is paid."""

    @property
    def name(self) -> str:
        """Of the MCP tool: the function's."""
        return self.function.__name__

    @property
    def asks_all_stores(self) -> bool:
        """Whether the function is asked about all served stores at once."""
        return next(iter(inspect.signature(self.function).parameters)) == "stores"


OPERATIONS: tuple[Operation, ...] = (
    Operation(store_status, "status", "What is served"),
    Operation(features_search, "search", "Find features"),
    Operation(feature_overview, "overview", "A feature at a glance"),
    Operation(feature_examples, "examples", "Samples of a feature"),
    Operation(family_sweep, "family-sweep", "Sweep the levels of a family"),
    Operation(family_heatmap, "heatmap", "Two families together", picture=draw_heatmap),
    Operation(group_sweep, "group-sweep", "Compare groups"),
    Operation(token_influence, "token-influence", "Tokens with and against a feature"),
    Operation(token_interactions, "interactions", "Tokens together beyond each alone"),
    Operation(decoder_influence, "decoder", "What a feature pushes the output towards"),
    Operation(similar_features, "similar", "Features like this one"),
    Operation(match_patterns, "match-patterns", "Does an explanation fit the examples"),
    Operation(compare_explainers, "compare-explainers", "Do explainers and scorers agree"),
    Operation(test_rule, "test-rule", "Does a rule say where it fires", writes=True),
    Operation(stability, "stability", "Is it stable, is it beyond chance"),
    Operation(label_get, "label get", "Read labels", is_evidence=False),
    Operation(label_save, "label save", "Save a label", writes=True, repeatable=False, is_evidence=False),
    Operation(
        label_score,
        "label score",
        "Test a label's words",
        writes=True,
        repeatable=False,
        reaches_out=True,
        again=score_again,
    ),
    Operation(label_delete, "label delete", "Retire or restore a label", writes=True, is_evidence=False),
    Operation(note_get, "note list", "Read notes", is_evidence=False),
    Operation(note_save, "note save", "Write down a note", writes=True, repeatable=False, is_evidence=False),
    Operation(
        queue_next, "queue next", "Next feature to label", writes=True, repeatable=False, is_evidence=False
    ),
    Operation(evidence_replay, "evidence replay", "Does cited evidence still hold", is_evidence=False),
)
