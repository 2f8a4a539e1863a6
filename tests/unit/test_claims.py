"""The table of claims, and findings recorded beside them."""

import pytest
from pydantic import ValidationError

from geolib import claims, results


@pytest.fixture
def known(monkeypatch):
    claim = claims.Claim(source="s", claim="A beats B", measure="A minus B", unit="points")
    monkeypatch.setattr(claims, "claims", lambda: {"a-beats-b": claim})


def test_the_table_is_whole():
    for name, claim in claims.claims().items():
        assert name == name.lower() and " " not in name
        assert claim.claim.strip() and claim.measure.strip()


def test_a_finding_is_recorded_and_shown(known, monkeypatch):
    recorded = {}
    monkeypatch.setattr(results, "record", lambda **values: recorded.update(values))
    finding = claims.Finding(value=0.2, low=0.1, high=0.3, n=40, data="GeoScenes")
    table = claims.record({"a-beats-b": finding})
    assert recorded["claim.a-beats-b.value"] == 0.2
    assert recorded["claim.a-beats-b.n"] == 40
    assert table.loc[0, ["claim", "low", "high", "unit"]].tolist() == [
        "A beats B",
        0.1,
        0.3,
        "points",
    ]


def test_an_unknown_claim_is_refused(known):
    finding = claims.Finding(value=0, low=0, high=0, n=1, data="x")
    with pytest.raises(ValueError, match="b-beats-a"):
        claims.record({"b-beats-a": finding})


def test_a_finding_must_be_finite():
    with pytest.raises(ValidationError):
        claims.Finding(value=float("nan"), low=0, high=0, n=1, data="x")
