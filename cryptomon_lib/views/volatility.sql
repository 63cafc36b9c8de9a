-- How much each market's price fluctuates: the standard deviation of its hourly returns over 24 h and 7 days.
-- grain: market_id
-- units: percent a day: the deviation of logarithmic returns from close to close of an hour, times the root of 24
-- lookback: 8 d
-- why: a day as volatility_24h has it, and a week in the same way: null with fewer than 84 of 168 returns. What is asked
--      for each minute is of the day, and need not read the week.
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

deviating as (
    select
        later.market_id,
        stddev_samp(ln(later.price / nullif(earlier.price, 0e0))) as deviation_7d,
        count(*) as samples_7d
    from closes as later
    inner join closes as earlier
        on later.market_id = earlier.market_id
        and later.hour_at = earlier.hour_at + interval '1' hour
    group by later.market_id
),

final as (
    select
        deviating.market_id,
        volatility_24h.volatility_24h_pct,
        case when deviating.samples_7d >= 84 then 1e2 * sqrt(24e0) * deviating.deviation_7d end as volatility_7d_pct,
        coalesce(volatility_24h.samples, 0) as samples,
        24 as expected,
        deviating.samples_7d,
        168 as expected_7d
    from deviating
    left join volatility_24h on deviating.market_id = volatility_24h.market_id
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
