-- The newest tick of each market within the last 24 h, as it came, and how many ticks there were.
-- grain: market_id
-- units: as ticks
-- lookback: 24 h
-- why: what a market is and says now. Found by its time, not by a window: a window would sort the whole day. Nearly all
--      markets ticked within 10 minutes, so all columns are read of those few files alone, and of the whole day only
--      where a market fell silent.
with seen as (
    select
        market_id,
        min(collected_at) as first_at,
        max(collected_at) as last_at,
        count(*) as samples
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
    group by market_id
),

ticking as (
    select
        market_id,
        last_at,
        first_at,
        samples
    from seen
    where last_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '10' minute
),

silent as (
    select
        market_id,
        last_at,
        first_at,
        samples
    from seen
    where last_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '10' minute
),

final as (
    select
        ticks.market_id,
        ticks.source,
        ticks.exchange,
        ticks.symbol,
        ticks.market,
        ticks.base,
        ticks.quote,
        ticks.kind,
        ticks.collected_at,
        ticks.price,
        ticks.bid,
        ticks.ask,
        ticks.open_24h,
        ticks.high_24h,
        ticks.low_24h,
        ticks.change_24h,
        ticks.change_24h_pct,
        ticks.volume_24h,
        ticks.quote_volume_24h,
        ticks.exchange_at,
        ticking.first_at,
        ticking.samples,
        1440 as expected
    from ticking
    inner join ticks
        on ticking.market_id = ticks.market_id
        and ticking.last_at = ticks.collected_at
    where
        ticks.day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '10' minute) as varchar)
        and ticks.collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '10' minute
        and ticks.collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))

    union all

    select
        ticks.market_id,
        ticks.source,
        ticks.exchange,
        ticks.symbol,
        ticks.market,
        ticks.base,
        ticks.quote,
        ticks.kind,
        ticks.collected_at,
        ticks.price,
        ticks.bid,
        ticks.ask,
        ticks.open_24h,
        ticks.high_24h,
        ticks.low_24h,
        ticks.change_24h,
        ticks.change_24h_pct,
        ticks.volume_24h,
        ticks.quote_volume_24h,
        ticks.exchange_at,
        silent.first_at,
        silent.samples,
        1440 as expected
    from silent
    inner join ticks
        on silent.market_id = ticks.market_id
        and silent.last_at = ticks.collected_at
    where
        ticks.day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and ticks.collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and ticks.collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '10' minute
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
    exchange_at,
    first_at,
    samples,
    expected
from final
