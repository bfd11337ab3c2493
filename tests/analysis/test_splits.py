"""Units and their splits."""

from saeinterp_mcp.analysis.splits import content_unit, in_explain, order_units, unit_hash


def test_seven_in_ten_units_are_explain() -> None:
    units = [f"unit {i}" for i in range(20_000)]
    ordered, n_explain = order_units(units, split_seed=0)
    # binomial: 0.7 +- 4 standard errors
    assert abs(n_explain / len(ordered) - 0.7) < 4 * (0.21 / len(ordered)) ** 0.5
    assert all(in_explain(unit_hash(unit, 0)) == (i < n_explain) for i, unit in enumerate(ordered))


def test_a_units_side_is_fixed_for_ever() -> None:
    # written into stores: a change here would move units of old stores to the other side
    assert unit_hash("stdlib/json/decoder.py", 0) == 0x853878D9A291C822
    sides = [in_explain(unit_hash(unit, 0)) for unit in "abcdefgh"]
    assert sides == [True, True, True, True, False, False, True, True]


def test_new_units_do_not_move_old_ones() -> None:
    first, n = order_units(["a", "b", "c"], 3)
    more, m = order_units(["a", "b", "c", "d", "e", "f"], 3)
    assert [u for u in more if u in first] == first
    assert {u for u in more[:m] if u in first} == set(first[:n])


def test_duplicates_are_one_unit() -> None:
    assert content_unit(["b", "a", "a"], "set") == content_unit(["a", "b"], "set")
    assert content_unit(["b", "a"], "sequence") != content_unit(["a", "b"], "sequence")
    assert content_unit(["ab", "c"], "sequence") != content_unit(["a", "bc"], "sequence")
