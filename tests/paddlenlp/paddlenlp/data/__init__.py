"""A part of the package that programs import: it shows that they got this tree's."""

CALLED = "tests/paddlenlp"
