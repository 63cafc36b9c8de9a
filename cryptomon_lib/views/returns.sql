-- How far each market's price moved in 1 h, 24 h and 7 days.
-- grain: market_id
-- units: prices in quote currency; returns in percent
-- lookback: 8 d
-- why: the price at a moment is the newest one that was then at most 10 minutes old; where there is none, the return is
--      null, and samples says how many of the 3 earlier prices there are. The price of 7 days ago is the last one of
--      the hour that ended then (7 days before the present hour began), out of roll-ups, if that hour has 45 of its
--      60 samples: finding the minute would mean to read a day of all markets.
with priced_now as (
    select
        market_id,
        max(at) as at,
        max_by(value, at) filter (where value is not null) as price
    from measures
    where
        measure = 'price'
        and at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '10' minute
    group by market_id
),

priced_1h as (
    select
        market_id,
        max_by(value, at) filter (where value is not null) as price
    from measures
    where
        measure = 'price'
        and at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '70' minute
        and at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '60' minute
    group by market_id
),

priced_24h as (
    select
        market_id,
        max_by(value, at) filter (where value is not null) as price
    from measures
    where
        measure = 'price'
        and at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '1450' minute
        and at <= cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '1440' minute
    group by market_id
),

priced_7d as (
    select
        market_id,
        "last" as price
    from measures_1h
    where
        measure = 'price'
        and hour_at >= date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '169' hour
        and hour_at < date_trunc('hour', cast(current_timestamp at time zone 'UTC' as timestamp(3))) - interval '168' hour
        and samples >= 45
),

final as (
    select
        priced_now.market_id,
        priced_now.at,
        priced_now.price,
        priced_1h.price as price_1h,
        priced_24h.price as price_24h,
        priced_7d.price as price_7d,
        1e2 * (priced_now.price / nullif(priced_1h.price, 0e0) - 1e0) as return_1h_pct,
        1e2 * (priced_now.price / nullif(priced_24h.price, 0e0) - 1e0) as return_24h_pct,
        1e2 * (priced_now.price / nullif(priced_7d.price, 0e0) - 1e0) as return_7d_pct,
        case when priced_1h.price is not null then 1 else 0 end
        + case when priced_24h.price is not null then 1 else 0 end
        + case when priced_7d.price is not null then 1 else 0 end as samples,
        3 as expected
    from priced_now
    left join priced_1h on priced_now.market_id = priced_1h.market_id
    left join priced_24h on priced_now.market_id = priced_24h.market_id
    left join priced_7d on priced_now.market_id = priced_7d.market_id
)

select
    market_id,
    at,
    price,
    price_1h,
    price_24h,
    price_7d,
    return_1h_pct,
    return_24h_pct,
    return_7d_pct,
    samples,
    expected
from final
