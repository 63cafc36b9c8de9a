-- How much of the last 24 h each source has: minutes with a poll, and of its followed markets price and volume_1m.
-- grain: source, measure
-- units: minutes, for price and volume_1m those of all markets together; share is a fraction
-- lookback: 25 h
-- why: a metric over a day is worth as much as the day is complete. ticks counts polls. A market is followed where
--      it has candles that came live; its minute counts where a tick or a candle has it. filled are those samples that no poll
--      brought when it was due: prices that are a candle's close, volumes of candles that were asked for later.
--      untraded minutes are complete too: the exchange was asked again and nothing was traded. lost ones cannot be
--      had any more.
with polled as (
    select
        source,
        date_trunc('minute', collected_at) as minute_at
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
    group by source, date_trunc('minute', collected_at)
),

candled as (
    select
        market_id,
        source,
        opened_at + interval '60' second as minute_at,
        origin
    from candles
    where
        interval_s = 60
        and day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and opened_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and opened_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '60' second
),

followed as (
    select
        market_id,
        max(source) as source
    from candled
    where coalesce(origin, 'live') <> 'backfill'
    group by market_id
),

-- of each minute once, however many polls it had
measured as (
    select
        followed.source,
        measures.market_id,
        measures.measure,
        date_trunc('minute', measures.at) as minute_at,
        max(measures.origin) as origin
    from measures
    inner join followed on measures.market_id = followed.market_id
    where
        measures.measure in ('price', 'volume_1m')
        and measures.at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
    group by followed.source, measures.market_id, measures.measure, date_trunc('minute', measures.at)
),

counted as (
    select
        measured.source,
        measured.measure,
        count(*) as samples,
        sum(
            case
                when measured.measure = 'price' and measured.origin = 'candle' then 1
                when measured.measure = 'volume_1m' and candled.origin = 'backfill' then 1
                else 0
            end
        ) as filled,
        min(measured.minute_at) as first_at,
        max(measured.minute_at) as last_at
    from measured
    left join candled
        on measured.market_id = candled.market_id
        and measured.minute_at = candled.minute_at
    group by measured.source, measured.measure
),

accounted as (
    select
        source,
        measure,
        sum(untraded) as untraded,
        sum(lost) as lost
    from gaps
    where measure in ('price', 'volume_1m')
    group by source, measure
),

sized as (
    select
        source,
        count(*) as markets
    from followed
    group by source
),

final as (
    select
        source,
        'ticks' as measure,
        1 as markets,
        count(*) as samples,
        0 as filled,
        0 as untraded,
        0 as lost,
        1440 as expected,
        least(1e0, cast(count(*) as double) / 1440e0) as share,
        min(minute_at) as first_at,
        max(minute_at) as last_at
    from polled
    group by source

    union all

    select
        counted.source,
        counted.measure,
        sized.markets,
        counted.samples,
        counted.filled,
        coalesce(accounted.untraded, 0) as untraded,
        coalesce(accounted.lost, 0) as lost,
        1440 * sized.markets as expected,
        least(
            1e0,
            cast(counted.samples + coalesce(accounted.untraded, 0) as double) / nullif(1440e0 * sized.markets, 0e0)
        ) as share,
        counted.first_at,
        counted.last_at
    from counted
    inner join sized on counted.source = sized.source
    left join accounted
        on counted.source = accounted.source
        and counted.measure = accounted.measure
)

select
    source,
    measure,
    markets,
    samples,
    filled,
    untraded,
    lost,
    expected,
    share,
    first_at,
    last_at
from final
