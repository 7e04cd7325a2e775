"""``ranking``: train, list and show rankings, and put one into service."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from include.cli.command import Commands, add_command
from include.domain.ranking_model import RankingModel, unknown_version
from include.errors import ConfigurationError
from include.settings import Settings
from include.training import open_train_ports


def add_commands(commands: Commands) -> None:
    """Register ``ranking`` with its subcommands."""
    help_text = "train, list and show rankings, and put one into service"
    parser = commands.add_parser("ranking", help=help_text, description=help_text)
    group: Commands = parser.add_subparsers(dest="action", required=True)
    add_command(group, "list", _list, "every stored ranking, the last trained first")
    show = add_command(group, "show", _show, "what was tried and chosen for a ranking")
    show.add_argument("version", nargs="?", help="(default: the one in service)")
    add_command(group, "train", _train, "train now, and put the ranking into service if it is not worse")
    similar = add_command(group, "similar", _similar, "the items that the ranking in service joins most to an item")
    similar.add_argument("item")
    similar.add_argument("--limit", type=int, default=10, help="(default: %(default)s)")
    use = add_command(group, "use", _use, "put a stored ranking into service: the next precompute uses it")
    use.add_argument("version")


def _list(settings: Settings, _: argparse.Namespace) -> int:
    with open_train_ports(settings) as ports:
        current = ports.models.read_current()
        models = ports.models.find()
    if not models:
        print("no ranking has been trained yet: python -m include.cli ranking train")
        return 0
    print(f"{'version':<14}{'trained':<18}{'users':>9}{'items':>9}{'events':>12}{'NDCG@10':>9}  in service")
    for model in models:
        is_current = current is not None and model.version == current.version
        trained = f"{_date(model.trained_at):%Y-%m-%d %H:%M}"
        counts = f"{model.users:>9,}{model.items:>9,}{model.events:>12,}"
        print(f"{model.version:<14}{trained:<18}{counts}{model.ndcg:>9.4f}  {'yes' if is_current else ''}".rstrip())
    return 0


def _show(settings: Settings, options: argparse.Namespace) -> int:
    with open_train_ports(settings) as ports:
        model = _find(ports.models.find(), options.version) if options.version else ports.models.read_current()
    if model is None:
        raise ConfigurationError("no ranking is in service yet: python -m include.cli ranking train")
    print(f"version {model.version}, trained {_date(model.trained_at):%Y-%m-%d %H:%M} UTC")
    print(f"{model.events:,} engagements of {model.users:,} users with {model.items:,} items")
    print(f"NDCG@10 on the inner split: {model.ndcg:.4f}; with 1 to 4 items: {model.short_ndcg:.4f}")
    print(model.card)
    return 0


def _find(models: Sequence[RankingModel], version: str) -> RankingModel:
    for model in models:
        if model.version == version:
            return model
    raise unknown_version(version)


def _train(settings: Settings, _: argparse.Namespace) -> int:
    from include.pipeline.train import train_ranking

    began = time.monotonic()
    with open_train_ports(settings) as ports:
        trained = train_ranking(settings.pipeline, ports, lambda line: _print_progress(began, line))
    print(
        f"{trained.model.version}: NDCG@10 {trained.model.ndcg:.4f}, {'' if trained.is_promoted else 'not '}in service"
    )
    return 0


def _print_progress(began: float, line: str) -> None:
    print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)


def _similar(settings: Settings, options: argparse.Namespace) -> int:
    with open_train_ports(settings) as ports:
        others = ports.similar_items.find(options.item, options.limit)
        titles = ports.activity.read_item_texts([options.item, *(other for other, _ in others)])
    if not others:
        raise ConfigurationError(f"the ranking in service knows no items similar to {options.item!r}")
    print(f"{options.item}  {titles.get(options.item, '')}".rstrip())
    for other, weight in others:
        print(f"{weight:8.3f}  {other}  {titles.get(other, '')}".rstrip())
    return 0


def _use(settings: Settings, options: argparse.Namespace) -> int:
    from include.pipeline.train import put_into_service

    with open_train_ports(settings) as ports:
        put_into_service(options.version, ports)
    print(f"{options.version} is in service from the next precompute on")
    return 0


def _date(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
