-- Open, high, low, close and volume of each hour of the last 30 days.
-- grain: market_id, opened_at
-- units: prices in quote currency, volume in base currency; samples and expected in minutes
-- lookback: 31 d
-- why: an hour of which at least half has candles is made of them; the other hours come from roll-ups of what was polled
--      (origin tick), so that a month of a market that nobody follows costs a row an hour. A roll-up's volume is that of
--      the minutes that ended in the hour. Of the present hour only the minutes that began are expected. Prices are
--      null with fewer than half of the minutes, volume where it is known of fewer than half.
with candled as (
    select
        market_id,
        date_trunc('hour', opened_at) as opened_at,
        opened_at as minute_at,
        open,
        high,
        low,
        close,
        volume
    from candles
    where
        interval_s = 60
        and close is not null
        and day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '31' day) as varchar)
        and opened_at >= date_trunc('day', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '30' day
        and opened_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '60' second
),

traded as (
    select
        market_id,
        opened_at,
        min_by(open, minute_at) filter (where open is not null) as open,
        max(high) as high,
        min(low) as low,
        max_by(close, minute_at) filter (where close is not null) as close,
        sum(volume) as volume,
        count(volume) as volumes,
        count(*) as samples
    from candled
    group by market_id, opened_at
),

covered as (
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
            when opened_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '1' hour
                then cast(floor(date_diff('millisecond', opened_at, cast(current_timestamp at time zone 'UTC' as timestamp(3))) / 6e4) as bigint) + 1
            else 60
        end as expected
    from traded
),

followed as (
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
        expected
    from covered
    where samples * 2 >= expected
),

priced as (
    select
        market_id,
        hour_at,
        "first",
        max,
        min,
        "last",
        samples
    from measures_1h
    where
        measure = 'price'
        and hour_at >= date_trunc('day', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '30' day
),

counted as (
    select
        market_id,
        hour_at,
        mean * samples as volume,
        samples as volumes
    from measures_1h
    where
        measure = 'volume_1m'
        and hour_at >= date_trunc('day', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '30' day
),

polled as (
    select
        priced.market_id,
        priced.hour_at as opened_at,
        priced."first" as open,
        priced.max as high,
        priced.min as low,
        priced."last" as close,
        counted.volume,
        counted.volumes,
        priced.samples
    from priced
    left join followed
        on priced.market_id = followed.market_id
        and priced.hour_at = followed.opened_at
    left join counted
        on priced.market_id = counted.market_id
        and priced.hour_at = counted.hour_at
    where followed.market_id is null
),

either as (
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
        expected,
        'candle' as origin
    from followed

    union all

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
            when opened_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '1' hour
                then cast(floor(date_diff('millisecond', opened_at, cast(current_timestamp at time zone 'UTC' as timestamp(3))) / 6e4) as bigint) + 1
            else 60
        end as expected,
        'tick' as origin
    from polled
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
    from either
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
