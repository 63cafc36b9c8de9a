-- How much each market's price fluctuates: the standard deviation of its hourly returns over 24 h and 7 days.
-- grain: market_id
-- units: percent a day: the deviation of logarithmic returns from close to close of an hour, times the root of 24
-- lookback: 8 d
-- why: comparable between all markets, and between a day and a week. Over closed hours; an hour's close is its last
--      price, if the hour has 45 of its 60 samples, and a return stands only between hours that follow each other: none
--      spans a hole. Null with fewer than 12 of 24 returns, 84 of 168.
with closes as (
    select
        market_id,
        hour_at,
        "last" as price
    from measures_1h
    where
        measure = 'price'
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '169' hour
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3)))
        and samples >= 45
        and "last" > 0e0
),

moved as (
    select
        later.market_id,
        later.hour_at,
        ln(later.price / nullif(earlier.price, 0e0)) as log_return,
        case
            when later.hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '24' hour
                then ln(later.price / nullif(earlier.price, 0e0))
        end as log_return_24h
    from closes as later
    inner join closes as earlier
        on later.market_id = earlier.market_id
        and later.hour_at = earlier.hour_at + interval '1' hour
),

deviating as (
    select
        market_id,
        stddev_samp(log_return_24h) as deviation_24h,
        stddev_samp(log_return) as deviation_7d,
        count(log_return_24h) as samples,
        count(log_return) as samples_7d
    from moved
    group by market_id
),

final as (
    select
        market_id,
        case when samples >= 12 then 1e2 * sqrt(24e0) * deviation_24h end as volatility_24h_pct,
        case when samples_7d >= 84 then 1e2 * sqrt(24e0) * deviation_7d end as volatility_7d_pct,
        samples,
        24 as expected,
        samples_7d,
        168 as expected_7d
    from deviating
)

select
    market_id,
    volatility_24h_pct,
    volatility_7d_pct,
    samples,
    expected,
    samples_7d,
    expected_7d
from final
