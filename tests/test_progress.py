"""Progress is shown to people alone, and work goes on where nobody looks."""

from landcover.progress import track


def test_work_is_done_without_a_standard_error(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert list(track(range(3), "Counting")) == [0, 1, 2]


def test_nothing_is_shown_when_piped(capsys):
    assert list(track(iter("abc"), "Spelling", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
