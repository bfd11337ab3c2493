"""What asking costs: the table, a file of one's own over it, and what is not known."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeinterp_mcp.asking.prices import UNKNOWN, Price, Prices, Rate, load_prices
from saeinterp_mcp.clients.base import Usage
from saeinterp_mcp.errors import BadInput

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
tokens = st.integers(0, 10**7)
dollars = st.decimals(0, 100, places=2)
factors = st.decimals(0, 2, places=2)


@pytest.mark.parametrize(
    ("client", "usd"),
    [
        ("anthropic:claude-haiku-4-5", 6.0),
        ("anthropic:claude-haiku-4-5-20251001", 6.0),
        ("anthropic:claude-sonnet-5", 12.0),
        ("anthropic:claude-opus-5-2026-08-01", 30.0),
    ],
)
def test_a_million_tokens_in_and_out_cost_what_the_table_says_and_half_in_a_batch(
    client: str, usd: float
) -> None:
    rate = load_prices().of(client)
    assert rate.cost(MILLION) == pytest.approx(usd)
    assert rate.cost(MILLION, batch=True) == pytest.approx(usd / 2)
    assert "as of 2026-08" in rate.said


def test_tokens_read_from_the_cache_cost_a_tenth_and_written_ones_a_quarter_more() -> None:
    rate = load_prices().of("anthropic:claude-sonnet-5")
    assert rate.cost(Usage(cached_tokens=1_000_000)) == pytest.approx(0.2)
    assert rate.cost(Usage(written_tokens=1_000_000)) == pytest.approx(2.5)


@pytest.mark.parametrize(
    "client",
    [
        "openai:gpt-6",
        "anthropic:claude-opus-5-1",
        "anthropic:claude-opus-50",
        "anthropic:claude-haiku-4-5-latest",
        "anthropic:claude-haiku-4-5@https://proxy.example.org",
        "openai:model@http://10.0.0.7:8000/v1",
        "openai:model@https://127.0.0.1.example.org/v1",
        "openai:model@https://localhost:secret@example.org/v1",
        "openai:127.0.0.1",
        "",
    ],
)
def test_what_is_not_in_the_table_has_an_unknown_price_and_not_none(client: str) -> None:
    rate = load_prices().of(client)
    assert rate == Rate(None, UNKNOWN)
    assert (rate.cost(MILLION), rate.cost(None), rate.at_most(10, 10)) == (None, None, None)


@pytest.mark.parametrize(
    "client",
    [
        "local:/models/lm",
        "recorded:answers.jsonl",
        "openai:qwen@http://127.0.0.1:8000/v1",
        "openai:org/model@http://localhost:11434/v1",
        "openai:qwen@http://[::1]:8000/v1",
        "anthropic:claude-opus-5@http://127.0.0.1:9",
    ],
)
def test_what_runs_on_this_machine_is_charged_nothing_and_says_so(client: str) -> None:
    rate = load_prices().of(client)
    assert (rate.cost(MILLION), rate.cost(None)) == (0.0, 0.0)
    assert "nothing is charged" in rate.said


def test_usage_that_is_not_known_has_no_cost() -> None:
    assert load_prices().of("anthropic:claude-opus-5").cost(None) is None


def test_a_file_of_ones_own_adds_to_the_table_and_wins_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        """
as_of: "2026-11"
models:
  "openai:gpt-6": {input: 3, output: 9, batch: 0.5}
  "anthropic:claude-opus-5": {input: 4, output: 20}
  "openai:qwen@http://127.0.0.1:8000/v1": {input: 1, output: 1}
""",
        encoding="utf-8",
    )
    for prices in (load_prices(own), by_variable(own, monkeypatch)):
        assert prices.of("openai:gpt-6-2026-10-01").cost(MILLION) == pytest.approx(12)
        assert prices.of("openai:gpt-6").said == (
            "$3 in and $9 out per million tokens, in batches 0.5 of it, as of 2026-11"
        )
        assert prices.of("anthropic:claude-opus-5").cost(MILLION) == pytest.approx(24)
        assert prices.of("anthropic:claude-sonnet-5").cost(MILLION) == pytest.approx(12)
        assert prices.of("openai:qwen@http://127.0.0.1:8000/v1").cost(MILLION) == pytest.approx(2)


def by_variable(own: Path, monkeypatch: pytest.MonkeyPatch) -> Prices:
    monkeypatch.setenv("SAEINTERP_PRICES", str(own))
    return load_prices()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("as_of: '2026-11'\nmodels: {a: {input: -1, output: 2}}", "models.a.input"),
        ("as_of: '2026-11'\nmodels: {a: {input: 1}}", "models.a.output"),
        ("as_of: today\nmodels: {}", "as_of"),
        ("models: {}", "as_of"),
        ("as_of: '2026-11'\nmodels: {a: {input: 1, output: 1, outputs: 2}}", "models.a.outputs"),
        ("- 1", "mapping"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, content: str, words: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=words) as refused:
        load_prices(own)
    assert str(own) in str(refused.value)


@given(tokens, tokens, tokens, tokens, dollars, dollars, factors, factors, factors, st.booleans())
def test_the_cost_is_what_exact_arithmetic_says(
    n_in: int, n_out: int, n_cached: int, n_written: int, cost_in: Decimal, cost_out: Decimal, read: Decimal,
    write: Decimal, batch: Decimal, in_batch: bool,
) -> None:  # fmt: skip
    price = Price(
        input=float(cost_in),
        output=float(cost_out),
        cached_read=float(read),
        cached_write=float(write),
        batch=float(batch),
    )
    usage = Usage(input_tokens=n_in, output_tokens=n_out, cached_tokens=n_cached, written_tokens=n_written)
    each = [(n_in, cost_in), (n_cached, cost_in * read), (n_written, cost_in * write), (n_out, cost_out)]
    exact = sum(n * cost for n, cost in each) * (batch if in_batch else 1) / 1_000_000
    assert Rate(price, "").cost(usage, in_batch) == pytest.approx(float(exact), rel=1e-9, abs=1e-12)


@given(tokens, tokens, factors, factors, st.booleans())
def test_no_usage_of_so_many_tokens_costs_more_than_at_most(
    n_in: int, n_out: int, read: Decimal, write: Decimal, batch: bool
) -> None:
    rate = Rate(Price(input=3, output=7, cached_read=min(1.0, float(read)), cached_write=float(write)), "")
    most = rate.at_most(n_in, n_out, batch)
    assert most is not None
    for usage in (
        Usage(input_tokens=n_in, output_tokens=n_out),
        Usage(cached_tokens=n_in, output_tokens=n_out),
        Usage(written_tokens=n_in, output_tokens=n_out),
    ):
        assert (rate.cost(usage, batch) or 0) <= most * (1 + 1e-12)
