"""The comparison as a table with bars, and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BAR = 24


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def print_report(report: Mapping[str, Any]) -> None:
    """One line per method, the best first, and how far Millrace is ahead of it on the same users."""
    methods = sorted(report["methods"].items(), key=lambda each: -each[1]["ndcg@10"])
    best = methods[0][1]["ndcg@10"] or 1
    print(f"{report['users']:,} users, cut {report['cut']}; {report['ms_per_user']:.2f} ms per user\n")
    print(
        f"{'method':<19}{'NDCG@10':>8}{'se':>7}{'Recall@20':>11}{'HR@10':>7}{'coverage':>10}{'novelty':>9}"
        f"{'1-4 items':>11}{'cut to 1-4':>12}{'Millrace ahead':>18}"
    )
    for name, row in methods:
        few, cut = (row.get(each, {}).get("ndcg@10") for each in ("slice_1_4", "cut_1_4"))
        ahead = "" if name == "millrace" else f"{row['millrace_ahead']:+.4f} ± {row['millrace_ahead_se']:.4f}"
        print(
            f"{name:<19}{row['ndcg@10']:>8.4f}{row['se']:>7.4f}{row['recall@20']:>11.4f}{row['hr@10']:>7.3f}"
            f"{row['coverage']:>10.3f}{row['novelty']:>9.2f}{_format(few):>11}{_format(cut):>12}{ahead:>18}"
        )
    print()
    for name, row in methods:
        print(f"{name:<19}{'█' * round(_BAR * row['ndcg@10'] / best)} {row['ndcg@10']:.4f}")


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
