"""The loadout model for the pipeline: one file, one class with `capture`.

A model of your own goes the same way: copy this file, put your network in the place of `SetCompletion`, and name
the files it needs under `model.files` of the run file.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.sources.checkpoint import load_checkpoint

NULL, PAD = "<NULL>", "<PAD>"
HEAD_WIDTH = 16
"""Width of an attention head, so that the shapes of a checkpoint say everything about the network."""


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to what came in. Without positions, order means nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_heads = width // HEAD_WIDTH
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """`x` (n, m, width), `present` (n, m) bool -> (n, m, width)."""
        n, m, width = x.shape
        parts = self.query_key_value(self.norm_attention(x)).view(n, m, 3, self.n_heads, HEAD_WIDTH)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None, :])
        x = x + self.mix(mixed.transpose(1, 2).reshape(n, m, width))
        forward: Tensor = x + self.narrow(F.gelu(self.widen(self.norm_forward(x))))
        return forward


class SetCompletion(nn.Module):
    """From some abilities of a build, and its weapon, to the logits of all its abilities.

    The last row of the ability embedding is `<NULL>`, which stands for the empty set.
    """

    def __init__(self, n_tokens: int, n_weapons: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.ability = nn.Embedding(n_tokens + 1, width)
        self.weapon = nn.Embedding(n_weapons, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(n_layers))
        self.output = nn.Linear(width, n_tokens)

    def pooled(self, tokens: Tensor, present: Tensor, weapon: Tensor) -> Tensor:
        """The hook `masked_mean`: the mean over the tokens that are there.

        `tokens` (n, m) int64 and `present` (n, m) bool, at least one in each row; `weapon` (n,) int64 -> (n, width)
        """
        x = self.ability(tokens) + self.weapon(weapon)[:, None]
        for layer in self.layers:
            x = layer(x, present)
        there = present.unsqueeze(-1).to(x.dtype)
        mean: Tensor = (x * there).sum(1) / there.sum(1)
        return mean

    def forward(self, tokens: Tensor, present: Tensor, weapon: Tensor) -> Tensor:
        """The same inputs -> (n, n_tokens) logits, each for itself (sigmoid)."""
        logits: Tensor = self.output(self.pooled(tokens, present, weapon))
        return logits


def network_of(state: Mapping[str, Tensor]) -> SetCompletion:
    """The network that a state dict fits, by its shapes."""
    n_tokens, width = state["output.weight"].shape
    n_layers = len({name.split(".")[1] for name in state if name.startswith("layers.")})
    network = SetCompletion(n_tokens, len(state["weapon.weight"]), width, n_layers)
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return network.eval().requires_grad_(False)


def padded(rows: list[list[int]], null: int) -> tuple[Tensor, Tensor]:
    """Token indexes (n, m) and which of them are there (n, m); an empty row becomes `<NULL>`."""
    filled = [row or [null] for row in rows]
    m = max(map(len, filled))
    tokens = torch.tensor([row + [null] * (m - len(row)) for row in filled])
    present = torch.arange(m) < torch.tensor([len(row) for row in filled])[:, None]
    return tokens, present


class LoadoutModel:
    """What the pipeline calls.

    `files` are either `config` (JSON with the lists `tokens` and `weapons`) and `weights` (safetensors), or the
    seed's: `checkpoint` (`model.pth`, a state dict), `vocab` and `weapon_vocab` (JSON, name to index). In the second
    form weapons are called by their names in `weapon_vocab`, such as `weapon_id_40`.
    """

    hooks: tuple[str, ...] = ("masked_mean",)

    def __init__(self, files: Mapping[str, Path], device: torch.device) -> None:
        self.device = device
        if "config" in files:
            config = json.loads(files["config"].read_text(encoding="utf-8"))
            self.tokens, self.weapons = config["tokens"], config["weapons"]
            weights = files["weights"]
        else:
            self.tokens = [name for name in in_order(files["vocab"]) if name not in (NULL, PAD)]
            self.weapons, weights = in_order(files["weapon_vocab"]), files["checkpoint"]
        self.network = network_of(load_checkpoint(weights)).to(device)
        self.check_sizes(weights)
        self.d_model = self.network.output.in_features
        self._token_index = {name: index for index, name in enumerate(self.tokens)}
        self._weapon_index = {name: index for index, name in enumerate(self.weapons)}

    def check_sizes(self, weights: Path) -> None:
        """Refuse names that are not one for each row of the weights."""
        rows = (self.network.output.out_features, self.network.weapon.num_embeddings)
        if rows != (len(self.tokens), len(self.weapons)):
            names = f"{len(self.tokens)} abilities and {len(self.weapons)} weapons"
            raise ValueError(
                f"{weights.name} has {rows[0]} abilities and {rows[1]} weapons, but {names} are named"
            )

    def capture(self, tokens: list[list[str]], groups: Mapping[str, list[str | None]], hook: str) -> Tensor:
        """The pooled vector of each set with the weapon in `groups["weapon"]`, (n, d_model).

        An empty set is `<NULL>`: what the model makes of the weapon alone.
        """
        if hook not in self.hooks:
            raise ValueError(f"there is no hook {hook!r}, only {', '.join(self.hooks)}")
        if "weapon" not in groups:
            raise ValueError("the samples have no group `weapon`; name it under dataset.groups")
        rows = [
            indexes(self._token_index, dict.fromkeys(t for t in row if t != NULL), "ability")
            for row in tokens
        ]
        weapons = torch.tensor(indexes(self._weapon_index, groups["weapon"], "weapon"))
        ids, present = padded(rows, len(self.tokens))
        with torch.no_grad():
            return self.network.pooled(ids.to(self.device), present.to(self.device), weapons.to(self.device))

    def read_out(self) -> tuple[Tensor, Tensor, list[str]]:
        """Weight (d_model, n_outputs), bias (n_outputs,) and what the outputs are: logits are exactly linear."""
        return self.network.output.weight.T, self.network.output.bias, list(self.tokens)


def in_order(vocabulary: Path) -> list[str]:
    """The names of a JSON vocabulary by their index."""
    found: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
    return sorted(found, key=lambda name: found[name])


def indexes(known: Mapping[str, int], names: Iterable[str | None], kind: str) -> list[int]:
    """Where the names stand; one that the model was not trained on is refused."""
    names = list(names)
    for name in names:
        if name not in known:
            raise ValueError(
                f"the model knows no {kind} {name!r}; it knows {', '.join(sorted(known)[:3])} and others"
            )
    return [known[name] for name in names if name is not None]
