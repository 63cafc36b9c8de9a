-- Every measure of the last 26 h in long form, so that what works for one measure works for all.
-- grain: market_id, measure, at
-- units: price in quote currency, volume_1m and volume_24h in base, quote_volume_24h in quote currency,
--        spread_bps in hundredths of a percent of the middle of bid and ask, move_1m_bps of the price a minute before
-- lookback: 26 h
-- time: at
-- reach: 2 min
-- why: a row stands only where there is a value; what is absent is a hole, never a zero. origin says where a value
--      is from: tick, candle or counter. A price that no poll brought is the close of the candle that ended then,
--      marked candle; never beside a tick of that minute, and gone when one comes later. So a followed market has
--      prices over missed polls, over a history that was filled in, and between polls of a slower cadence.
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

candled as (
    select
        market_id,
        opened_at + interval '60' second as at,
        close
    from candles
    where
        interval_s = 60
        and close is not null
        and day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour) as varchar)
        and opened_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour
        and opened_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '60' second
),

followed as (
    select distinct market_id
    from candled
),

polled as (
    select distinct
        recent.market_id,
        date_trunc('minute', recent.at) as minute_at
    from recent
    inner join followed on recent.market_id = followed.market_id
    where recent.price is not null
),

final as (
    select
        market_id,
        'price' as measure,
        at,
        price as value,
        'tick' as origin
    from recent
    where price is not null

    union all

    select
        candled.market_id,
        'price' as measure,
        candled.at,
        candled.close as value,
        'candle' as origin
    from candled
    left join polled
        on candled.market_id = polled.market_id
        and candled.at = polled.minute_at
    where polled.market_id is null

    union all

    select
        market_id,
        'volume_1m' as measure,
        at,
        volume as value,
        origin
    from volume_1m
    where volume is not null

    union all

    select
        market_id,
        'move_1m_bps' as measure,
        at,
        move_bps as value,
        'tick' as origin
    from move_1m
    where move_bps is not null

    union all

    select
        market_id,
        'volume_24h' as measure,
        at,
        volume_24h as value,
        'tick' as origin
    from recent
    where volume_24h is not null

    union all

    select
        market_id,
        'quote_volume_24h' as measure,
        at,
        quote_volume_24h as value,
        'tick' as origin
    from recent
    where quote_volume_24h is not null

    union all

    select
        market_id,
        'spread_bps' as measure,
        at,
        2e4 * (ask - bid) / nullif(ask + bid, 0e0) as value,
        'tick' as origin
    from recent
    where
        ask is not null
        and bid is not null
)

select
    market_id,
    measure,
    at,
    value,
    origin
from final
