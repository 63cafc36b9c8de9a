-- Open, high, low, close and volume of each UTC day, 30 days back and today.
-- grain: market_id, opened_at
-- units: prices in quote currency, volume in base currency; samples and expected in minutes
-- lookback: 31 d
-- why: put together from the hours of candles_1h that have prices, and so from candles or from roll-ups. Of today only
--      the minutes that began are expected. Prices are null with fewer than half of the minutes, volume where it is
--      known of fewer than half of the hours' minutes. origin is candle or tick where all hours are, else mixed.
with hours as (
    select
        market_id,
        date_trunc('day', opened_at) as opened_at,
        opened_at as hour_at,
        open,
        high,
        low,
        close,
        volume,
        samples,
        case when volume is not null then samples else 0 end as volumes,
        origin
    from candles_1h
    where close is not null
),

joined as (
    select
        market_id,
        opened_at,
        min_by(open, hour_at) filter (where open is not null) as open,
        max(high) as high,
        min(low) as low,
        max_by(close, hour_at) filter (where close is not null) as close,
        sum(volume) as volume,
        sum(volumes) as volumes,
        sum(samples) as samples,
        min(origin) as first_origin,
        max(origin) as last_origin
    from hours
    group by market_id, opened_at
),

expecting as (
    select
        market_id,
        opened_at,
        open,
        high,
        low,
        close,
        volume,
        volumes,
        samples,
        case
            when opened_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '1' day
                then cast(floor(date_diff('millisecond', opened_at, cast(current_timestamp at time zone 'UTC' as timestamp(3))) / 6e4) as bigint) + 1
            else 1440
        end as expected,
        case when first_origin = last_origin then first_origin else 'mixed' end as origin
    from joined
),

final as (
    select
        market_id,
        opened_at,
        case when samples * 2 >= expected then open end as open,
        case when samples * 2 >= expected then high end as high,
        case when samples * 2 >= expected then low end as low,
        case when samples * 2 >= expected then close end as close,
        case when volumes * 2 >= expected then volume end as volume,
        samples,
        expected,
        origin
    from expecting
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
