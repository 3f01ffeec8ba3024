"""Fonts for text in any script: which installed font has the characters that the usual one lacks."""

import unicodedata
from collections.abc import Iterable
from functools import cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from simclr_core.errors import UserError

PREFERRED = (
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
)  # before others that have as many characters
UNUSABLE = (
    "Last Resort",
    "STIX",
    "cm",
    "DejaVu Sans Display",
    "DejaVu Math",
)  # boxes, formulas
CJK_NAMES = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC", "BOPOMOFO")


def families_for(texts: Iterable[str]) -> list[str]:
    """Font families, the usual one first, that together have every character of the texts.

    Raises: UserError naming the characters that no installed font has, and the font to install.
    """
    usual = FontProperties()
    families = list(usual.get_family())
    missing = {c for text in texts for c in text if c.isprintable()} - _charmap(findfont(usual))
    while missing:
        found = {family: len(missing & _charmap(findfont(family))) for family in _other_families()}
        best = max(found, key=lambda family: (found[family], family in PREFERRED), default="")
        if not found.get(best):
            raise UserError(_what_to_install(missing))
        families.append(best)
        missing -= _charmap(findfont(best))
    return families


@cache
def _charmap(path: str) -> frozenset[str]:
    """The characters of a font file, as found by findfont."""
    return frozenset(map(chr, get_font(path).get_charmap()))


@cache
def _other_families() -> tuple[str, ...]:
    """Installed families that may stand in, in order of name."""
    upright = {entry.name for entry in fontManager.ttflist if entry.style == "normal" and entry.weight == 400}
    return tuple(sorted(name for name in upright if not name.startswith(UNUSABLE)))


def _what_to_install(missing: set[str]) -> str:
    scripts = {unicodedata.name(character, "UNNAMED").split()[0] for character in missing}
    fonts = {"Noto Sans CJK" if s in CJK_NAMES else f"Noto Sans {s.capitalize()}" for s in scripts}
    return (
        f"no installed font has the characters {' '.join(sorted(missing))}: "
        f"install {' and '.join(sorted(fonts))}, or rename the classes"
    )
