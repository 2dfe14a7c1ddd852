"""What the characters of the texts say of a vocabulary before a tokenizer is trained."""

from __future__ import annotations

from stages.doctor.alphabet import Alphabet


def alphabet(*texts: str) -> Alphabet:
    made = Alphabet()
    for text in texts:
        made.add(text)
    return made


def test_a_vocabulary_that_is_derived_holds_all_characters() -> None:
    many = "".join(chr(0x4E00 + number) for number in range(600))
    for texts in (("a red circle",), (many,), ("x",)):
        assert alphabet(*texts).finding("auto") is None
    small = alphabet(many).finding(300)
    assert small is not None
    assert (small.code, small.gravity) == ("VOCABULARY", "stops")


def test_without_any_text_there_is_none() -> None:
    found = alphabet("").finding("auto")
    assert found is not None
    assert found.code == "NO_TEXT"
