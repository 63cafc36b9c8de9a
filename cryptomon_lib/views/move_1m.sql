-- How far each market's price moved within each minute of the last 26 h, up or down.
-- grain: market_id, at
-- units: move_bps in hundredths of a percent of the price before, never negative; at is the end of the minute
-- lookback: 26 h
-- time: at
-- reach: 2 min
-- why: "three times its average" makes no sense of a price, which hardly leaves its average; it does of its moves.
--      Two ticks are a minute apart if 30 to 90 s lie between them; over a hole there is no move.
with ticked as (
    select
        market_id,
        collected_at as at,
        price,
        lag(price) over (
            partition by market_id
            order by collected_at
        ) as price_before,
        lag(collected_at) over (
            partition by market_id
            order by collected_at
        ) as at_before
    from ticks
    where
        price is not null
        and day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
),

final as (
    select
        market_id,
        at,
        1e4 * abs(price / nullif(price_before, 0e0) - 1e0) as move_bps
    from ticked
    where
        at <= at_before + interval '90' second
        and at >= at_before + interval '30' second
)

select
    market_id,
    at,
    move_bps
from final
