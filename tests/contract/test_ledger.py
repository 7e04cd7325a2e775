"""The ledger: one suite for the implementation in memory and the one on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from include.domain.batch import BatchMode, BatchRef, StageCounts
from include.domain.offsets import Offsets
from include.domain.refusal import Refusal
from include.errors import ConfigurationError, OffsetsGoneError, StaleClaimError
from include.ports import Ledger, Sink
from include.settings import WarehouseSettings
from include.sinks.warehouse import WarehouseSink
from include.stores.memory_warehouse import MemoryWarehouse, MemoryWarehouseSink
from include.stores.warehouse.warehouse import Warehouse
from tests.contract.events import event
from tests.contract.test_warehouse import batch_of

type Opened = tuple[Warehouse | MemoryWarehouse, Sink]


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.servers("postgres"))])
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """An empty warehouse and its sink."""
    if request.param == "memory":
        memory = MemoryWarehouse()
        yield memory, MemoryWarehouseSink(memory.tables)
        return
    settings = WarehouseSettings(request.getfixturevalue("warehouse_dsn"))
    with closing(Warehouse(settings)) as warehouse, closing(WarehouseSink(settings)) as sink:
        yield warehouse, sink


@pytest.fixture
def ledger(opened: Opened) -> Ledger:
    """An empty ledger."""
    return opened[0].ledger


def claim(ledger: Ledger, offsets: Offsets, limit: int = 5) -> BatchRef:
    ref = ledger.claim("events", 0, offsets, limit)
    assert ref is not None
    return ref


def test_an_open_batch_is_claimed_again(ledger: Ledger) -> None:
    """A retry reads the same offsets, however many messages have arrived in the meantime, under the next epoch."""
    first = claim(ledger, Offsets(0, 10))
    assert first == BatchRef("events", 0, 0, 5, epoch=1)
    assert claim(ledger, Offsets(0, 99), 50) == msgspec.structs.replace(first, epoch=2)


def test_open_batches_are_found(ledger: Ledger) -> None:
    """Those that are claimed and not committed, live ones and ranges, of one topic, with their last epoch."""
    claim(ledger, Offsets(0, 10))
    live = claim(ledger, Offsets(0, 10))
    committed = ledger.claim_range(BatchRef("events", 1, 0, 3, BatchMode.RANGE))
    open_range = ledger.claim_range(BatchRef("events", 1, 3, 6, BatchMode.RANGE))
    ledger.claim_range(BatchRef("other", 0, 0, 3, BatchMode.RANGE))
    ledger.commit(committed)
    assert list(ledger.find_open("events")) == [live, open_range]


def test_users_marked_by_hand_are_shown_when_their_batch_commits(opened: Opened) -> None:
    """Not before: until then the stores may lack what was written."""
    warehouse = opened[0]
    ref = warehouse.ledger.claim_range(BatchRef("repair", 0, 0, 0, BatchMode.RANGE))
    for users in (["v", "u"], [], ["u"]):
        warehouse.activity.mark_changed_users(users, ref.batch_id)
    assert list(warehouse.activity.read_changed_users()) == []
    warehouse.ledger.commit(ref)
    assert [mark.key for mark in warehouse.activity.read_changed_users()] == ["u", "v"]


def test_batches_follow_one_another(ledger: Ledger) -> None:
    """After a commit the next batch begins where the last one ended, until nothing is left to read."""
    for start, end in [(3, 8), (8, 11)]:
        ref = claim(ledger, Offsets(3, 11))
        assert (ref.start, ref.end) == (start, end)
        ledger.commit(ref)
        assert ledger.read_position("events", 0) == end
    assert ledger.claim("events", 0, Offsets(3, 11), 5) is None


def test_shards_and_topics_are_claimed_separately(ledger: Ledger) -> None:
    """A claim for one shard affects neither other shards nor other topics."""
    ledger.claim("events", 0, Offsets(0, 10), 5)
    assert ledger.claim("events", 1, Offsets(2, 10), 5) == BatchRef("events", 1, 2, 7, epoch=1)
    assert ledger.claim("other", 0, Offsets(0, 3), 5) == BatchRef("other", 0, 0, 3, epoch=1)
    assert ledger.read_position("events", 1) is None


@pytest.mark.parametrize("offsets", [Offsets(7, 20), Offsets(0, 3)])
def test_missing_offsets_are_an_error(ledger: Ledger, offsets: Offsets) -> None:
    """Messages removed before they were read, or lost by the brokers, stop the shard instead of being skipped."""
    ledger.commit(claim(ledger, Offsets(0, 5)))
    with pytest.raises(OffsetsGoneError):
        ledger.claim("events", 0, offsets, 5)


def test_a_range_does_not_move_the_position(ledger: Ledger) -> None:
    """Ingesting a range again changes neither the shard's position nor its next batch."""
    for _ in range(2):
        ref = ledger.claim_range(BatchRef("events", 0, 0, 4, BatchMode.RANGE))
        ledger.record_staged(ref, StageCounts(delivered=4, valid=4))
        ledger.commit(ref)
    assert ledger.read_position("events", 0) is None
    assert claim(ledger, Offsets(0, 9)) == BatchRef("events", 0, 0, 5, epoch=1)


