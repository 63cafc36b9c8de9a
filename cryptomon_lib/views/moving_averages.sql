-- The average of each market's measure over the last hour, 24 h and 7 days, up to now.
-- grain: market_id, measure
-- units: of the measure
-- lookback: 8 d
-- why: a short average that crosses a long one is what people call a change of trend. Unlike average_1h elsewhere, the
--      newest value counts. The 7 days begin at a full hour. Each is null with fewer than half of its samples.
with hour_long as (
    select
        market_id,
        measure,
        avg(value) as average,
        count(value) as samples
    from measures
    where at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '60' minute
    group by market_id, measure
),

week_long as (
    select
        market_id,
        measure,
        sum(samples * mean) / nullif(sum(samples), 0) as average,
        sum(samples) as samples
    from measures_1h
    where hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '168' hour
    group by market_id, measure
),

final as (
    select
        week_long.market_id,
        week_long.measure,
        case when hour_long.samples >= 30 then hour_long.average end as moving_average_1h,
        case when measures_24h.samples >= 720 then measures_24h.mean end as moving_average_24h,
        case when week_long.samples >= 5040 then week_long.average end as moving_average_7d,
        coalesce(hour_long.samples, 0) as samples_1h,
        60 as expected_1h,
        coalesce(measures_24h.samples, 0) as samples,
        1440 as expected,
        week_long.samples as samples_7d,
        10080 as expected_7d
    from week_long
    left join measures_24h
        on week_long.market_id = measures_24h.market_id
        and week_long.measure = measures_24h.measure
    left join hour_long
        on week_long.market_id = hour_long.market_id
        and week_long.measure = hour_long.measure
)

select
    market_id,
    measure,
    moving_average_1h,
    moving_average_24h,
    moving_average_7d,
    samples_1h,
    expected_1h,
    samples,
    expected,
    samples_7d,
    expected_7d
from final
