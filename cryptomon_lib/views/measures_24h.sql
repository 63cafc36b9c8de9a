-- What each measure did in the last 24 h, to the millisecond.
-- grain: market_id, measure
-- units: of the measure; m2, the sum of squared deviations from the mean, in its square
-- lookback: 26 h
-- why: rank, averages and deviations of a day from some 24 roll-ups a market. The hour that the window begins in and
--      what is not rolled up yet come from the values. Merged around the mean of the whole, because a difference of squares would
--      lose the digits of a stable coin; what did not move deviates by exactly nothing.
with rolled_up as (
    select
        market_id,
        measure,
        hour_at as begins_at,
        samples,
        mean,
        m2,
        min,
        max,
        "first",
        "last"
    from rollups_1h
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '23' hour
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3)))
),

first_hour as (
    select
        market_id,
        measure,
        at,
        value
    from measures
    where
        at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '23' hour
),

last_hours as (
    select
        market_id,
        measure,
        at,
        value
    from unrolled
    where at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '23' hour
),

pieces as (
    select
        market_id,
        measure,
        begins_at,
        samples,
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
        min(at) as begins_at,
        count(value) as samples,
        avg(value) as mean,
        var_pop(value) * count(value) as m2,
        min(value) as min,
        max(value) as max,
        min_by(value, at) filter (where value is not null) as "first",
        max_by(value, at) filter (where value is not null) as "last"
    from first_hour
    group by market_id, measure

    union all

    select
        market_id,
        measure,
        min(at) as begins_at,
        count(value) as samples,
        avg(value) as mean,
        var_pop(value) * count(value) as m2,
        min(value) as min,
        max(value) as max,
        min_by(value, at) filter (where value is not null) as "first",
        max_by(value, at) filter (where value is not null) as "last"
    from last_hours
    group by market_id, measure
),

centred as (
    select
        market_id,
        measure,
        begins_at,
        samples,
        mean,
        m2,
        min,
        max,
        "first",
        "last",
        sum(samples * mean) over (partition by market_id, measure)
        / nullif(sum(samples) over (partition by market_id, measure), 0) as mean_24h
    from pieces
),

merged as (
    select
        market_id,
        measure,
        sum(samples) as samples,
        max(mean_24h) as mean,
        sum(m2 + samples * (mean - mean_24h) * (mean - mean_24h)) as m2,
        min(min) as min,
        max(max) as max,
        min_by("first", begins_at) filter (where "first" is not null) as "first",
        max_by("last", begins_at) filter (where "last" is not null) as "last"
    from centred
    group by market_id, measure
),

final as (
    select
        market_id,
        measure,
        samples,
        1440 as expected,
        case when min = max then min else mean end as mean,
        case when min = max then 0e0 else m2 end as m2,
        min,
        max,
        "first",
        "last"
    from merged
)

select
    market_id,
    measure,
    samples,
    expected,
    mean,
    m2,
    min,
    max,
    "first",
    "last"
from final
