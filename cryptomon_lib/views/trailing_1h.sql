-- Each value of the last 24 h beside the average of the hour before it.
-- grain: market_id, measure, at
-- units: value and average_1h in the measure's unit; ratio_1h is a multiple
-- lookback: 26 h
-- time: at
-- reach: 1 h
-- why: "a metric exceeds 3x its average over the last hour". The point itself is not in its average: a burst
--      would hide itself. The frame is a range of time, not of rows: over a hole a number of rows would reach
--      further back. Null with fewer than 30 of the 60 samples.
with windowed as (
    select
        market_id,
        measure,
        at,
        value,
        avg(value) over (
            partition by market_id, measure
            order by at
            range between interval '3600' second preceding and interval '0.001' second preceding
        ) as average,
        count(value) over (
            partition by market_id, measure
            order by at
            range between interval '3600' second preceding and interval '0.001' second preceding
        ) as samples
    from measures
    where at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '25' hour
),

floored as (
    select
        market_id,
        measure,
        at,
        value,
        samples,
        case when samples >= 30 then average end as average_1h
    from windowed
),

final as (
    select
        market_id,
        measure,
        at,
        value,
        average_1h,
        value / nullif(average_1h, 0e0) as ratio_1h,
        samples,
        60 as expected
    from floored
    where at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
)

select
    market_id,
    measure,
    at,
    value,
    average_1h,
    ratio_1h,
    samples,
    expected
from final
