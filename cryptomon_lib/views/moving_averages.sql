-- The average of each market's measure over the last hour, 24 h and 7 days, up to now.
-- grain: market_id, measure
-- units: of the measure
-- lookback: 8 d
-- why: a short average that crosses a long one is what people call a change of trend. Unlike average_1h elsewhere, the
--      newest value counts. The 7 days begin at a full hour. Each is null with fewer than half of its samples.
with parts as (
    select
        market_id,
        measure,
        '1h' as part,
        avg(value) as average,
        count(value) as samples
    from measures
    where at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '60' minute
    group by market_id, measure

    union all

    select
        market_id,
        measure,
        '24h' as part,
        mean as average,
        samples
    from measures_24h

    union all

    select
        market_id,
        measure,
        '7d' as part,
        sum(samples * mean) / nullif(sum(samples), 0) as average,
        sum(samples) as samples
    from measures_1h
    where hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '168' hour
    group by market_id, measure
),

final as (
    select
        market_id,
        measure,
        max(case when part = '1h' and samples >= 30 then average end) as moving_average_1h,
        max(case when part = '24h' and samples >= 720 then average end) as moving_average_24h,
        max(case when part = '7d' and samples >= 5040 then average end) as moving_average_7d,
        max(case when part = '1h' then samples else 0 end) as samples_1h,
        60 as expected_1h,
        max(case when part = '24h' then samples else 0 end) as samples,
        1440 as expected,
        max(case when part = '7d' then samples else 0 end) as samples_7d,
        10080 as expected_7d
    from parts
    group by market_id, measure
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
