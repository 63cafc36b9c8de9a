-- What was traded in each minute of the last 26 h, where that is known.
-- grain: market_id, at
-- units: volume in base currency; at is the end of the minute
-- lookback: 26 h
-- time: at
-- reach: 2 min
-- why: the volume that exchanges give is a rolling 24 h sum, and its difference is not the minute's volume.
--      A closed candle is; for a minute that has none, the difference of a since-midnight counter is, if both
--      polls are of the same UTC day, at most 90 s apart, and the counter did not fall (late corrections).
with candled as (
    select
        market_id,
        opened_at + interval '60' second as at,
        volume
    from candles
    where
        interval_s = 60
        and day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour) as varchar)
        and opened_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour
        and opened_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '60' second
),

counted as (
    select
        market_id,
        collected_at,
        volume_today,
        lag(volume_today) over (
            partition by market_id, day
            order by collected_at
        ) as volume_before,
        lag(collected_at) over (
            partition by market_id, day
            order by collected_at
        ) as collected_before
    from ticks
    where
        volume_today is not null
        and day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
),

final as (
    select
        market_id,
        at,
        volume,
        'candle' as origin
    from candled

    union all

    select
        counted.market_id,
        counted.collected_at as at,
        counted.volume_today - counted.volume_before as volume,
        'counter' as origin
    from counted
    left join candled
        on counted.market_id = candled.market_id
        and date_trunc('minute', counted.collected_at) = candled.at
    where
        candled.market_id is null
        and counted.volume_today >= counted.volume_before
        and counted.collected_at <= counted.collected_before + interval '90' second
        and counted.collected_at >= counted.collected_before + interval '30' second
)

select
    market_id,
    at,
    volume,
    origin
from final
