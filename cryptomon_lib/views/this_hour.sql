-- The newest value of each market and measure, and what its clock hour had before it.
-- grain: market_id, measure
-- units: value, and total of the values before it, in the measure's unit; samples counts those
-- lookback: 75 min
-- why: what averages of many hours add to the full hours before. The value itself is left out: a burst would hide
--      itself. A value older than 10 minutes is not of now.
with newest as (
    select
        market_id,
        measure,
        max(at) as at
    from measures
    where at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '10' minute
    group by market_id, measure
),

final as (
    select
        newest.market_id,
        newest.measure,
        max(newest.at) as at,
        max(case when measures.at = newest.at then measures.value end) as value,
        coalesce(sum(case when measures.at < newest.at then measures.value end), 0e0) as total,
        count(case when measures.at < newest.at then measures.value end) as samples
    from newest
    inner join measures
        on newest.market_id = measures.market_id
        and newest.measure = measures.measure
        and measures.at >= date_trunc('hour', newest.at)
    where measures.at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '71' minute
    group by newest.market_id, newest.measure
)

select
    market_id,
    measure,
    at,
    value,
    total,
    samples
from final
