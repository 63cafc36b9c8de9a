-- The newest value of each market and measure beside the average of the 7 days before it.
-- grain: market_id, measure
-- units: value and average_7d in the measure's unit; ratio_7d is a multiple
-- lookback: 8 d
-- why: "a metric exceeds 3x its average over the last week", from 168 roll-ups a market and what its hour had so far:
--      the average begins at a full hour, so it is of 168 h and up to one more. The value itself is not in it. Null
--      with fewer than half of the 10,080 samples of 168 h.
with hours as (
    select
        market_id,
        measure,
        hour_at,
        samples,
        mean
    from measures_1h
    where hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '169' hour
),

summed as (
    select
        this_hour.market_id,
        this_hour.measure,
        sum(hours.samples * hours.mean) as total,
        sum(hours.samples) as samples
    from this_hour
    inner join hours
        on this_hour.market_id = hours.market_id
        and this_hour.measure = hours.measure
        and hours.hour_at >= date_trunc('hour', this_hour.at) - interval '168' hour
        and hours.hour_at < date_trunc('hour', this_hour.at)
    group by this_hour.market_id, this_hour.measure
),

together as (
    select
        this_hour.market_id,
        this_hour.measure,
        this_hour.at,
        this_hour.value,
        this_hour.total + coalesce(summed.total, 0e0) as total,
        this_hour.samples + cast(coalesce(summed.samples, 0) as bigint) as samples
    from this_hour
    left join summed
        on this_hour.market_id = summed.market_id
        and this_hour.measure = summed.measure
),

averaged as (
    select
        market_id,
        measure,
        at,
        value,
        samples,
        case when samples >= 5040 then total / nullif(samples, 0) end as average_7d
    from together
),

final as (
    select
        market_id,
        measure,
        at,
        value,
        average_7d,
        value / nullif(average_7d, 0e0) as ratio_7d,
        samples,
        10080 + extract(minute from at) as expected
    from averaged
)

select
    market_id,
    measure,
    at,
    value,
    average_7d,
    ratio_7d,
    samples,
    expected
from final
