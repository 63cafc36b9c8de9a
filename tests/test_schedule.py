"""The schedule: one line a job, clear errors, and when a job is due."""

from datetime import UTC, datetime

import pytest

from cryptomon_lib.errors import ConfigError
from cryptomon_lib.run import checked_parameters, declared_parameters
from cryptomon_lib.schedule import (
    is_frequent,
    job_named,
    last_due,
    load_schedule,
    next_due,
    notebook_path,
    scheduled_jobs,
)


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
        ("ti ck: {notebooks: [10_collect]}", "a job's name is made of"),
        ("tick: {cron: '* * * * * */10', notebooks: [10_collect]}", "five fields, minute to weekday"),
        ("tick: {cron: '0 0 L * *', notebooks: [10_collect]}", "L and #"),
        ("tick: {cron: '0 0 * * 5#2', notebooks: [10_collect]}", "L and #"),
        ("tick: {cron: '0 0 31 2 *', notebooks: [10_collect]}", "a date that never comes"),
        ("tick: {cron: '@reboot', notebooks: [10_collect]}", "no cron expression"),
        ("tick: {notebooks: [10_collect], catch_up: twice}", "catch_up"),
        (
            "tick: {notebooks: [10_collect], retries: {time: 3}}",
            "retries: unknown key time. Did you mean times",
        ),
        ("tick: {notebooks: [10_collect], retries: {times: 99}}", "<= 10"),
        ("tick: {notebooks: [10_collect], retries: 3}", "retries"),
        ("tick: {notebooks: [10_collect], tell: everyone}", "tell"),
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


def test_a_job_was_due_last_at_a_moment_or_before_it_and_comes_often_where_it_comes_each_five_minutes(
    schedule,
):
    schedule(
        "tick: {cron: '*/5 * * * *', notebooks: [10_collect]}\n"
        "other: {cron: '*/6 * * * *', notebooks: [10_collect]}\n"
    )
    jobs = load_schedule()

    for moment in (
        datetime(2026, 1, 1, 11, 15, tzinfo=UTC),
        datetime(2026, 1, 1, 11, 19, 59, 999999, tzinfo=UTC),
    ):
        assert last_due(jobs["tick"], moment) == datetime(2026, 1, 1, 11, 15, tzinfo=UTC)
    assert is_frequent(jobs["tick"]) and not is_frequent(jobs["other"])


def test_a_user_who_is_told_has_to_be_one_that_there_is_before_jobs_are_scheduled(schedule, tmp_path):
    (tmp_path / "params" / "receivers.yaml").write_text("users: {maria: {receivers: {log: {kind: log}}}}")
    schedule(
        "tick: {cron: '* * * * *', notebooks: [10_collect], tell: [marai]}\nother: {notebooks: [10_collect]}"
    )

    # a name that is wrong there stops no run
    assert load_schedule()["tick"].tell == ("marai",)
    with pytest.raises(ConfigError, match=r"tick: tell: .* no user 'marai'. Did you mean maria"):
        scheduled_jobs()
    schedule(
        "tick: {cron: '* * * * *', notebooks: [10_collect], tell: [maria]}\nother: {notebooks: [10_collect]}"
    )
    assert list(scheduled_jobs()) == ["tick"]


def test_the_delivered_schedule_tells_users_that_there_are_and_runs_no_missed_tick_late():
    jobs = scheduled_jobs()

    assert all(job.tell for job in jobs.values())
    assert {name for name, job in jobs.items() if job.catch_up == "none"} == {"tick"}
