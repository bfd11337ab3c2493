"""Which features a run is about: all, a list, a file, what a search finds, or the next of the queue."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.operations.features_search import features_search
from saeinterp_mcp.operations.queue_next import queue_next
from saeinterp_mcp.store.base import Store

PAGE = 200


class Selection(Frozen):
    """How features are chosen; exactly one way, and `where` and `limit` where they mean something."""

    features: str | None = None
    """`all`, numbers with commas or spaces between them, or the path of a JSON file with `feature_indices`."""
    query: str | None = None
    """A token that they fire on, or words of their labels (`by` label)."""
    by: str | None = None
    """What `query` is: token (default) or label."""
    where: str | None = None
    """A filter on metrics, as in features_search: `firing_rate>0.01`."""
    sort: str | None = None
    """A metric to sort by; the default is importance."""
    queue: int | None = None
    """How many of the queue of features to label; each is claimed."""
    limit: int | None = None
    """At most so many, in the order above."""

    @property
    def depends_on_labels(self) -> bool:
        """Whether it chooses otherwise once labels are written."""
        return self.queue is not None or self.by == "label"


def choose_features(store: Store, selection: Selection, worker: str) -> list[int]:
    """Features in the order they are worked on, each once.

    Args:
        store: whose features.
        selection: how they are chosen.
        worker: in whose name features of the queue are claimed.

    Raises:
        BadInput: nothing says which, two things do, or nothing is left.
    """
    _check(selection)
    if selection.queue is not None:
        found = _from_queue(store, selection.queue, worker)
    elif selection.features == "all":
        found = _that_fire(store)
    elif selection.features is not None:
        found = feature_list(selection.features)
        for feature in found:
            store.check_feature(feature)
    else:
        found = _searched(store, selection)
    if not found:
        raise BadInput(f"no feature of store {store.name!r} is left by {_in_words(selection)}")
    return found[: selection.limit]


def feature_list(text: str | Sequence[int]) -> list[int]:
    """Numbers from a list, from text (`11,313 251`), or from a JSON file with `feature_indices`.

    Raises:
        BadInput: none of these, a number twice, or below 0.
    """
    if not isinstance(text, str):
        numbers = list(text)
    elif re.fullmatch(r"[\s,]*(\d+[\s,]*)+", text):
        numbers = [int(part) for part in re.findall(r"\d+", text)]
    else:
        numbers = _from_file(Path(text))
    if twice := [n for n in dict.fromkeys(numbers) if numbers.count(n) > 1][:3]:
        raise BadInput(f"feature {', '.join(map(str, twice))} is listed more than once")
    if wrong := [n for n in numbers if isinstance(n, bool) or not isinstance(n, int) or n < 0]:
        raise BadInput(f"{str(wrong[0])[:40]!r} is no feature: features are whole numbers from 0")
    return numbers


def _from_file(path: Path) -> list[int]:
    if not path.is_file():
        raise BadInput(
            f"{str(path)[:200]!r} is neither `all`, nor numbers with commas between them, nor a JSON file with "
            "feature_indices"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid JSON: {error}") from error
    listed = content.get("feature_indices") if isinstance(content, dict) else content
    if not isinstance(listed, list):
        raise BadInput(f"{path} must be a JSON list of features, or an object with the list feature_indices")
    scores = content.get("scores") if isinstance(content, dict) else None
    if scores is not None and (not isinstance(scores, list) or len(scores) != len(listed)):
        n = len(scores) if isinstance(scores, list) else "no list of"
        raise BadInput(f"{path}: {len(listed)} feature_indices, but {n} scores")
    return listed


def _check(selection: Selection) -> None:
    named = [name for name in ("features", "queue") if getattr(selection, name) is not None]
    searched = [name for name in ("query", "where", "sort", "by") if getattr(selection, name) is not None]
    if len(named) > 1 or (named and searched):
        raise BadInput(f"choose features in one way, not by {' and '.join([*named, *searched])}")
    if not named and not searched and selection.limit is None:
        raise BadInput(
            "say which features: --features all, --features 1,2,3 or FILE, --query, --where, --queue N, or --limit N "
            "for the N most important ones"
        )
    if selection.by is not None and selection.query is None:
        raise BadInput("by says what the query is; give the query too")


def _that_fire(store: Store) -> list[int]:
    """All that fire in the explain split, most important first; those that never do have nothing to explain."""
    from saeinterp_mcp.operations.features_search import feature_metrics

    metrics = feature_metrics(store, "explain")
    importance = np.nan_to_num(metrics["importance"], nan=-1.0)
    order = np.lexsort((np.arange(len(importance)), -importance))
    return [int(f) for f in order if metrics["n_firing"][f] > 0]


def _searched(store: Store, selection: Selection) -> list[int]:
    by = selection.by or ("token" if selection.query is not None else "metric" if selection.sort else None)
    if by not in (None, "token", "label", "metric"):
        raise BadInput(f"by is token or label, not {by!r}")
    found: list[int] = []
    cursor = None
    while True:
        page = features_search(
            store,
            query=selection.query,
            by=by,  # type: ignore[arg-type]
            where=selection.where,
            sort=selection.sort,
            limit=PAGE,
            cursor=cursor,
        )
        found += [int(str(row[0])) for row in page.rows]
        cursor = page.next_cursor
        if cursor is None or (selection.limit is not None and len(found) >= selection.limit):
            return found


def _from_queue(store: Store, n: int, worker: str) -> list[int]:
    found: list[int] = []
    while len(found) < n:
        following = queue_next(store, worker=worker).feature
        if following is None:
            break
        found.append(following)
    return found


def _in_words(selection: Selection) -> str:
    said = {name: value for name, value in selection.model_dump().items() if value is not None}
    return ", ".join(f"{name} {str(value)[:60]!r}" for name, value in said.items())
