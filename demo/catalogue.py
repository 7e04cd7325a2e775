"""The demo shop's catalogue: the items it sells and the messages customers write, from a limited set of short texts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from demo.words import TEMPLATES, VOCABULARIES, Vocabulary

#: The share of distinct texts that are item titles; the rest are messages.
_TITLE_SHARE = 2 / 3


@dataclass(frozen=True)
class Item:
    """Something on sale."""

    item_id: str
    category: str
    title: str
    price: float


@dataclass(frozen=True)
class Catalogue:
    """Items and messages by category, the most popular items first."""

    items: Mapping[str, Sequence[Item]]
    messages: Mapping[str, Sequence[str]]


def build_catalogue(random: Random, distinct_texts: int) -> Catalogue:
    """Build a catalogue with at most ``distinct_texts`` texts, split evenly between the categories.

    Every category gets at least one title and one message, even if that exceeds the limit.
    """
    texts_per_category = max(2, distinct_texts // len(VOCABULARIES))
    title_count = max(1, int(texts_per_category * _TITLE_SHARE))
    items, messages = {}, {}
    for number, (category, vocabulary) in enumerate(VOCABULARIES.items(), start=1):
        items[category] = _build_items(random, category, number, _draw_titles(random, vocabulary, title_count))
        messages[category] = _draw_messages(random, vocabulary, texts_per_category - title_count)
    return Catalogue(items, messages)


def _draw_titles(random: Random, words: Vocabulary, count: int) -> list[str]:
    combinations = itertools.product(words.adjectives, words.materials, words.objects)
    titles = [" ".join(parts).capitalize() for parts in combinations]
    return random.sample(titles, min(count, len(titles)))


def _build_items(random: Random, category: str, number: int, titles: Sequence[str]) -> list[Item]:
    return [
        Item(f"{number:02d}{index:04d}", category, title, round(random.lognormvariate(3.0, 0.7), 2))
        for index, title in enumerate(titles, start=1)
    ]


def _draw_messages(random: Random, words: Vocabulary, count: int) -> list[str]:
    combinations = itertools.product(TEMPLATES, words.objects, words.adjectives, words.materials, words.places)
    messages = {
        template.format(object=thing, adjective=adjective, material=material, place=place)
        for template, thing, adjective, material, place in combinations
    }
    return random.sample(sorted(messages), min(count, len(messages)))
