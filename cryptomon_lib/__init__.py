"""cryptomon: a crypto market monitor that analysts own. These are the names that notebooks use."""

import importlib

_NAMES = {
    "check_health": "health",
    "checks": "health",
    "fill_holes": "backfill",
    "note_holes": "holes",
    "progress_bar": "progress",
    "open_monitor": "monitor",
    "collect_payloads": "collect",
    "flatten_payloads": "flatten",
    "reflatten_payloads": "flatten",
    "compact_tables": "compact",
    "describe_tables": "compact",
    "roll_up": "rollups",
    "keep_latest": "latest",
    "publish_metrics": "aws.watch",
    "parse_moment": "payloads",
    "Engine": "engine",
    "connect": "engines.duckdb",
    "Facts": "facts",
    "check_views": "metrics",
    "day_report": "report",
    "describe_views": "metrics",
    "latest": "metrics",
    "markets": "metrics",
    "measures": "metrics",
    "alert_history": "alerts",
    "alert_spans": "alerts",
    "backtest_rule": "backtest",
    "window": "backtest",
    "rule_named": "rules",
    "user_named": "receivers",
    "evaluate_alerts": "alerts",
    "firing_alerts": "alerts",
    "firing_of": "alerts",
    "ranks": "metrics",
    "resolve_market": "metrics",
    "series": "metrics",
    "set_up_catalog": "catalog",
    "send_notices": "notify",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str):
    # each name brings its module when it is first used: a page that draws needs no collector
    if name not in _NAMES:
        raise AttributeError(f"module 'cryptomon_lib' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cryptomon_lib.{_NAMES[name]}"), name)
    globals()[name] = value
    return value
