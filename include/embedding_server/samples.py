"""Texts for the engine's benchmark at startup: short and long, ordinary and odd, in several scripts."""

from __future__ import annotations

_SHORT = (
    "white hanging heart t-light holder", "red retrospot cake stand", "set of 3 coloured flying ducks",
    "postage", "jumbo bag pink polkadot", "wooden picture frame white finish", "vintage paisley stationery set",
    "i love this lamp, it looks great in the hall", "where is my order?", "too small, sent it back",
    "regency cakestand 3 tier", "pack of 72 retrospot cake cases", "a", "12 pencils small tube skull",
    "could you tell me when the blue one is back in stock", "hand warmer union jack",
    "Die Lampe ist schön, aber zu groß", "quel est le prix de la livraison ?", "靠垫套 红色", "ありがとうございます",
    "🎁🎄 !!!",
)  # fmt: skip

SAMPLES = (
    *_SHORT,
    *(f"{first} and {second}" for first, second in zip(_SHORT, _SHORT[5:], strict=False)),
    " ".join(_SHORT),
    " ".join(reversed(_SHORT)) + " " + " ".join(_SHORT),
)
