-- The newest value of each market and measure beside the average of the 24 h before it.
-- grain: market_id, measure
-- units: value and average_24h in the measure's unit; ratio_24h is a multiple
-- lookback: 26 h
-- why: "a metric exceeds 3x its average over the last day", from 24 roll-ups a market and what its hour had so far:
--      the average begins at a full hour, so it is of 24 h and up to one more. The value itself is not in it. Null
--      with fewer than half of the 1,440 samples of 24 h.
with hours as (
    select
        market_id,
        measure,
        hour_at,
        samples,
        mean
    from measures_1h
    where hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '25' hour
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
        and hours.hour_at >= date_trunc('hour', this_hour.at) - interval '24' hour
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
        case when samples >= 720 then total / nullif(samples, 0) end as average_24h
    from together
),

final as (
    select
        market_id,
        measure,
        at,
        value,
        average_24h,
        value / nullif(average_24h, 0e0) as ratio_24h,
        samples,
        1440 + extract(minute from at) as expected
    from averaged
)

select
    market_id,
    measure,
    at,
    value,
    average_24h,
    ratio_24h,
    samples,
    expected
from final
