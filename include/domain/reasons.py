"""Why a message is not a valid event: one closed list, in the order in which the rules are applied.

The first rule that fails gives the reason. Messages that cannot be read come first, then the shape of each field
starting with the user, then the values starting with the user.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The reasons for dead letters, in the order of their rules."""

    # The message cannot be read.
    EMPTY_MESSAGE = "empty_message"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    # The shape: presence, type and characters of each field.
    USER_ID_MISSING = "user_id_missing"
    USER_ID_NOT_A_STRING = "user_id_not_a_string"
    MESSAGE_ID_MISSING = "message_id_missing"
    MESSAGE_ID_NOT_A_STRING = "message_id_not_a_string"
    KIND_MISSING = "kind_missing"
    KIND_NOT_A_STRING = "kind_not_a_string"
    OCCURRED_AT_MISSING = "occurred_at_missing"
    OCCURRED_AT_INVALID = "occurred_at_invalid"
    TEXT_NOT_A_STRING = "text_not_a_string"
    ITEM_ID_NOT_A_STRING = "item_id_not_a_string"
    CAMPAIGN_ID_NOT_A_STRING = "campaign_id_not_a_string"
    VALUE_NOT_A_NUMBER = "value_not_a_number"
    VALUE_NOT_FINITE = "value_not_finite"
    VERSION_NOT_AN_INTEGER = "version_not_an_integer"
    VERSION_OUT_OF_RANGE = "version_out_of_range"
    FORBIDDEN_CHARACTERS = "forbidden_characters"
    UNKNOWN_FIELDS_NOT_STORABLE = "unknown_fields_not_storable"
    # The values of the fields.
    USER_ID_LENGTH = "user_id_length"
    MESSAGE_ID_LENGTH = "message_id_length"
    KIND_LENGTH = "kind_length"
    PUBLISHED_AT_MISSING = "published_at_missing"
    OCCURRED_AT_IN_FUTURE = "occurred_at_in_future"
    ITEM_ID_LENGTH = "item_id_length"
    CAMPAIGN_ID_LENGTH = "campaign_id_length"
    NO_TEXT_AND_NO_ITEM = "no_text_and_no_item"


_REFUSED_BY = "refused_by_"


def refused_by(store: str) -> str:
    """The reason for a valid event that a store refuses to store."""
    return _REFUSED_BY + store


def parse_reason(text: str) -> str:
    """``text`` if it is a reason. Raises ``ValueError`` otherwise."""
    return text if text.startswith(_REFUSED_BY) else Reason(text)
