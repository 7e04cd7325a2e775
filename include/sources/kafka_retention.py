"""How long the topic of dead letters keeps them."""

from __future__ import annotations

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from include.settings import KafkaSettings
from include.sources.kafka_client import REQUEST_S, build_properties, log, translate_errors

_DAY_MS = 86_400_000
_NAME = "retention.ms"


class KafkaRetention:
    """The setting retention.ms of the topic of dead letters."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    def count_differing(self, days: int) -> int:
        """1 if the topic's retention is another one, 0 if it is that already."""
        with translate_errors():
            admin = self._admin()  # held until the answer is there
            (future,) = admin.describe_configs([self._resource()], request_timeout=REQUEST_S).values()
            entry = future.result(timeout=2 * REQUEST_S)[_NAME]
        return int(str(entry.value) != str(days * _DAY_MS))

    def set_days(self, days: int) -> int:
        """Change the topic's retention. Returns 1 if it was another one."""
        if not self.count_differing(days):
            return 0
        entry = ConfigEntry(_NAME, str(days * _DAY_MS), incremental_operation=AlterConfigOpType.SET)
        with translate_errors():
            admin = self._admin()
            (future,) = admin.incremental_alter_configs([self._resource([entry])], request_timeout=REQUEST_S).values()
            future.result(timeout=2 * REQUEST_S)
        return 1

    def _resource(self, entries: list[ConfigEntry] | None = None) -> ConfigResource:
        return ConfigResource(ResourceType.TOPIC, self._settings.dead_letter_topic, incremental_configs=entries)

    def _admin(self) -> AdminClient:
        return AdminClient(build_properties(self._settings, {}, {}), logger=log)
