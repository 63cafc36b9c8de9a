-- Open, high, low, close and volume of each 5 minutes of the last 24 h.
-- grain: market_id, opened_at
-- units: prices in quote currency, volume in base currency; samples and expected in minutes
-- lookback: 25 h
-- why: put together from candles_1m, minute by minute. Of the present interval only the minutes that began are
--      expected. Prices are null with fewer than half of the minutes, volume where it is known of fewer than half.
--      origin is candle where all minutes are, tick where none is, else mixed.
with minutes as (
    select
        market_id,
        opened_at as minute_at,
        opened_at - interval '1' minute * mod(extract(minute from opened_at), 5) as opened_at,
        open,
        high,
        low,
        close,
        volume,
        origin
    from candles_1m
),

joined as (
    select
        market_id,
        opened_at,
        min_by(open, minute_at) filter (where open is not null) as open,
        max(high) as high,
        min(low) as low,
        max_by(close, minute_at) filter (where close is not null) as close,
        sum(volume) as volume,
        count(volume) as volumes,
        count(*) as samples,
        min(origin) as first_origin,
        max(origin) as last_origin
    from minutes
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
            when opened_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '5' minute
                then cast(floor(date_diff('millisecond', opened_at, cast(current_timestamp at time zone 'UTC' as timestamp(3))) / 6e4) as bigint) + 1
            else 5
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
