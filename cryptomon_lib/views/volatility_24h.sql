-- How much each market's price fluctuates: the standard deviation of its hourly returns over 24 h.
-- grain: market_id
-- units: percent a day: the deviation of logarithmic returns from close to close of an hour, times the root of 24
-- lookback: 26 h
-- why: comparable between all markets. Over closed hours; an hour's close is its last price, if the hour has 45 of its
--      60 samples, and a return stands only between hours that follow each other: none spans a hole. Null with fewer
--      than 12 of 24 returns.
with closes as (
    select
        market_id,
        hour_at,
        "last" as price
    from measures_1h
    where
        measure = 'price'
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '25' hour
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3)))
        and samples >= 45
        and "last" > 0e0
),

deviating as (
    select
        later.market_id,
        stddev_samp(ln(later.price / nullif(earlier.price, 0e0))) as deviation,
        count(*) as samples
    from closes as later
    inner join closes as earlier
        on later.market_id = earlier.market_id
        and later.hour_at = earlier.hour_at + interval '1' hour
    group by later.market_id
),

final as (
    select
        market_id,
        case when samples >= 12 then 1e2 * sqrt(24e0) * deviation end as volatility_24h_pct,
        samples,
        24 as expected
    from deviating
)

select
    market_id,
    volatility_24h_pct,
    samples,
    expected
from final
