import stat
from pathlib import Path

import pytest

from quanttaas_jupyter.compute.clusters import tickets

TICKET = {"study": "abcd1234", "sha256": "0" * 64, "resume": False, "time": 1.0}


def test_a_signed_ticket_is_known_by_its_key(home: Path) -> None:
    assert tickets.is_signed_by(tickets.sign(TICKET), tickets.public_key())


@pytest.mark.parametrize("change", [{"sha256": "1" * 64}, {"study": "other"}, {"resume": True}, {"signature": "00"}])
def test_a_ticket_changed_on_its_way_is_not(home: Path, change: dict[str, object]) -> None:
    assert not tickets.is_signed_by({**tickets.sign(TICKET), **change}, tickets.public_key())


def test_another_users_ticket_is_not(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    theirs = tickets.sign(TICKET)
    monkeypatch.setenv("QUANTTAAS_RUNTIME_DIR", str(tmp_path / "me"))
    assert not tickets.is_signed_by(theirs, tickets.public_key())
    assert not tickets.is_signed_by({**theirs, "key": tickets.public_key()}, tickets.public_key())
    assert not tickets.is_signed_by({}, tickets.public_key())


def test_the_private_key_is_for_this_user_only_and_stays(home: Path) -> None:
    first = tickets.public_key()
    (path,) = (home / "run").glob("signing.key")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tickets.public_key() == first
