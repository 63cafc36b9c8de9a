-- How old each source's newest tick is.
-- grain: source
-- units: age_s in seconds
-- lookback: 24 h
-- why: a number is to be believed only as far as its age is known.
with newest as (
    select
        source,
        max(collected_at) as collected_at
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
    group by source
),

final as (
    select
        source,
        collected_at,
        date_diff('millisecond', collected_at, cast(current_timestamp at time zone 'UTC' as timestamp(3))) / 1e3 as age_s
    from newest
)

select
    source,
    collected_at,
    age_s
from final
