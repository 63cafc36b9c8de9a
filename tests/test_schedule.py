"""The schedule: one line a job, clear errors, and when a job is due."""

from datetime import UTC, datetime

import pytest

from cryptomon_lib.errors import ConfigError
from cryptomon_lib.run import checked_parameters, declared_parameters
from cryptomon_lib.schedule import job_named, load_schedule, next_due, notebook_path


@pytest.fixture
def schedule(tmp_path, monkeypatch):
    """Write a schedule.yaml into a project of its own."""
    for folder in ("params", "scheduled", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "params" / "base.yaml").write_text("{}")
    (tmp_path / "notebooks" / "10_collect.ipynb").write_text("{}")
    monkeypatch.setenv("CRYPTOMON_HOME", str(tmp_path))
    return (tmp_path / "scheduled" / "schedule.yaml").write_text


@pytest.mark.parametrize("name", load_schedule())
def test_each_job_of_the_schedule_names_notebooks_that_exist_and_parameters_that_they_declare(name):
    job = load_schedule()[name]
    paths = [notebook_path(stem) for stem in job.notebooks]

    assert paths
    for parameter, value in job.params.items():
        declaring = [path for path in paths if parameter in declared_parameters(path)]
        assert declaring, f"no notebook of {name} declares {parameter}"
        checked_parameters(declaring[0], {parameter: value})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tick: {cron: '* * * *', notebooks: [10_collect]}", "no cron expression"),
        ("tick: {cron: '* * * * *', notebook: [10_collect]}", "Did you mean notebooks"),
        ("tick: {cron: '* * * * *', notebooks: [10_collect], timeout_s: 0}", "timeout_s"),
        (
            "tick: {notebooks: [10_collect], ping: {begin: TICK_URL}}",
            "ping: unknown key begin. Known: fail, start",
        ),
        (
            "tick: {notebooks: [10_collect], ping: {fail: 'https://example.org/x'}}",
            "never the address or key itself",
        ),
        ("tick: {notebooks: [10_collect], ping: {fail: CRYPTOMON_URL}}", "take another name"),
        ("tick: {notebooks: [10_collect], ping: TICK_URL}", "ping"),
        ("tick: [1, 2]", "tick"),
        ("[1, 2]", "has to be job"),
        (
            "tick: {cron: '* * * * *', notebooks: [a]}\ntick: {cron: '* * * * *', notebooks: [b]}",
            "stands twice",
        ),
    ],
)
def test_a_schedule_that_cannot_be_says_which_job_and_what(schedule, text, says):
    schedule(text)

    with pytest.raises(ConfigError, match=says):
        load_schedule()


def test_a_notebooks_name_with_or_without_its_number_is_a_job_of_its_own(schedule):
    schedule("{}")

    assert job_named("collect").notebooks == job_named("10_collect").notebooks == ("10_collect",)
    with pytest.raises(ConfigError, match="Did you mean 10_collect"):
        job_named("10_colect")


def test_a_job_is_due_at_the_next_minute_of_its_cron_in_utc(schedule):
    schedule("tick: {cron: '17 * * * *', notebooks: [10_collect]}")
    job = load_schedule()["tick"]

    assert next_due(job, datetime(2026, 1, 1, 11, 17, 0, tzinfo=UTC)) == datetime(
        2026, 1, 1, 12, 17, tzinfo=UTC
    )
    assert next_due(job, datetime(2026, 1, 1, 11, 16, 59, tzinfo=UTC)) == datetime(
        2026, 1, 1, 11, 17, tzinfo=UTC
    )
