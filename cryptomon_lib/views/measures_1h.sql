-- What each measure did in each hour of the last 31 days, the present hour as far as it is.
-- grain: market_id, measure, hour_at
-- units: of the measure; m2, the sum of squared deviations from the mean, in its square
-- lookback: 31 d
-- time: hour_at
-- reach: 1 h
-- why: days and weeks from a few rows an hour: hours merge to any longer window. Closed hours come from roll-ups, the
--      rest from the values. Hours that were never rolled up and lie more than 26 h back are not there.
with rolled_up as (
    select
        market_id,
        measure,
        hour_at,
        samples,
        expected,
        mean,
        m2,
        min,
        max,
        "first",
        "last"
    from rollups_1h
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '31' day) as varchar)
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '31' day
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3)))
),

valued as (
    select
        market_id,
        measure,
        date_trunc('hour', at) as hour_at,
        at,
        value
    from unrolled
),

summed as (
    select
        market_id,
        measure,
        hour_at,
        count(value) as samples,
        60 as expected,
        avg(value) as mean,
        case when min(value) = max(value) then 0e0 else var_pop(value) * count(value) end as m2,
        min(value) as min,
        max(value) as max,
        min_by(value, at) filter (where value is not null) as "first",
        max_by(value, at) filter (where value is not null) as "last"
    from valued
    group by market_id, measure, hour_at
),

final as (
    select
        market_id,
        measure,
        hour_at,
        samples,
        expected,
        mean,
        m2,
        min,
        max,
        "first",
        "last"
    from rolled_up

    union all

    select
        market_id,
        measure,
        hour_at,
        samples,
        expected,
        mean,
        m2,
        min,
        max,
        "first",
        "last"
    from summed
)

select
    market_id,
    measure,
    hour_at,
    samples,
    expected,
    mean,
    m2,
    min,
    max,
    "first",
    "last"
from final
