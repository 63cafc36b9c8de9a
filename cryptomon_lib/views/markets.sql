-- Every market that ticked in the last 24 h, with what it is.
-- grain: market_id
-- units: none
-- lookback: 24 h
-- why: the long form of the measures carries ids only; names and kinds are joined from here.
with final as (
    select
        market_id,
        source,
        exchange,
        symbol,
        market,
        base,
        quote,
        kind,
        first_at,
        collected_at as last_at,
        samples,
        expected
    from newest_ticks
)

select
    market_id,
    source,
    exchange,
    symbol,
    market,
    base,
    quote,
    kind,
    first_at,
    last_at,
    samples,
    expected
from final
