-- How old each source's newest tick is, and its newest candle.
-- grain: source
-- units: age_s and candle_age_s in seconds; a candle is as old as its end
-- lookback: 26 h
-- why: a number is to be believed only as far as its age is known. A source without candles has null there. Closed
--      hours tell their last tick of each market (ticks_1h); read are only the ticks that are not rolled up yet.
with told as (
    select
        source,
        collected_at
    from ticks_1h
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '25' hour) as varchar)
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '24' hour
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3)))

    union all

    select
        source,
        collected_at
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at >= (select rolled_until from rolled_ticks)
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
),

ticked as (
    select
        source,
        max(collected_at) as collected_at
    from told
    where collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
    group by source
),

candled as (
    select
        source,
        max(opened_at) + interval '60' second as candle_at
    from candles
    where
        interval_s = 60
        and day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and opened_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and opened_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '60' second
    group by source
),

final as (
    select
        ticked.source,
        ticked.collected_at,
        date_diff('millisecond', ticked.collected_at, cast(current_timestamp at time zone 'UTC' as timestamp(3))) / 1e3 as age_s,
        candled.candle_at,
        date_diff('millisecond', candled.candle_at, cast(current_timestamp at time zone 'UTC' as timestamp(3))) / 1e3 as candle_age_s
    from ticked
    left join candled on ticked.source = candled.source
)

select
    source,
    collected_at,
    age_s,
    candle_at,
    candle_age_s
from final
