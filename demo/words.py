"""The vocabulary of the demo shop: what it sells, by category, and what customers write about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """A title is an adjective, a material and an object; a message is a template filled in with these and a place."""

    adjectives: tuple[str, ...]
    materials: tuple[str, ...]
    objects: tuple[str, ...]
    places: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


VOCABULARIES: Mapping[str, Vocabulary] = {
    "garden": Vocabulary(
        _words("weatherproof, hanging, rustic, climbing, tall, shady"),
        _words("terracotta, wicker, galvanised, cedar, zinc"),
        _words("planter, watering can, trellis, bird feeder, wheelbarrow, herb pot, lantern, hose reel, bench, trowel"),
        _words("terrace, vegetable patch, balcony"),
    ),
    "kitchen": Vocabulary(
        _words("nonstick, stackable, heavy, dishwasher safe, deep, handmade"),
        _words("cast iron, enamel, bamboo, stainless steel, stoneware"),
        _words("saucepan, mixing bowl, chopping board, teapot, cake tin, colander, whisk, casserole, bread bin, ladle"),
        _words("oven, dinner party, small kitchen"),
    ),
    "books": Vocabulary(
        _words("illustrated, annotated, bestselling, abridged, secondhand, translated"),
        _words("paperback, hardback, clothbound, pocket, leatherbound"),
        _words("detective novel, poetry anthology, travel diary, cookery book, biography, world atlas, fairy tales, "
               "history of science, science fiction saga, chess manual"),
        _words("reading group, long train ride, bookshelf"),
    ),
    "toys": Vocabulary(
        _words("musical, glow in the dark, wooden wheeled, giant, cuddly, magnetic"),
        _words("plush, birch, felt, rubber, tin"),
        _words("teddy bear, train set, jigsaw puzzle, building blocks, spinning top, doll house, rocking horse, "
               "kite, marble run, hand puppet"),
        _words("nursery, birthday party, playroom"),
    ),
    "sports": Vocabulary(
        _words("professional, junior, adjustable, lightweight, foldable, competition"),
        _words("carbon, neoprene, aluminium, graphite, mesh"),
        _words("tennis racket, yoga mat, running shoes, football, dumbbell, swimming goggles, skipping rope, "
               "bicycle helmet, climbing rope, hockey stick"),
        _words("gym, marathon, training camp"),
    ),
    "music": Vocabulary(
        _words("acoustic, electric, vintage, studio, travel sized, twelve string"),
        _words("mahogany, rosewood, brass, maple, ebony"),
        _words("guitar, ukulele, trumpet, violin, drum kit, harmonica, keyboard stand, metronome, flute, music box"),
        _words("rehearsal room, school orchestra, open air concert"),
    ),
    "clothing": Vocabulary(
        _words("slim, oversized, striped, waterproof, quilted, embroidered"),
        _words("merino, linen, denim, corduroy, cashmere"),
        _words("jacket, scarf, pullover, trousers, evening dress, cardigan, raincoat, shirt, waistcoat, mittens"),
        _words("wedding, office, rainy autumn"),
    ),
    "jewellery": Vocabulary(
        _words("engraved, delicate, antique, twisted, sparkling, filigree"),
        _words("silver, rose gold, pearl, amber, turquoise"),
        _words("necklace, bracelet, earrings, signet ring, brooch, anklet, cufflinks, pendant, tiara, locket"),
        _words("anniversary, christening, ballroom"),
    ),
    "electronics": Vocabulary(
        _words("wireless, rechargeable, compact, noise cancelling, waterproof, smart"),
        _words("bluetooth, solar, graphene, lithium, optical"),
        _words("headphones, loudspeaker, power bank, webcam, alarm clock, projector, keyboard, doorbell, thermostat, "
               "radio"),
        _words("home office, car, living room"),
    ),
    "stationery": Vocabulary(
        _words("dotted, refillable, personalised, pastel, perforated, scented"),
        _words("recycled, kraft, parchment, cork, vellum"),
        _words("notebook, fountain pen, wall calendar, wrapping paper, pencil case, greeting cards, sealing wax, "
               "letter opener, desk organiser, sketch pad"),
        _words("desk, first day of school, love letter"),
    ),
    "pets": Vocabulary(
        _words("chewable, washable, reflective, orthopaedic, catnip filled, retractable"),
        _words("nylon, sisal, fleece, ceramic, hemp"),
        _words("dog bed, cat tree, leash, food bowl, collar, hamster wheel, aquarium pump, parrot perch, rabbit hutch, "
               "grooming brush"),
        _words("puppy, old tomcat, walk in the woods"),
    ),
    "camping": Vocabulary(
        _words("inflatable, windproof, ultralight, four season, collapsible, insulated"),
        _words("titanium, canvas, ripstop, aluminised, down filled"),
        _words("tent, sleeping bag, camping stove, rucksack, hammock, headlamp, water filter, folding chair, cool box, "
               "compass"),
        _words("summit, festival, night by the lake"),
    ),
}  # fmt: skip

TEMPLATES: tuple[str, ...] = (
    "Looking for the right {object} for the {place}, any ideas?",
    "My new {object} arrived today and I love it",
    "Can I have the {object} in {material} too?",
    "Thinking about the {adjective} {object} as a present",
    "The {object} broke after one week, can I send it back?",
    "Which {object} would you take for the {place}?",
    "So happy with my {adjective} {object}, thank you",
    "Do you have some cheaper {object} than the {material} one?",
)
