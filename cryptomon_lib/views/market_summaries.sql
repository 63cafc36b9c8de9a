-- Ticks under the column names of the first system, row for row.
-- grain: market, asset, source, created_at
-- units: prices in quote currency; volume in base, volumequote in quote currency; percentage in percent
-- time: created_at
-- why: queries written against the first system go on working. There, market is the exchange and asset the
--      pair; created_at is when the answer arrived.
with final as (
    select
        price as price_last,
        high_24h as price_high,
        low_24h as price_low,
        change_24h_pct as price_change_percentage,
        change_24h as price_change_absolute,
        volume_24h as volume,
        quote_volume_24h as volumequote,
        exchange as market,
        symbol as asset,
        collected_at as created_at,
        source,
        day
    from ticks
)

select
    price_last,
    price_high,
    price_low,
    price_change_percentage,
    price_change_absolute,
    volume,
    volumequote,
    market,
    asset,
    created_at,
    source,
    day
from final
