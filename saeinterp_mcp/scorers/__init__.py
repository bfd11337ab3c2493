"""SCORERS: every way of testing a claim about a feature, by name. A rule is tested by the operation `test_rule`."""

from saeinterp_mcp.scorers.base import Scorer
from saeinterp_mcp.scorers.detection import Detection
from saeinterp_mcp.scorers.embedding import Embedding
from saeinterp_mcp.scorers.fuzzing import Fuzzing
from saeinterp_mcp.scorers.intruder import Intruder
from saeinterp_mcp.scorers.simulation import Simulation
from saeinterp_mcp.scorers.surprisal import Surprisal

SCORERS: dict[str, Scorer] = {
    scorer.name: scorer
    for scorer in (Detection(), Fuzzing(), Simulation(), Embedding(), Surprisal(), Intruder())
}
