-- Spot markets by how far their price rose or fell in 24 h.
-- grain: market_id
-- units: returns in percent; place_rise is 1 for the highest return, place_fall for the lowest, of `places`
-- lookback: 8 d
-- why: the two lists that everybody asks for: where place_rise <= 10, where place_fall <= 10. Markets without a price
--      of now and of 24 h ago are not in them; ties share the better place.
with moved as (
    select
        returns.market_id,
        newest_ticks.exchange,
        newest_ticks.market,
        newest_ticks.symbol,
        newest_ticks.quote,
        returns.at,
        returns.price,
        returns.return_1h_pct,
        returns.return_24h_pct,
        newest_ticks.quote_volume_24h,
        newest_ticks.samples,
        newest_ticks.expected
    from returns
    inner join newest_ticks on returns.market_id = newest_ticks.market_id
    where
        newest_ticks.kind = 'spot'
        and returns.return_24h_pct is not null
),

final as (
    select
        market_id,
        exchange,
        market,
        symbol,
        quote,
        at,
        price,
        return_1h_pct,
        return_24h_pct,
        quote_volume_24h,
        rank() over (order by return_24h_pct desc nulls last) as place_rise,
        rank() over (order by return_24h_pct asc nulls last) as place_fall,
        count(*) over () as places,
        samples,
        expected
    from moved
)

select
    market_id,
    exchange,
    market,
    symbol,
    quote,
    at,
    price,
    return_1h_pct,
    return_24h_pct,
    quote_volume_24h,
    place_rise,
    place_fall,
    places,
    samples,
    expected
from final
