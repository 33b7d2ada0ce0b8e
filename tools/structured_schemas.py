"""Schemas as users write them, and questions to each, for the example ``structured``.

Every string and array is bounded, so that an answer always ends. ``SCHEMAS`` maps a name to its
schema; ``QUESTIONS`` maps the same name to a form of question and what fills it.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def text(max_length: int, **more: Any) -> Schema:
    return {"type": "string", "maxLength": max_length, **more}


def integer(minimum: int, maximum: int) -> Schema:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def array(items: Schema, min_items: int, max_items: int) -> Schema:
    return {"type": "array", "items": items, "minItems": min_items, "maxItems": max_items}


def closed(properties: Schema, optional: tuple[str, ...] = (), **more: Any) -> Schema:
    """An object of exactly these properties; all are required but the ``optional`` ones."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
        **more,
    }


PRICE = {"type": "number", "minimum": 0, "maximum": 9999, "multipleOf": 0.01}
POSTAL_ADDRESS = closed(
    {"street": text(40), "city": text(24), "postcode": {"type": "string", "pattern": "^[0-9]{5}$"}}
)

SCHEMAS: dict[str, Schema] = {
    "sentiment": closed(
        {
            "sentiment": {"enum": ["positive", "neutral", "negative"]},
            "confidence": integer(0, 100),
        }
    ),
    "person": closed(
        {
            "name": text(40, minLength=1),
            "age": {"anyOf": [integer(0, 120), {"type": "null"}]},
            "occupation": text(30),
            "city": text(24),
        },
        optional=("occupation", "city"),
    ),
    "invoice": closed(
        {
            "number": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
            "date": {"type": "string", "format": "date"},
            "items": array(
                closed({"product": text(24), "quantity": integer(1, 99), "price": PRICE}), 1, 3
            ),
        }
    ),
    "addresses": closed(
        {
            "billing": {"$ref": "#/$defs/address"},
            "shipping": {"$ref": "#/$defs/address"},
            "same": {"type": "boolean"},
        },
        **{"$defs": {"address": POSTAL_ADDRESS}},
    ),
    "shape": {
        "anyOf": [
            closed({"kind": {"const": "circle"}, "radius": integer(1, 100)}),
            closed(
                {
                    "kind": {"const": "rectangle"},
                    "width": integer(1, 100),
                    "height": integer(1, 100),
                }
            ),
        ]
    },
    "event": closed(
        {
            "title": text(40),
            "starts": {"type": "string", "format": "date-time", "maxLength": 25},
            "tags": array({"enum": ["music", "sport", "food", "science", "art"]}, 1, 3),
            "contact": {"type": ["string", "null"], "format": "email", "maxLength": 40},
        },
        optional=("contact",),
    ),
    "matrix": closed({"rows": array(array(integer(-9, 9), 3, 3), 2, 3)}),
    "stock": closed(
        {
            "stock": {
                "type": "object",
                "patternProperties": {"^[a-z]{2,12}$": integer(0, 500)},
                "additionalProperties": False,
                "maxProperties": 4,
            },
            "currency": {"type": "string", "pattern": "^(EUR|USD|GBP)$"},
        }
    ),
    "quiz": closed(
        {
            "question": text(90, minLength=5),
            "choices": array(text(24, minLength=1), 3, 3),
            "answer": integer(0, 2),
        }
    ),
    "outline": closed(
        {
            "title": text(40),
            "sections": array(closed({"heading": text(30), "points": array(text(40), 1, 2)}), 1, 2),
        }
    ),
}

REVIEWS = (
    "The room was clean and the staff could not have been kinder.",
    "It broke after two days, and nobody answered my letters.",
    "The film is neither good nor bad; I have forgotten most of it.",
    "Best soup I have eaten in years. We will come back.",
    "The battery lasts an hour at most. I want my money back.",
)
PEOPLE = (
    "Anna Berg, a 34-year-old nurse from Oslo, won the race.",
    "Yesterday Mr. Kato opened his third bakery in Kyoto.",
    "At 71, Maria Lopez still repairs every clock in Seville.",
    "The prize goes to Tom, who did not say how old he is.",
    "Dr. Amina Yusuf teaches physics in Lagos.",
)
ORDERS = (
    "two lamps at 19.99 and a table at 120",
    "five notebooks at 2.50 each",
    "one bicycle at 349.95 and a helmet at 39.90",
    "three bags of coffee at 8.75",
    "a chair at 45.00, a desk at 210.00 and a shelf at 60.50",
)
PLACES = ("Lyon", "Dresden", "Porto", "Boston", "Turin")
THINGS = ("a coin", "a door", "a plate", "a phone screen", "a football field")
EVENTS = (
    "a jazz concert",
    "a chess match",
    "a cooking class",
    "a lecture on Mars",
    "a street fair",
)
GROCERIES = (
    "12 apples and 30 eggs",
    "4 melons",
    "100 onions, 20 lemons and 7 hams",
    "9 breads",
    "60 tins",
)
TOPICS = ("the moon", "bees", "the French Revolution", "bread", "volcanoes")

QUESTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sentiment": ("Classify the sentiment of this review as JSON: {}", REVIEWS),
    "person": ("Extract the person from this sentence as JSON: {}", PEOPLE),
    "invoice": ("Write an invoice as JSON for {}.", ORDERS),
    "addresses": ("Invent a billing and a shipping address in {}, as JSON.", PLACES),
    "shape": ("Which shape has {}? Answer with a circle or a rectangle in JSON.", THINGS),
    "event": ("Announce {} as a JSON object.", EVENTS),
    "matrix": ("Give me a small matrix of numbers that has to do with {}, as JSON.", TOPICS),
    "stock": ("Turn this list into JSON: {}.", GROCERIES),
    "quiz": ("Make a quiz question about {} with three choices, as JSON.", TOPICS),
    "outline": ("Outline a short article about {} as JSON.", TOPICS),
}
