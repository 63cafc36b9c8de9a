-- What was traded in each minute of the last 26 h, where that is known.
-- grain: market_id, at
-- units: volume in base currency; at is the end of the minute
-- lookback: 26 h
-- why: the volume that exchanges give is a rolling 24 h sum, and its difference is not the minute's volume.
--      A closed candle is; where a market has none, the difference of a since-midnight counter is, if both
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
        and opened_at < cast(current_timestamp at time zone 'UTC' as timestamp(3))
),

candled_markets as (
    select market_id
    from candled
    group by market_id
),

counted as (
    select
        ticks.market_id,
        ticks.day,
        ticks.collected_at,
        ticks.volume_today,
        lag(ticks.volume_today) over (
            partition by ticks.market_id, ticks.day
            order by ticks.collected_at
        ) as volume_before,
        lag(ticks.collected_at) over (
            partition by ticks.market_id, ticks.day
            order by ticks.collected_at
        ) as collected_before
    from ticks
    left join candled_markets on ticks.market_id = candled_markets.market_id
    where
        candled_markets.market_id is null
        and ticks.volume_today is not null
        and ticks.day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour) as varchar)
        and ticks.collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '26' hour
        and ticks.collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
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
        market_id,
        collected_at as at,
        volume_today - volume_before as volume,
        'counter' as origin
    from counted
    where
        volume_today >= volume_before
        and collected_at <= collected_before + interval '90' second
        and collected_at >= collected_before + interval '30' second
)

select
    market_id,
    at,
    volume,
    origin
from final
