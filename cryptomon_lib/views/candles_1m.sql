-- Open, high, low, close and volume of each minute of the last 24 h, as far as they are known.
-- grain: market_id, opened_at
-- units: prices in quote currency, volume in base currency; samples and expected in minutes
-- lookback: 25 h
-- why: a closed candle is what traded; in a minute without one, the ticks polled in it stand for it (origin tick): its
--      high and low are of what was seen, and its volume is known where the exchange counts since midnight. A minute
--      without either is no row. The present minute is there as far as it is.
with candled as (
    select
        market_id,
        opened_at,
        open,
        high,
        low,
        close,
        volume
    from candles
    where
        interval_s = 60
        and close is not null
        and day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '25' hour) as varchar)
        and opened_at >= date_trunc('minute', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '1440' minute
        and opened_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '60' second
),

priced as (
    select
        market_id,
        date_trunc('minute', collected_at) as opened_at,
        collected_at,
        price
    from ticks
    where
        price is not null
        and day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '25' hour) as varchar)
        and collected_at >= date_trunc('minute', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '1440' minute
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
),

polled as (
    select
        market_id,
        opened_at,
        min_by(price, collected_at) filter (where price is not null) as open,
        max(price) as high,
        min(price) as low,
        max_by(price, collected_at) filter (where price is not null) as close
    from priced
    group by market_id, opened_at
),

counted as (
    select
        market_id,
        date_trunc('minute', at) - interval '60' second as opened_at,
        sum(volume) as volume
    from volume_1m
    where
        origin = 'counter'
        and at >= date_trunc('minute', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '1440' minute
    group by market_id, date_trunc('minute', at)
),

final as (
    select
        market_id,
        opened_at,
        open,
        high,
        low,
        close,
        volume,
        1 as samples,
        1 as expected,
        'candle' as origin
    from candled

    union all

    select
        polled.market_id,
        polled.opened_at,
        polled.open,
        polled.high,
        polled.low,
        polled.close,
        counted.volume,
        1 as samples,
        1 as expected,
        'tick' as origin
    from polled
    left join candled
        on polled.market_id = candled.market_id
        and polled.opened_at = candled.opened_at
    left join counted
        on polled.market_id = counted.market_id
        and polled.opened_at = counted.opened_at
    where candled.market_id is null
)

select
    market_id,
    opened_at,
    open,
    high,
    low,
    close,
    volume,
    samples,
    expected,
    origin
from final
