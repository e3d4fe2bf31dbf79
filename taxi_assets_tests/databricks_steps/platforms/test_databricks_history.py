"""What the notes of commits say, and what their absence does."""

from __future__ import annotations

import pytest

from databricks_steps.platforms.databricks.history import UPKEEP, Entry, History, Note

JANUARY, FEBRUARY, MARCH = "2022-01", "2022-02", "2022-03"


def history(*commits: tuple[str, Note | None]) -> History:
    """Commits in the order they were made; each a second after the one before."""
    entries = [Entry(n, 1000 * n, operation, note) for n, (operation, note) in enumerate(commits)]
    return History(tuple(reversed(entries)))


WRITTEN = (
    ("CREATE TABLE", None),
    ("WRITE", Note((JANUARY, FEBRUARY), {JANUARY: 1, FEBRUARY: 2}, {"trips": 4})),
    ("MERGE", Note((FEBRUARY,), {FEBRUARY: 2**62})),
)


def test_a_note_survives_its_text() -> None:
    note = Note((JANUARY,), {JANUARY: 2**62, "": -1}, {"trips": 4})
    assert Note.of(note.text()) == note
    assert Note.of(Note().text()) == Note(None)
    assert Note((FEBRUARY, JANUARY)).text() == (
        '{"taxi": {"months": ["2022-01", "2022-02"], "made_from": {}, "sources": {}}}'
    )


@pytest.mark.parametrize("text", [None, "", "fixed by hand", "[1]", "{}", '{"taxi": 1}', '"taxi"'])
def test_what_others_say_is_no_note(text: str | None) -> None:
    assert Note.of(text) is None


def test_the_newest_note_of_a_month_counts() -> None:
    found = history(*WRITTEN)
    assert [found.made_from(m) for m in (JANUARY, FEBRUARY, MARCH)] == [1, 2**62, None]
    assert found.contents([FEBRUARY, JANUARY]) == "2022-01=1@1000 2022-02=2@2000"
    assert (found.contents(None), found.contents([MARCH])) == ("=2@2000", "2022-03=old")
    assert found.sources() == {"trips": 4}


@pytest.mark.parametrize("operation", sorted(UPKEEP))
def test_upkeep_is_no_change(operation: str) -> None:
    before, after = history(*WRITTEN), history(*WRITTEN, (operation, None))
    for month in (JANUARY, FEBRUARY):
        assert after.made_from(month) == before.made_from(month)
    assert after.contents([JANUARY, FEBRUARY]) == before.contents([JANUARY, FEBRUARY])


@pytest.mark.parametrize(
    "operation", ["UPDATE", "DELETE", "MERGE", "WRITE", "RESTORE", "TRUNCATE", "FSCK", "Unheard of"]
)
def test_a_change_without_a_note_makes_every_month_unknown(operation: str) -> None:
    found = history(*WRITTEN, (operation, None))
    assert [found.made_from(m) for m in (JANUARY, FEBRUARY, "")] == [None, None, None]
    assert found.contents([JANUARY, MARCH]) == "2022-01=3@3000 2022-03=3@3000"
    assert found.sources() == {"trips": 4}


def test_a_write_of_ours_without_a_digest_makes_its_months_unknown() -> None:
    found = history(*WRITTEN, ("WRITE", Note((JANUARY,))))
    assert [found.made_from(m) for m in (JANUARY, FEBRUARY)] == [None, 2**62]
    everything = history(*WRITTEN, ("WRITE", Note(None, {"": 9})))
    assert [everything.made_from(m) for m in (JANUARY, "")] == [None, 9]


def test_a_note_without_rows_is_remembered_and_changes_nothing() -> None:
    before = history(*WRITTEN)
    after = history(*WRITTEN, ("WRITE", Note((), {JANUARY: 5, MARCH: 6})))
    assert [after.made_from(m) for m in (JANUARY, FEBRUARY, MARCH)] == [5, 2**62, 6]
    assert after.contents([JANUARY, FEBRUARY]) == before.contents([JANUARY, FEBRUARY])
    assert after.remembers({JANUARY: 5})
    assert not after.remembers({JANUARY: 5, FEBRUARY: 5})
    by_hand = history(*WRITTEN, ("WRITE", Note((), {MARCH: 6})), ("UPDATE", None))
    assert by_hand.made_from(MARCH) is None


def test_a_table_made_anew_is_not_taken_for_the_old_one() -> None:
    first = history(("WRITE", None))
    again = History((Entry(0, 5000, "WRITE"),))
    assert first.contents([JANUARY]) != again.contents([JANUARY])
