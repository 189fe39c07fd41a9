"""A paper read in two ways: as its text says, and as its released code does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from vtrlib import check

__all__ = ["Switches"]


class Switches:
    """Where a paper and its code differ, one field a difference; each paper's `Reading` is one.

    A subclass is a frozen dataclass. It has the fields, whose defaults are the paper's values, and `VALUES`: of each
    field both values, the paper's first.

    Raises:
        ValueError: a switch has no such value.
    """

    VALUES: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def __post_init__(self) -> None:
        for name, options in self.VALUES.items():
            check.one_of(f"reading.{name}", getattr(self, name), options)

    @classmethod
    def paper(cls) -> Self:
        """The text."""
        return cls()

    @classmethod
    def released(cls) -> Self:
        """The code."""
        return cls(**{name: code for name, (_, code) in cls.VALUES.items()})

    @classmethod
    def of(cls, name: str) -> Self:
        """By name, "paper" or "released"."""
        check.one_of("reading", name, ("paper", "released"))
        return cls.paper() if name == "paper" else cls.released()

    @classmethod
    def given(cls, reading: object) -> Self:
        """What a configuration was given: one of these, a name as for `of`, or a dict of fields, as JSON holds it.

        Raises:
            TypeError: it is none of them.
        """
        if isinstance(reading, str):
            return cls.of(reading)
        if isinstance(reading, dict):
            return cls(**reading)
        if not isinstance(reading, cls):
            raise TypeError(f"reading={reading!r}: expected a {cls.__name__}, or its settings in a dict.")
        return reading

    def flipped(self, *names: str) -> Self:
        """With some switches at their other value.

        Raises:
            ValueError: there is no such switch.
        """
        other = {}
        for name in names:
            paper, code = self.VALUES[check.one_of("switch", name, self.VALUES)]
            other[name] = code if getattr(self, name) == paper else paper
        return type(self)(**{**vars(self), **other})
