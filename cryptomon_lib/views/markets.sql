-- Every market that ticked in the last 24 h, with what it is.
-- grain: market_id
-- units: none
-- lookback: 24 h
-- why: the long form of the measures carries ids only; names and kinds are joined from here.
with ticked as (
    select
        market_id,
        source,
        exchange,
        symbol,
        market,
        base,
        quote,
        kind,
        collected_at
    from ticks
    where
        day >= cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour) as varchar)
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour
        and collected_at <= cast(current_timestamp at time zone 'UTC' as timestamp(3))
),

final as (
    select
        market_id,
        max(source) as source,
        max(exchange) as exchange,
        max(symbol) as symbol,
        max(market) as market,
        max(base) as base,
        max(quote) as quote,
        max(kind) as kind,
        min(collected_at) as first_at,
        max(collected_at) as last_at,
        count(*) as samples,
        1440 as expected
    from ticked
    group by market_id
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
