-- Every measure of the last 26 h in long form, so that what works for one measure works for all.
-- grain: market_id, measure, at
-- units: price in quote currency, volume_1m and volume_24h in base, quote_volume_24h in quote currency,
--        spread_bps in hundredths of a percent of the middle of bid and ask
-- lookback: 26 h
-- time: at
-- why: a row stands only where there is a value; what is absent is a hole, never a zero.
with recent as (
    select
        market_id,
        collected_at as at,
        price,
        bid,
        ask,
        volume_24h,
        quote_volume_24h
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
),

final as (
    select
        market_id,
        'price' as measure,
        at,
        price as value
    from recent
    where price is not null

    union all

    select
        market_id,
        'volume_1m' as measure,
        at,
        volume as value
    from volume_1m
    where volume is not null

    union all

    select
        market_id,
        'volume_24h' as measure,
        at,
        volume_24h as value
    from recent
    where volume_24h is not null

    union all

    select
        market_id,
        'quote_volume_24h' as measure,
        at,
        quote_volume_24h as value
    from recent
    where quote_volume_24h is not null

    union all

    select
        market_id,
        'spread_bps' as measure,
        at,
        2e4 * (ask - bid) / nullif(ask + bid, 0e0) as value
    from recent
    where
        ask is not null
        and bid is not null
)

select
    market_id,
    measure,
    at,
    value
from final
