-- How many minutes of the last 24 h each source has ticks of.
-- grain: source
-- units: minutes; share is a fraction
-- lookback: 24 h
-- why: a metric over a day is worth as much as the day is complete.
with minutes as (
    select
        source,
        date_trunc('minute', collected_at) as minute_at
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
    group by source, date_trunc('minute', collected_at)
),

final as (
    select
        source,
        count(*) as samples,
        1440 as expected,
        least(1e0, cast(count(*) as double) / 1440e0) as share,
        min(minute_at) as first_at,
        max(minute_at) as last_at
    from minutes
    group by source
)

select
    source,
    samples,
    expected,
    share,
    first_at,
    last_at
from final
