"""A small simulated shop: users with preferences, matching items, and the events between them.

The same seed, sizes and time give the same lines, byte for byte. The counts do not depend on the time: 3 % of the
lines are duplicates (a third of those are corrections with a higher version) and 1 % are malformed, in equal shares
of ten kinds.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from itertools import accumulate
from random import Random
from typing import Any

import msgspec

from demo.catalogue import Catalogue, Item, build_catalogue
from demo.malformed import MALFORMED

DUPLICATE_SHARE = 0.03
#: The share of duplicates that are corrections.
CORRECTION_SHARE = 1 / 3
MALFORMED_SHARE = 0.01
WEEKS = 4
#: A duplicate comes at most this many lines after the original, or before it for some corrections.
_MAX_DISTANCE = 400

_KINDS: Mapping[str, int] = {
    "view": 44, "click": 19, "message": 13, "like": 8, "share": 4, "purchase": 10, "return": 2,
}  # fmt: skip
_CAMPAIGNS = ("spring-sale", "newsletter-12", "newsletter-13", "free-shipping", "new-arrivals")
_DEVICES = ("phone", "tablet", "desktop")
_BERLIN_SUMMER = timezone(timedelta(hours=2))

type Fields = dict[str, Any]


@dataclass(frozen=True)
class Shop:
    """The size of the shop. ``events`` counts every line, including malformed ones."""

    seed: int = 7
    users: int = 2_000
    events: int = 20_000
    distinct_texts: int = 1_800

    def lines(self, now: datetime) -> Iterator[bytes]:
        """Yield the lines in publishing order, without line endings; every event happened before ``now``."""
        random = Random(self.seed)  # noqa: S311 (a seed must give the same shop again)
        duplicates, malformed = round(self.events * DUPLICATE_SHARE), round(self.events * MALFORMED_SHARE)
        originals = _EventGenerator(random, self, now).generate(self.events - duplicates - malformed)
        lines = [(float(position), msgspec.json.encode(fields)) for position, fields in enumerate(originals)]
        lines += _generate_duplicates(random, originals, duplicates)
        lines += _generate_malformed(random, originals, malformed)
        lines.sort(key=lambda entry: entry[0])
        return (line for _, line in lines)


@dataclass(frozen=True)
class _Customer:
    """Someone who mostly looks at one category, sometimes at a second one, and occasionally at any."""

    user_id: str
    categories: tuple[str, str]


class _EventGenerator:
    """Generates valid events, each with its own identity, oldest first."""

    def __init__(self, random: Random, shop: Shop, now: datetime) -> None:
        self._random = random
        self._now = now
        self._catalogue: Catalogue = build_catalogue(random, shop.distinct_texts)
        self._categories = list(self._catalogue.items)
        self._customers = [self._make_customer(number) for number in range(1, shop.users + 1)]
        self._activity = list(accumulate(random.lognormvariate(0, 1) for _ in self._customers))
        self._kinds = list(_KINDS)
        self._kind_weights = list(accumulate(_KINDS.values()))

    def generate(self, count: int) -> list[Fields]:
        # Every customer gets one visit, as long as there are enough; the other visits are drawn by activity.
        visitors = self._random.sample(self._customers, min(count, len(self._customers)))
        visitors += [self._draw(self._customers, self._activity) for _ in range(count - len(visitors))]
        self._random.shuffle(visitors)
        ages = sorted((self._draw_age() for _ in visitors), reverse=True)
        return [
            self._make_event(number, *visit) for number, visit in enumerate(zip(visitors, ages, strict=True), start=1)
        ]

    def _make_customer(self, number: int) -> _Customer:
        first, second = self._random.sample(self._categories, 2)
        return _Customer(f"user-{number:05d}", (first, second))

    def _draw[T](self, options: Sequence[T], cumulative: Sequence[float]) -> T:
        return options[bisect(cumulative, self._random.random() * cumulative[-1], hi=len(options) - 1)]

    def _draw_age(self) -> timedelta:
        return self._random.uniform(0, 1) * timedelta(weeks=WEEKS)

    def _make_event(self, number: int, customer: _Customer, age: timedelta) -> Fields:
        kind = self._draw(self._kinds, self._kind_weights)
        fields: Fields = {
            "user_id": customer.user_id,
            "message_id": f"m-{number:06d}",
            "kind": kind,
            "occurred_at": self._format_time(self._now - age),
        }
        category = self._draw_category(customer)
        fields |= self._make_message(category) if kind == "message" else self._make_action(kind, category)
        return fields | self._make_extras()

    def _draw_category(self, customer: _Customer) -> str:
        draw = self._random.random()
        if draw < 0.65:
            return customer.categories[0]
        return customer.categories[1] if draw < 0.9 else self._random.choice(self._categories)

    def _draw_item(self, category: str) -> Item:
        items = self._catalogue.items[category]
        # Squaring favours the front of the list: a few items are popular, most are not.
        return items[int(len(items) * self._random.random() ** 2)]

    def _make_message(self, category: str) -> Fields:
        fields: Fields = {"text": self._random.choice(self._catalogue.messages[category])}
        if self._random.random() < 0.3:
            fields["item_id"] = self._draw_item(category).item_id
        return fields

    def _make_action(self, kind: str, category: str) -> Fields:
        item = self._draw_item(category)
        fields: Fields = {"item_id": item.item_id}
        if kind not in ("like", "share", "return") or self._random.random() < 0.5:
            fields["text"] = item.title
        if kind in ("purchase", "return"):
            amount = item.price * self._random.choice((1, 1, 1, 2, 3))
            fields["value"] = round(amount if kind == "purchase" else -amount, 2)
        if self._random.random() < 0.35:
            fields["campaign_id"] = self._random.choice(_CAMPAIGNS)
        return fields

    def _make_extras(self) -> Fields:
        fields: Fields = {}
        if self._random.random() < 0.04:
            fields["version"] = self._random.randint(1, 3)
        if self._random.random() < 0.05:
            fields["device"] = self._random.choice(_DEVICES)
        if self._random.random() < 0.02:
            fields["session"] = {"pages": self._random.randint(1, 30), "returning": self._random.random() < 0.5}
        return fields

    def _format_time(self, moment: datetime) -> str:
        """Format a time as RFC 3339, in one of the styles that clients use."""
        draw = self._random.random()
        if draw < 0.1:
            return moment.astimezone(_BERLIN_SUMMER).isoformat(timespec="milliseconds")
        spec = "seconds" if draw < 0.3 else "milliseconds"
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=spec) + "Z"


def _generate_duplicates(random: Random, originals: Sequence[Fields], count: int) -> list[tuple[float, bytes]]:
    """Returns exact copies and corrections of ``count`` different originals, each with its position in the input."""
    positions = random.sample(range(len(originals)), min(count, len(originals)))
    corrections = round(len(positions) * CORRECTION_SHARE)
    return [
        (
            position + _draw_distance(random, index < corrections),
            _copy(random, originals[position], index < corrections),
        )
        for index, position in enumerate(positions)
    ]


def _draw_distance(random: Random, is_correction: bool) -> float:
    distance = random.uniform(0.5, _MAX_DISTANCE)
    # Some corrections arrive before the event that they correct.
    return -distance if is_correction and random.random() < 0.2 else distance


def _copy(random: Random, fields: Fields, is_correction: bool) -> bytes:
    if not is_correction:
        return msgspec.json.encode(fields)
    changes: Fields = {"version": fields.get("version", 0) + 1}
    if "value" in fields:
        changes["value"] = round(fields["value"] * random.choice((0.5, 2)), 2)
    elif "text" in fields and "item_id" in fields and random.random() < 0.3:
        # A correction may remove the text; the event's vector must then be removed, too.
        changes["text"] = None
    else:
        changes["corrected"] = True
    return msgspec.json.encode({**fields, **changes})


def _generate_malformed(random: Random, originals: Sequence[Fields], count: int) -> list[tuple[float, bytes]]:
    """Returns ``count`` malformed variants of random originals, each with its position in the input."""
    makers = list(MALFORMED.values())
    lines = []
    for index in range(count):
        position = random.randrange(len(originals))
        fields = {**originals[position], "message_id": f"x-{index:06d}"}
        lines.append((position + random.random(), makers[index % len(makers)](fields)))
    return lines
