-- The newest tick of each market within the last 24 h, as it came, and how many ticks there were.
-- grain: market_id
-- units: as ticks
-- lookback: 24 h
-- why: what a market is and says now. Found by its time, not by a window: a window would sort the whole day. Closed
--      hours are told by ticks_1h; counted are the hour that the window begins in and what is not rolled up yet. Nearly
--      all markets ticked within 10 minutes, so all columns are read of those few files alone, and of the rest of the
--      day only where a market fell silent.
with counted as (
    select
        market_id,
        first_at,
        collected_at as last_at,
        samples
    from ticks_1h
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '23' hour
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3)))

    union all

    select
        market_id,
        min(collected_at) as first_at,
        max(collected_at) as last_at,
        count(*) as samples
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and day <= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '23' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '23' hour
    group by market_id

    union all

    select
        market_id,
        min(collected_at) as first_at,
        max(collected_at) as last_at,
        count(*) as samples
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and collected_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '23' hour
        and collected_at >= (select rolled_until from rolled_ticks)
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
    group by market_id
),

seen as (
    select
        market_id,
        min(first_at) as first_at,
        max(last_at) as last_at,
        cast(sum(samples) as bigint) as samples
    from counted
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

earlier as (
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
    from ticks_1h
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '23' hour
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3)))

    union all

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
        and day <= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '23' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '23' hour

    union all

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
        and collected_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '23' hour
        and collected_at >= (select rolled_until from rolled_ticks)
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '10' minute
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
        earlier.market_id,
        earlier.source,
        earlier.exchange,
        earlier.symbol,
        earlier.market,
        earlier.base,
        earlier.quote,
        earlier.kind,
        earlier.collected_at,
        earlier.price,
        earlier.bid,
        earlier.ask,
        earlier.open_24h,
        earlier.high_24h,
        earlier.low_24h,
        earlier.change_24h,
        earlier.change_24h_pct,
        earlier.volume_24h,
        earlier.quote_volume_24h,
        earlier.exchange_at,
        silent.first_at,
        silent.samples,
        1440 as expected
    from silent
    inner join earlier
        on silent.market_id = earlier.market_id
        and silent.last_at = earlier.collected_at
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
