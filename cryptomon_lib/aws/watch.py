"""Numbers for CloudWatch, where the params say so: what alarms on freshness listen to."""

import logging
from collections.abc import Mapping

from cryptomon_lib.aws.clients import asked, client
from cryptomon_lib.errors import CryptomonError
from cryptomon_lib.monitor import Monitor

log = logging.getLogger(__name__)

NAMESPACE = "cryptomon"
_UNITS = {"_s": "Seconds", "_usd": "None"}


def publish_metrics(monitor: Monitor, **values: float | None) -> bool:
    """Tell CloudWatch numbers by name, of this environment, in one call; whether it took them.

    Nothing is told where `aws.metrics` is off or no value is known. That CloudWatch does not answer fails no run: the
    alarm takes silence for trouble.
    """
    known = {name: value for name, value in values.items() if value is not None and value == value}
    if not monitor.settings.aws.metrics or not known:
        return False
    try:
        cloudwatch = client("cloudwatch", monitor.settings.athena.region)
        with asked("tell CloudWatch"):
            cloudwatch.put_metric_data(
                Namespace=NAMESPACE, MetricData=_data(monitor.settings.environment, known)
            )
    except CryptomonError as error:
        log.warning("%s", error)
        return False
    return True


def _data(environment: str, values: Mapping[str, float]) -> list[dict]:
    where = [{"Name": "environment", "Value": environment}]
    return [
        {
            "MetricName": name,
            "Dimensions": where,
            "Value": float(value),
            "Unit": next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "Count"),
        }
        for name, value in values.items()
    ]
