"""What the demo's shop sells and what is written in it: at most a given number of distinct short texts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from demo.words import TEMPLATES, VOCABULARIES, Vocabulary

#: Of the distinct texts, so many are titles of items; the others are messages.
_TITLES = 2 / 3


@dataclass(frozen=True)
class Item:
    """Something on sale."""

    item_id: str
    category: str
    title: str
    price: float


@dataclass(frozen=True)
class Catalogue:
    """Items and messages by category, those asked for most often first."""

    items: Mapping[str, Sequence[Item]]
    messages: Mapping[str, Sequence[str]]


def catalogue(random: Random, distinct_texts: int) -> Catalogue:
    """A catalogue with at most ``distinct_texts`` texts, an equal share a category and never none."""
    share = max(2, distinct_texts // len(VOCABULARIES))
    titles = max(1, int(share * _TITLES))
    items, messages = {}, {}
    for number, (category, vocabulary) in enumerate(VOCABULARIES.items(), start=1):
        items[category] = _items(random, category, number, _titles(random, vocabulary, titles))
        messages[category] = _messages(random, vocabulary, share - titles)
    return Catalogue(items, messages)


def _titles(random: Random, words: Vocabulary, count: int) -> list[str]:
    every = itertools.product(words.adjectives, words.materials, words.objects)
    titles = [" ".join(parts).capitalize() for parts in every]
    return random.sample(titles, min(count, len(titles)))


def _items(random: Random, category: str, number: int, titles: Sequence[str]) -> list[Item]:
    return [
        Item(f"{number:02d}{index:04d}", category, title, round(random.lognormvariate(3.0, 0.7), 2))
        for index, title in enumerate(titles, start=1)
    ]


def _messages(random: Random, words: Vocabulary, count: int) -> list[str]:
    every = itertools.product(TEMPLATES, words.objects, words.adjectives, words.materials, words.places)
    written = {
        template.format(object=thing, adjective=adjective, material=material, place=place)
        for template, thing, adjective, material, place in every
    }
    return random.sample(sorted(written), min(count, len(written)))
