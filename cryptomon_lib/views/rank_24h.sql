-- How variable each spot market's measure was over the last 24 h, and its place among the others.
-- grain: market_id, measure
-- units: stddev_24h in the measure's unit (sample standard deviation); ranks from 1/n (most variable) to 1;
--        cv_24h is the standard deviation as a multiple of the mean
-- lookback: 26 h
-- why: three markets with deviations of 100, 200 and 300 rank 3/3, 2/3 and 1/3; ties share the better place.
--      Deviations of SHIB and BTC have no common unit: rank_24h_in_quote compares within a quote currency and
--      rank_cv_24h by the coefficient of variation, to 12 decimals: equal ones tie whichever engine adds up. Null
--      with fewer than 60 of the 1,440 samples. What a market is never changes, so any tick of the day says it.
with told as (
    select
        market_id,
        kind,
        quote
    from ticks_1h
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '24' hour
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3)))

    union all

    select
        market_id,
        kind,
        quote
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at >= (select rolled_until from rolled_ticks)
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
),

traded as (
    select
        market_id,
        max(kind) as kind,
        max(quote) as quote
    from told
    group by market_id
),

measured as (
    select
        measures_24h.market_id,
        measures_24h.measure,
        traded.kind,
        traded.quote,
        measures_24h.mean,
        measures_24h.samples,
        measures_24h.expected,
        case
            when traded.kind = 'spot' and measures_24h.samples >= 60
                then sqrt(measures_24h.m2 / nullif(measures_24h.samples - 1, 0))
        end as stddev_24h
    from measures_24h
    inner join traded on measures_24h.market_id = traded.market_id
),

varied as (
    select
        market_id,
        measure,
        kind,
        quote,
        samples,
        expected,
        stddev_24h,
        stddev_24h / nullif(abs(mean), 0e0) as cv_24h
    from measured
),

ranked as (
    select
        market_id,
        measure,
        kind,
        quote,
        samples,
        expected,
        stddev_24h,
        cv_24h,
        rank() over (partition by measure order by stddev_24h desc nulls last) as place,
        count(stddev_24h) over (partition by measure) as places,
        rank() over (partition by measure, quote order by stddev_24h desc nulls last) as place_in_quote,
        count(stddev_24h) over (partition by measure, quote) as places_in_quote,
        rank() over (partition by measure order by round(cv_24h * 1e12) desc nulls last) as place_cv,
        count(cv_24h) over (partition by measure) as places_cv
    from varied
),

final as (
    select
        market_id,
        measure,
        stddev_24h,
        case when stddev_24h is not null then cast(place as double) / nullif(places, 0) end as rank_24h,
        case
            when stddev_24h is not null and quote is not null
                then cast(place_in_quote as double) / nullif(places_in_quote, 0)
        end as rank_24h_in_quote,
        cv_24h,
        case when cv_24h is not null then cast(place_cv as double) / nullif(places_cv, 0) end as rank_cv_24h,
        place,
        places,
        samples,
        expected
    from ranked
    where kind = 'spot'
)

select
    market_id,
    measure,
    stddev_24h,
    rank_24h,
    rank_24h_in_quote,
    cv_24h,
    rank_cv_24h,
    place,
    places,
    samples,
    expected
from final
