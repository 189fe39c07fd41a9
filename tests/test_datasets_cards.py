"""Data cards, the folder they describe, and the page that prints them."""

from __future__ import annotations

import hashlib
import os
import re
from importlib import import_module
from pathlib import Path

import pytest
from small_msrvtt import ANNOTATIONS, FEATURES, small_msrvtt

from vtrlib.datasets import CARDS, Card, card, cards, data_folder, verify
from vtrlib.datasets.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "data_cards.md"
MARK = "% What follows is the output of: python -m vtrlib.datasets --cards\n"


@pytest.fixture
def no_variable(monkeypatch):
    monkeypatch.delenv("VTRLIB_DATA", raising=False)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A data folder with one dataset of two files, as its card says."""
    contents = {"a.txt": b"alpha", "b.bin": bytes(range(256))}
    files = tuple(cards.File(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in contents.items())
    entry = Card("tiny", "Tiny", "Two files.", (("someone/something", "0" * 40, "data/"),), "none stated", files)
    monkeypatch.setitem(CARDS, "tiny", entry)
    (tmp_path / "tiny").mkdir()
    for name, content in contents.items():
        (tmp_path / "tiny" / name).write_bytes(content)
    return tmp_path


class TestPage:
    def test_the_page_prints_the_cards(self):
        above, found, below = PAGE.read_text("utf-8").partition(MARK)
        assert found and above.startswith("(sec-data-cards)=\n# Data cards\n")
        assert below.strip() == cards.markdown(), "replace what follows the mark by its command's output"

    def test_every_card_says_what_one_must_know(self):
        page = PAGE.read_text("utf-8")
        for entry in CARDS.values():
            assert f"(data-{entry.name})=\n## {entry.title}\n" in page and entry.licence in page and entry.what in page
            for repository, commit, _ in entry.origin:
                assert re.fullmatch(r"[\w.-]+/[\w.-]+", repository) and re.fullmatch("[0-9a-f]{40}", commit)
                assert f"https://github.com/{repository}/tree/{commit}" in page
            for file in entry.files:
                assert f"| `{file.name}` | {file.bytes:,} | `{file.sha256}` |" in page
                assert re.fullmatch("[0-9a-f]{64}", file.sha256) and file.bytes > 0
        assert len({f.sha256 for entry in CARDS.values() for f in entry.files}) == sum(
            len(entry.files) for entry in CARDS.values()
        )

    def test_readers_and_commands_exist(self):
        for entry in CARDS.values():
            for name in entry.read_by:
                module, _, attribute = name.rpartition(".")
                assert callable(getattr(import_module(module), attribute)), name
            for command in entry.commands:
                for path in re.findall(r"tests/\S+", command):
                    assert (ROOT / path).is_file(), command

    def test_the_command_prints_it(self, capsys):
        assert main(["--cards"]) == 0
        assert capsys.readouterr().out == cards.markdown() + "\n"


class TestFolder:
    def test_in_which_order_it_is_looked_for(self, tmp_path, monkeypatch):
        one, two = small_msrvtt(tmp_path / "one"), small_msrvtt(tmp_path / "two")
        monkeypatch.setenv("VTRLIB_DATA", str(one))
        assert data_folder(ANNOTATIONS) == one / ANNOTATIONS
        assert data_folder(ANNOTATIONS, two) == two / ANNOTATIONS == data_folder(ANNOTATIONS, two / ANNOTATIONS)

    @pytest.mark.parametrize("value", [None, ""])
    def test_nothing_said(self, value, no_variable, monkeypatch):
        if value is not None:
            monkeypatch.setenv("VTRLIB_DATA", value)
        says = (
            r"VTRLIB_DATA: not set. Expected the folder that holds msrvtt-annotations/, or the argument folder=\. "
            r"Get its files from https://github\.com/WingsBrokenAngel/.* and https://github\.com/layer6ai-labs/.*sha256"
        )
        with pytest.raises(FileNotFoundError, match=says):
            data_folder(ANNOTATIONS)

    def test_nothing_there(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VTRLIB_DATA", str(tmp_path / "gone"))
        with pytest.raises(FileNotFoundError, match=r"VTRLIB_DATA='.*gone': there is no such folder.*Get its files"):
            data_folder(ANNOTATIONS)
        (tmp_path / FEATURES).mkdir()
        with pytest.raises(FileNotFoundError, match=r"folder='.*': holds no msrvtt-annotations/. Get its files"):
            data_folder(ANNOTATIONS, tmp_path)

    def test_unknown(self):
        with pytest.raises(ValueError, match="name='msrvtt-annotation'.*Did you mean 'msrvtt-annotations'"):
            card("msrvtt-annotation")


class TestVerify:
    def test_all_is_well(self, tiny):
        assert verify(tiny) == [] == verify(tiny, "tiny") == verify(tiny / "tiny", "tiny")

    def test_each_fault_is_named(self, tiny):
        (tiny / "tiny" / "a.txt").write_bytes(b"alphA")
        (faults,) = verify(tiny)
        assert re.search(r"a\.txt: sha256 [0-9a-f]{64}, expected [0-9a-f]{64}\. Get it again", faults)
        (tiny / "tiny" / "a.txt").write_bytes(b"alph")
        (tiny / "tiny" / "b.bin").unlink()
        faults = verify(tiny)
        assert len(faults) == 2 and "a.txt: 4 bytes, expected 5." in faults[0]
        assert "b.bin: missing, expected 256 bytes." in faults[1]

    def test_only_what_is_there_unless_named(self, tiny):
        with pytest.raises(FileNotFoundError, match="holds no tvr/"):
            verify(tiny, "tvr")

    def test_nothing_to_check(self, tmp_path, no_variable):
        with pytest.raises(FileNotFoundError, match="holds none of msrvtt-annotations, .*verify"):
            verify(tmp_path)
        with pytest.raises(FileNotFoundError, match="VTRLIB_DATA: not set"):
            verify()

    def test_from_a_shell(self, tiny, no_variable, capsys):
        small_msrvtt(tiny)  # of other bytes than the card says
        assert main([str(tiny)]) == 1
        out = capsys.readouterr().out
        assert re.search(r"^msrvtt-annotations +differs from its card:\n  .*MSRVTT_JSFUSION_test\.csv: ", out)
        assert "train_val_annotation.zip: " in out and "expected 2,594,639. Get it again." in out
        assert re.search(r"\ntvr +not here\n", out) and re.search(r"\ntiny +complete\n", out)
        assert main([]) == 1 and "VTRLIB_DATA: not set" in capsys.readouterr().err
        for name in (ANNOTATIONS, FEATURES):
            (tiny / name).rename(tiny / f"other-{name}")
        assert main([str(tiny)]) == 0

    @pytest.mark.skipif("VTRLIB_DATA" not in os.environ, reason="VTRLIB_DATA is not set: no real data")
    def test_the_real_data(self):
        assert verify() == []
        assert {"msrvtt-annotations", "msrvtt-vgg128-1k"} <= {p.name for p in Path(os.environ["VTRLIB_DATA"]).iterdir()}
