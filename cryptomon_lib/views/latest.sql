-- The newest tick of each market within the last 24 h.
-- grain: market_id
-- units: prices in quote currency; volume_24h in base currency; age_s in seconds
-- lookback: 24 h
-- why: what a table of prices shows. Found by its time, not by a window: a window would sort the whole day.
with ticked as (
    select
        market_id,
        source,
        exchange,
        symbol,
        market,
        base,
        quote,
        kind,
        collected_at,
        price,
        bid,
        ask,
        open_24h,
        high_24h,
        low_24h,
        change_24h,
        change_24h_pct,
        volume_24h,
        quote_volume_24h,
        exchange_at
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
),

newest as (
    select
        market_id,
        max(collected_at) as collected_at
    from ticked
    group by market_id
),

final as (
    select
        ticked.market_id,
        ticked.source,
        ticked.exchange,
        ticked.symbol,
        ticked.market,
        ticked.base,
        ticked.quote,
        ticked.kind,
        ticked.collected_at,
        ticked.price,
        ticked.bid,
        ticked.ask,
        ticked.open_24h,
        ticked.high_24h,
        ticked.low_24h,
        ticked.change_24h,
        ticked.change_24h_pct,
        ticked.volume_24h,
        ticked.quote_volume_24h,
        ticked.exchange_at
    from newest
    inner join ticked
        on newest.market_id = ticked.market_id
        and newest.collected_at = ticked.collected_at
)

select
    market_id,
    source,
    exchange,
    symbol,
    market,
    base,
    quote,
    kind,
    collected_at,
    price,
    bid,
    ask,
    open_24h,
    high_24h,
    low_24h,
    change_24h,
    change_24h_pct,
    volume_24h,
    quote_volume_24h,
    exchange_at
from final
