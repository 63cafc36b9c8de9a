-- What it costs to cross the market now: best bid and ask, their distance, and its average of the hour before.
-- grain: market_id
-- units: bid and ask in quote currency; spreads in hundredths of a percent of their middle
-- lookback: 24 h
-- why: a price says little of a market that one cannot trade in. A spread older than 10 minutes is left out; the average
--      is null with fewer than 30 of the 60 samples.
with spread_now as (
    select
        market_id,
        at,
        value,
        average_1h,
        ratio_1h,
        samples,
        expected
    from now_1h
    where measure = 'spread_bps'
),

final as (
    select
        spread_now.market_id,
        spread_now.at,
        newest_ticks.bid,
        newest_ticks.ask,
        spread_now.value as spread_bps,
        spread_now.average_1h as average_1h_bps,
        spread_now.ratio_1h,
        spread_now.samples,
        spread_now.expected
    from spread_now
    inner join newest_ticks
        on spread_now.market_id = newest_ticks.market_id
        and spread_now.at = newest_ticks.collected_at
)

select
    market_id,
    at,
    bid,
    ask,
    spread_bps,
    average_1h_bps,
    ratio_1h,
    samples,
    expected
from final
