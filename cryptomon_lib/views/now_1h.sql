-- The newest value of each market and measure beside the average of the hour before it.
-- grain: market_id, measure
-- units: value, average_1h and stddev_1h (sample standard deviation) in the measure's unit; ratio_1h is a multiple
-- lookback: 75 min
-- why: the newest rows of trailing_1h, for all markets at once and without a window. A value older than
--      10 minutes is not of now and is left out. Which value is the newest is read of those minutes alone.
with newest as (
    select
        market_id,
        measure,
        max(at) as at
    from measures
    where at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '10' minute
    group by market_id, measure
),

averaged as (
    select
        newest.market_id,
        newest.measure,
        max(newest.at) as at,
        max(case when measures.at = newest.at then measures.value end) as value,
        avg(case when measures.at < newest.at then measures.value end) as average,
        stddev_samp(case when measures.at < newest.at then measures.value end) as deviation,
        count(case when measures.at < newest.at then measures.value end) as samples
    from newest
    inner join measures
        on newest.market_id = measures.market_id
        and newest.measure = measures.measure
        and measures.at >= newest.at - interval '3600' second
    where measures.at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '70' minute
    group by newest.market_id, newest.measure
),

floored as (
    select
        market_id,
        measure,
        at,
        value,
        samples,
        case when samples >= 30 then average end as average_1h,
        case when samples >= 30 then deviation end as stddev_1h
    from averaged
),

final as (
    select
        market_id,
        measure,
        at,
        value,
        average_1h,
        stddev_1h,
        value / nullif(average_1h, 0e0) as ratio_1h,
        samples,
        60 as expected
    from floored
)

select
    market_id,
    measure,
    at,
    value,
    average_1h,
    stddev_1h,
    ratio_1h,
    samples,
    expected
from final
