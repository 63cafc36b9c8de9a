-- Runs of minutes of the last 24 h that are missing: polls of a source, price and volume of a followed market.
-- grain: subject, measure, from_at
-- units: minutes; from_at and to_at are the first and the last missing minute, each named by its end
-- lookback: 24 h
-- why: what is not looked for is not found. A market is followed where it has candles that came live, and its minute is there when
--      a tick or a candle has it. Of a run's minutes, untraded are those that the exchange was asked for again and
--      had no trade in, lost those that cannot be had any more (both as the table holes says), open the rest. The
--      last 4 minutes are left out: the next poll may still bring them. A run begins after a minute that is there:
--      what is before the first one is not known to be missing.
with polled as (
    select
        source as subject,
        source,
        'ticks' as measure,
        date_trunc('minute', collected_at) as minute_at
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
    group by source, date_trunc('minute', collected_at)
),

followed as (
    select
        market_id,
        max(source) as source
    from candles
    where
        interval_s = 60
        and coalesce(origin, 'live') <> 'backfill'
        and day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and opened_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and opened_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '60' second
    group by market_id
),

measured as (
    select
        measures.market_id as subject,
        followed.source,
        measures.measure,
        date_trunc('minute', measures.at) as minute_at
    from measures
    inner join followed on measures.market_id = followed.market_id
    where
        measures.measure in ('price', 'volume_1m')
        and measures.at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
    group by measures.market_id, followed.source, measures.measure, date_trunc('minute', measures.at)
),

present as (
    select
        subject,
        source,
        measure,
        minute_at
    from polled

    union all

    select
        subject,
        source,
        measure,
        minute_at
    from measured
),

bounded as (
    select
        subject,
        source,
        measure,
        minute_at
    from present
    where
        minute_at < date_trunc('minute', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '4' minute

    union all

    select
        subject,
        source,
        measure,
        date_trunc('minute', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '4' minute as minute_at
    from present
    group by subject, source, measure
),

spaced as (
    select
        subject,
        source,
        measure,
        minute_at,
        lag(minute_at) over (
            partition by subject, measure
            order by minute_at
        ) as minute_before
    from bounded
),

runs as (
    select
        subject,
        source,
        measure,
        minute_before + interval '1' minute as from_at,
        minute_at - interval '1' minute as to_at,
        date_diff('minute', minute_before, minute_at) - 1 as minutes
    from spaced
    where minute_at > minute_before + interval '1' minute
),

told as (
    select
        runs.subject,
        runs.measure,
        runs.from_at,
        holes.state,
        date_diff('minute', greatest(runs.from_at, holes.from_at), least(runs.to_at, holes.to_at)) + 1 as minutes
    from runs
    inner join holes
        on runs.subject = holes.subject
        and runs.measure = holes.measure
        and runs.from_at <= holes.to_at
        and runs.to_at >= holes.from_at
    where holes.state <> 'open'
),

accounted as (
    select
        subject,
        measure,
        from_at,
        sum(case when state = 'filled' then minutes else 0 end) as untraded,
        sum(case when state = 'unfillable' then minutes else 0 end) as lost
    from told
    group by subject, measure, from_at
),

final as (
    select
        runs.subject,
        runs.source,
        runs.measure,
        runs.from_at,
        runs.to_at,
        runs.minutes,
        coalesce(accounted.untraded, 0) as untraded,
        coalesce(accounted.lost, 0) as lost,
        runs.minutes - coalesce(accounted.untraded, 0) - coalesce(accounted.lost, 0) as open
    from runs
    left join accounted
        on runs.subject = accounted.subject
        and runs.measure = accounted.measure
        and runs.from_at = accounted.from_at
)

select
    subject,
    source,
    measure,
    from_at,
    to_at,
    minutes,
    untraded,
    lost,
    open
from final