def test_a_shortened_range_leaves_the_live_position(ledger: Ledger) -> None:
    """A range that ends early becomes a shorter one, even if that was replayed before, and live batches go on."""
    earlier = ledger.claim_range(BatchRef("events", 0, 0, 3, BatchMode.RANGE))
    ledger.record_staged(earlier, StageCounts(delivered=3, valid=3))
    ledger.commit(earlier)
    ledger.commit(claim(ledger, Offsets(0, 5)))
    wanted = ledger.claim_range(BatchRef("events", 0, 0, 5, BatchMode.RANGE))
    shortened = ledger.shorten(wanted, 3)
    assert shortened == BatchRef("events", 0, 0, 3, BatchMode.RANGE, epoch=2)
    assert list(ledger.find_open("events")) == [shortened]
    ledger.commit(shortened)
    assert ledger.find_open("events") == []
    assert ledger.claim("events", 0, Offsets(0, 9), 5) == BatchRef("events", 0, 5, 9, epoch=1)


def test_refusals_are_remembered_until_the_commit(ledger: Ledger) -> None:
    """Also by later claims of the batch, and each once; a stale run can record none."""
    first = claim(ledger, Offsets(0, 5))
    refusal = Refusal("e", "u", 3, "d", "milvus")
    assert ledger.read_refused(first) == []
    for _ in range(2):
        ledger.record_refused(first, [refusal, Refusal("a", "u", 0, "d", "neo4j")])
    second = claim(ledger, Offsets(0, 5))
    assert sorted(ledger.read_refused(second), key=lambda each: each.event_id)[1] == refusal
    assert len(ledger.read_refused(second)) == 2
    with pytest.raises(StaleClaimError):
        ledger.record_refused(first, [Refusal("b", "u", 0, "d", "mongo")])
    ledger.commit(second)
    assert ledger.read_refused(second) == []


def test_a_stale_claim_can_neither_write_nor_commit(opened: Opened) -> None:
    """A run that was overtaken stops at the ledger and at the warehouse; the run that has the claim goes on."""
    warehouse, sink = opened
    stale = claim(warehouse.ledger, Offsets(0, 5))
    current = claim(warehouse.ledger, Offsets(0, 5))
    for write in (
        lambda: warehouse.ledger.shorten(stale, 2),
        lambda: warehouse.ledger.record_staged(stale, StageCounts()),
        lambda: sink.upsert(batch_of(stale, event(message_id="m"))),
        lambda: warehouse.ledger.commit(stale),
    ):
        with pytest.raises(StaleClaimError):
            write()
    assert sink.count() == 0
    assert warehouse.ledger.read_position("events", 0) is None
    warehouse.ledger.record_staged(current, StageCounts())
    sink.upsert(batch_of(current, event(message_id="m")))
    for _ in range(2):
        warehouse.ledger.commit(current)
    assert (sink.count(), warehouse.ledger.read_position("events", 0)) == (1, 5)


def test_a_batch_that_was_never_staged_can_be_shortened(ledger: Ledger) -> None:
    """The next batch starts where the shortened one ends, and a run that knows the old end is stale."""
    long = claim(ledger, Offsets(0, 5))
    short = ledger.shorten(long, 2)
    assert (short.start, short.end, short.epoch) == (0, 2, long.epoch)
    with pytest.raises(StaleClaimError):
        ledger.commit(long)
    ledger.record_staged(short, StageCounts())
    ledger.commit(short)
    following = claim(ledger, Offsets(0, 5))
    assert (following.start, following.end) == (2, 5)


def test_a_staged_batch_keeps_its_length(ledger: Ledger) -> None:
    """Stores may have all of it, so it ends where it ended when it was staged."""
    ref = claim(ledger, Offsets(0, 5))
    ledger.record_staged(ref, StageCounts())
    with pytest.raises(StaleClaimError):
        ledger.shorten(ref, 2)
    assert claim(ledger, Offsets(0, 5)).end == 5


def test_what_was_staged_is_remembered(ledger: Ledger) -> None:
    """The counts and the epoch of the last staged claim are there for the next one."""
    ref = claim(ledger, Offsets(0, 5))
    assert ledger.read_staged(ref) is None
    counts = StageCounts(5, 4, 1, {"invalid_json": 1}, ["odd"])
    ledger.record_staged(ref, counts)
    assert ledger.read_staged(claim(ledger, Offsets(0, 5))) == (1, counts)


def test_a_recreated_topic_is_refused(ledger: Ledger) -> None:
    """A topic with another id under the same name is an error until the old one is forgotten."""
    for _ in range(2):
        ledger.confirm_topic("events", "one")
    ledger.commit(claim(ledger, Offsets(0, 5)))
    with pytest.raises(ConfigurationError, match="events was deleted and created again"):
        ledger.confirm_topic("events", "two")
    assert ledger.forget_topic("events") == 1
    ledger.confirm_topic("events", "two")
    assert claim(ledger, Offsets(0, 3)) == BatchRef("events", 0, 0, 3, epoch=1)


