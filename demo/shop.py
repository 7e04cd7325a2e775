"""A small seeded shop: users with tastes, items that go with them, and the events between the two.

The same seed, sizes and moment give the same lines, byte for byte. The counts do not depend on the moment: of
``events`` lines 3 % repeat an earlier one (a third of those are corrections with a higher version) and 1 % are
malformed, in equal parts of ten kinds.
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

from demo.catalogue import Catalogue, Item, catalogue
from demo.malformed import MALFORMED

REPEATS = 0.03
CORRECTED = 1 / 3
MALFORMED_SHARE = 0.01
WEEKS = 4
#: A repeat comes so many lines after the original, or, for some corrections, before it.
_NEAR = 400

_KINDS: Mapping[str, int] = {
    "view": 44, "click": 19, "message": 13, "like": 8, "share": 4, "purchase": 10, "return": 2,
}  # fmt: skip
_CAMPAIGNS = ("spring-sale", "newsletter-12", "newsletter-13", "free-shipping", "new-arrivals")
_DEVICES = ("phone", "tablet", "desktop")
_BERLIN_SUMMER = timezone(timedelta(hours=2))

type Fields = dict[str, Any]


@dataclass(frozen=True)
class Shop:
    """How large the shop is. ``events`` counts every line, also those that are malformed."""

    seed: int = 7
    users: int = 2_000
    events: int = 20_000
    distinct_texts: int = 1_800

    def lines(self, now: datetime) -> Iterator[bytes]:
        """The lines in the order in which they are published, without line ends; the last happened before ``now``."""
        random = Random(self.seed)
        repeats, malformed = round(self.events * REPEATS), round(self.events * MALFORMED_SHARE)
        originals = _Originals(random, self, now).fields(self.events - repeats - malformed)
        placed = [(float(place), msgspec.json.encode(fields)) for place, fields in enumerate(originals)]
        placed += _repeated(random, originals, repeats)
        placed += _malformed(random, originals, malformed)
        placed.sort(key=lambda entry: entry[0])
        return (line for _, line in placed)


@dataclass(frozen=True)
class _Customer:
    """Somebody who mostly looks at one category, sometimes at a second, and now and then anywhere."""

    user_id: str
    tastes: tuple[str, str]


class _Originals:
    """Draws valid events, each with an identity of its own, oldest first."""

    def __init__(self, random: Random, shop: Shop, now: datetime) -> None:
        self._random = random
        self._now = now
        self._catalogue: Catalogue = catalogue(random, shop.distinct_texts)
        self._categories = list(self._catalogue.items)
        self._customers = [self._customer(number) for number in range(1, shop.users + 1)]
        self._activity = list(accumulate(random.lognormvariate(0, 1) for _ in self._customers))
        self._kinds = list(_KINDS)
        self._kind_weights = list(accumulate(_KINDS.values()))

    def fields(self, count: int) -> list[Fields]:
        # Everybody comes once, as far as the events go; the rest of the visits follow activity.
        visitors = self._random.sample(self._customers, min(count, len(self._customers)))
        visitors += [self._draw(self._customers, self._activity) for _ in range(count - len(visitors))]
        self._random.shuffle(visitors)
        ages = sorted((self._age() for _ in visitors), reverse=True)
        return [self._event(number, *visit) for number, visit in enumerate(zip(visitors, ages, strict=True), start=1)]

    def _customer(self, number: int) -> _Customer:
        first, second = self._random.sample(self._categories, 2)
        return _Customer(f"user-{number:05d}", (first, second))

    def _draw[T](self, options: Sequence[T], cumulated: Sequence[float]) -> T:
        return options[bisect(cumulated, self._random.random() * cumulated[-1], hi=len(options) - 1)]

    def _age(self) -> timedelta:
        return self._random.uniform(0, 1) * timedelta(weeks=WEEKS)

    def _event(self, number: int, customer: _Customer, age: timedelta) -> Fields:
        kind = self._draw(self._kinds, self._kind_weights)
        fields: Fields = {
            "user_id": customer.user_id,
            "message_id": f"m-{number:06d}",
            "kind": kind,
            "occurred_at": self._written(self._now - age),
        }
        category = self._category(customer)
        fields |= self._message(category) if kind == "message" else self._action(kind, self._item(category))
        return fields | self._extras()

    def _category(self, customer: _Customer) -> str:
        draw = self._random.random()
        if draw < 0.65:
            return customer.tastes[0]
        return customer.tastes[1] if draw < 0.9 else self._random.choice(self._categories)

    def _item(self, category: str) -> Item:
        items = self._catalogue.items[category]
        # The square favours the front of the list: a few items are popular, most are not.
        return items[int(len(items) * self._random.random() ** 2)]

    def _message(self, category: str) -> Fields:
        fields: Fields = {"text": self._random.choice(self._catalogue.messages[category])}
        if self._random.random() < 0.3:
            fields["item_id"] = self._item(category).item_id
        return fields

    def _action(self, kind: str, item: Item) -> Fields:
        fields: Fields = {"item_id": item.item_id}
        if kind not in ("like", "share", "return") or self._random.random() < 0.5:
            fields["text"] = item.title
        if kind in ("purchase", "return"):
            amount = item.price * self._random.choice((1, 1, 1, 2, 3))
            fields["value"] = round(amount if kind == "purchase" else -amount, 2)
        if self._random.random() < 0.35:
            fields["campaign_id"] = self._random.choice(_CAMPAIGNS)
        return fields

    def _extras(self) -> Fields:
        fields: Fields = {}
        if self._random.random() < 0.04:
            fields["version"] = self._random.randint(1, 3)
        if self._random.random() < 0.05:
            fields["device"] = self._random.choice(_DEVICES)
        if self._random.random() < 0.02:
            fields["session"] = {"pages": self._random.randint(1, 30), "returning": self._random.random() < 0.5}
        return fields

    def _written(self, moment: datetime) -> str:
        """RFC 3339 as different clients write it."""
        draw = self._random.random()
        if draw < 0.1:
            return moment.astimezone(_BERLIN_SUMMER).isoformat(timespec="milliseconds")
        spec = "seconds" if draw < 0.3 else "milliseconds"
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=spec) + "Z"


def _repeated(random: Random, originals: Sequence[Fields], count: int) -> list[tuple[float, bytes]]:
    """Exact copies and corrections of ``count`` different originals, each with the place where it is published."""
    places = random.sample(range(len(originals)), min(count, len(originals)))
    corrected = round(len(places) * CORRECTED)
    return [
        (place + _distance(random, index < corrected), _copy(random, originals[place], index < corrected))
        for index, place in enumerate(places)
    ]


def _distance(random: Random, corrected: bool) -> float:
    distance = random.uniform(0.5, _NEAR)
    # Some corrections overtake what they correct.
    return -distance if corrected and random.random() < 0.2 else distance


def _copy(random: Random, fields: Fields, corrected: bool) -> bytes:
    if not corrected:
        return msgspec.json.encode(fields)
    changed: Fields = {"version": fields.get("version", 0) + 1}
    if "value" in fields:
        changed["value"] = round(fields["value"] * random.choice((0.5, 2)), 2)
    elif "text" in fields and "item_id" in fields and random.random() < 0.3:
        # A correction may take the text back: then no vector of this event must stay.
        changed["text"] = None
    else:
        changed["corrected"] = True
    return msgspec.json.encode({**fields, **changed})


def _malformed(random: Random, originals: Sequence[Fields], count: int) -> list[tuple[float, bytes]]:
    makers = list(MALFORMED.values())
    lines = []
    for index in range(count):
        place = random.randrange(len(originals))
        fields = {**originals[place], "message_id": f"x-{index:06d}"}
        lines.append((place + random.random(), makers[index % len(makers)](fields)))
    return lines
