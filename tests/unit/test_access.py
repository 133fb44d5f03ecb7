"""What is compared with what: a grant with a need, before anything is opened."""

from __future__ import annotations

from hmac import compare_digest
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.errors import Forbidden
from kvfs.paths import Paths
from server import links, tokens
from server.access import Grant, Need, Permit, Scope
from server.params import Params
from server.tokens import Token

TEXTS = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
GRANT = Grant(writes=True, prefixes=("a/",))


def permit(grant: Grant, scope: Scope, query: str = "db=app", key: str = "") -> Permit:
    return Permit(grant, Need(scope), key=key, params=Params(query), paths=Paths("/nowhere"))


@pytest.mark.parametrize("grant", [GRANT, Grant(writes=True, tables=("t",)), Grant(True, databases=("app",))])
def test_a_handler_that_claims_nothing_gets_no_store(grant: Grant) -> None:
    unclaimed = permit(grant, Scope.CLAIMED, "db=app&table=t")
    with pytest.raises(Forbidden):
        unclaimed.check_claimed()


def test_a_claim_is_checked_and_then_enough() -> None:
    claimed = permit(GRANT, Scope.CLAIMED)
    for keys in ([], ["b"], ["a/1", "b"]):
        with pytest.raises(Forbidden):
            claimed.claim_keys(keys)
        with pytest.raises(Forbidden):
            claimed.check_claimed()
    claimed.claim_keys(["a/1", "a/2"])
    claimed.check_claimed()


def test_a_database_that_is_claimed_must_be_covered_whole(tmp_path: Path) -> None:
    need, params = Need(Scope.CLAIMED), Params("db=app")
    for grant, db, covered in (
        (Grant(True, databases=("app",)), "./app.db", True),
        (Grant(True, databases=("app",)), "other", False),
        (Grant(True, databases=("app",), tables=("kv_store",)), "app", False),
        (Grant(True, databases=("app",), prefixes=("a",)), "app", False),
    ):
        claiming = Permit(grant, need, key="", params=params, paths=Paths(str(tmp_path)))
        if covered:
            claiming.claim_database(db)
            claiming.check_claimed()
        else:
            with pytest.raises(Forbidden):
                claiming.claim_database(db)


@given(TEXTS, TEXTS)
def test_a_key_is_covered_just_where_it_begins_with_the_prefix(prefix: str, key: str) -> None:
    grant = Grant(writes=False, prefixes=("\x01never", prefix or "x"))
    if key.startswith(prefix or "x"):
        permit(grant, Scope.KEY, key=key)
    else:
        with pytest.raises(Forbidden):
            permit(grant, Scope.KEY, key=key)


def test_every_token_is_compared_in_constant_time_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    known = tokens.Tokens(Token.of(f"t{place}", f"secret-{place}", GRANT) for place in range(5))
    compared: list[tuple[bytes, bytes]] = []

    def compare(ours: bytes, theirs: bytes) -> bool:
        compared.append((ours, theirs))
        return compare_digest(ours, theirs)

    monkeypatch.setattr("hmac.compare_digest", compare)
    for secret in ("secret-0", "secret-4", "secret-", "", "nonsense" * 100):
        compared.clear()
        found = known.bearer(secret)
        assert (found is not None) is secret.endswith(("0", "4"))
        assert len(compared) == 5
        assert {len(digest) for pair in compared for digest in pair} == {32}


def test_links_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _, params = split(links.target(TOKEN, "/kv/{key}", key="k", params={}, expires_s=1))
    compared: list[tuple[bytes, bytes]] = []

    def compare(ours: bytes, theirs: bytes) -> bool:
        compared.append((ours, theirs))
        return compare_digest(ours, theirs)

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert links.signed(TOKEN, "/kv/{key}", key="k", params=params)
    assert not links.signed(TOKEN, "/kv/{key}", key="l", params=params)
    assert len(compared) == 2
    assert {len(ours) for ours, _ in compared} == {32}


PARAMS = st.dictionaries(TEXTS.filter(bool), TEXTS, max_size=4)
TOKEN = tokens.whole("secret")


def split(target: str) -> tuple[str, Params]:
    path, _, query = target.partition("?")
    return path, Params(query)


@given(TEXTS.filter(bool), PARAMS)
def test_what_was_signed_is_recognised(key: str, params: dict[str, str]) -> None:
    _, given_params = split(links.target(TOKEN, "/kv/{key}", key=key, params=params, expires_s=1))
    assert links.signed(TOKEN, "/kv/{key}", key=key, params=given_params)
    other = Token.of("other", "secret2", TOKEN.grant)
    assert not links.signed(other, "/kv/{key}", key=key, params=given_params)


@given(TEXTS.filter(bool), PARAMS, TEXTS.filter(bool), PARAMS)
def test_nothing_else_is(key: str, params: dict[str, str], key_2: str, params_2: dict[str, str]) -> None:
    _, ours = split(links.target(TOKEN, "/kv/{key}", key=key, params=params, expires_s=1))
    target = links.target(TOKEN, "/kv/{key}", key=key_2, params=params_2, expires_s=1)
    signature = ours.text(links.SIGNATURE)
    _, forged = split(f"{target.rpartition('=')[0]}={signature}")
    same = (key, params) == (key_2, params_2)
    assert links.signed(TOKEN, "/kv/{key}", key=key_2, params=forged) is same