def test_lost_offsets_are_skipped_and_recorded(ledger: Ledger) -> None:
    """After committed batches, what retention removed is recorded as lost, and the next batch starts after it."""
    ledger.commit(claim(ledger, Offsets(0, 5)))
    assert ledger.find_lost("events", 0, 5) is ledger.skip_lost("events", 0, 5) is None
    lost = BatchRef("events", 0, 5, 9, BatchMode.LOST)
    assert ledger.find_lost("events", 0, 9) == lost
    assert ledger.skip_lost("events", 0, 9) == lost
    assert ledger.read_position("events", 0) == 9
    assert ledger.skip_lost("events", 0, 9) is None
    assert claim(ledger, Offsets(9, 12)) == BatchRef("events", 0, 9, 12, epoch=1)


def test_an_open_batch_with_lost_offsets_is_closed(opened: Opened) -> None:
    """What the topic still has of it is read again, and the users that it has changed are shown to the precompute."""
    warehouse, sink = opened
    ref = claim(warehouse.ledger, Offsets(0, 8), 8)
    warehouse.ledger.record_staged(ref, StageCounts())
    sink.upsert(batch_of(ref, event(message_id="m", user_id="u")))
    assert not warehouse.activity.read_changed_users()
    assert warehouse.ledger.skip_lost("events", 0, 6) == BatchRef("events", 0, 0, 6, BatchMode.LOST)
    assert [mark.key for mark in warehouse.activity.read_changed_users()] == ["u"]
    with pytest.raises(StaleClaimError):
        warehouse.ledger.commit(ref)
    following = claim(warehouse.ledger, Offsets(6, 8))
    assert (following.start, following.end) == (6, 8)


def test_recent_messages_are_counted_backwards(ledger: Ledger) -> None:
    """As many of the last committed batches as have the requested number of messages; ranges do not count."""
    for rejected in (3, 2, 1):
        ref = claim(ledger, Offsets(0, 100), 10)
        ledger.record_staged(ref, StageCounts(delivered=10, valid=10 - rejected))
        ledger.commit(ref)
    replayed = ledger.claim_range(BatchRef("events", 0, 0, 10, BatchMode.RANGE))
    ledger.record_staged(replayed, StageCounts(delivered=10))
    ledger.commit(replayed)
    current = claim(ledger, Offsets(0, 100), 10)
    ledger.record_staged(current, StageCounts(delivered=10))
    assert ledger.count_recent(current, 10) == (10, 1)
    assert ledger.count_recent(current, 11) == (20, 3)
    assert ledger.count_recent(current, 1_000) == (30, 6)


def test_only_the_last_open_claim_is_current(ledger: Ledger) -> None:
    """A claim is current until it is claimed again, or committed; what was never claimed is not."""
    first = claim(ledger, Offsets(0, 10))
    assert ledger.is_current(first)
    again = claim(ledger, Offsets(0, 10))
    assert (ledger.is_current(first), ledger.is_current(again)) == (False, True)
    ledger.commit(again)
    assert not ledger.is_current(again)
    assert not ledger.is_current(BatchRef("events", 3, 0, 5, epoch=1))


def test_an_undisturbed_live_batch_needs_no_settling(ledger: Ledger) -> None:
    """Nor does one beside a range that ended before, or of another shard or topic, nor a committed one."""
    for topic, shard in (("events", 0), ("events", 1), ("other", 0)):
        earlier = ledger.claim_range(BatchRef(topic, shard, 0, 3, BatchMode.RANGE))
        if (topic, shard) == ("events", 0):
            ledger.commit(earlier)
    for offsets in (Offsets(0, 5), Offsets(0, 10)):
        ref = claim(ledger, offsets)
        assert not ledger.needs_settling(ref)
        ledger.commit(ref)
        assert not ledger.needs_settling(ref)


def test_runs_that_may_have_met_another_need_settling(ledger: Ledger) -> None:
    """Every range; a live batch beside one that is open or ended since; a batch claimed twice, and the next one."""
    opened = ledger.claim_range(BatchRef("events", 0, 0, 3, BatchMode.RANGE))
    assert ledger.needs_settling(opened)
    live = claim(ledger, Offsets(0, 5))
    assert ledger.needs_settling(live)
    ledger.commit(opened)
    assert not ledger.needs_settling(opened)
    assert ledger.needs_settling(live)
    ledger.commit(live)
    twice = [claim(ledger, Offsets(0, 10)) for _ in range(2)][-1]
    assert ledger.needs_settling(twice)
    ledger.commit(twice)
    following = claim(ledger, Offsets(0, 15))
    assert ledger.needs_settling(following)
    ledger.commit(following)
    assert not ledger.needs_settling(claim(ledger, Offsets(0, 20)))
