-- How variable each spot market's measure was over the last 24 h, and its place among the others.
-- grain: market_id, measure
-- units: stddev_24h in the measure's unit (sample standard deviation); ranks from 1/n (most variable) to 1;
--        cv_24h is the standard deviation as a multiple of the mean
-- lookback: 26 h
-- why: three markets with deviations of 100, 200 and 300 rank 3/3, 2/3 and 1/3; ties share the better place.
--      Deviations of SHIB and BTC have no common unit: rank_24h_in_quote compares within a quote currency and
--      rank_cv_24h by the coefficient of variation. Null with fewer than 60 of the 1,440 samples.
with measured as (
    select
        market_id,
        measure,
        stddev_samp(value) as deviation,
        avg(value) as average,
        count(value) as samples
    from measures
    where at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
    group by market_id, measure
),

spot as (
    select
        measured.market_id,
        measured.measure,
        markets.quote,
        measured.samples,
        case when measured.samples >= 60 then measured.deviation end as stddev_24h,
        case when measured.samples >= 60 then measured.deviation / nullif(abs(measured.average), 0e0) end as cv_24h
    from measured
    inner join markets on measured.market_id = markets.market_id
    where markets.kind = 'spot'
),

ranked as (
    select
        market_id,
        measure,
        quote,
        samples,
        stddev_24h,
        cv_24h,
        rank() over (partition by measure order by stddev_24h desc nulls last) as place,
        count(stddev_24h) over (partition by measure) as places,
        rank() over (partition by measure, quote order by stddev_24h desc nulls last) as place_in_quote,
        count(stddev_24h) over (partition by measure, quote) as places_in_quote,
        rank() over (partition by measure order by cv_24h desc nulls last) as place_cv,
        count(cv_24h) over (partition by measure) as places_cv
    from spot
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
        1440 as expected
    from ranked
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
