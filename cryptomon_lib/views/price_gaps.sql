-- How far apart the exchanges price the same pair now.
-- grain: market
-- units: prices in quote currency; gap_bps and crossed_bps in hundredths of a percent of the lower price
-- lookback: 24 h
-- why: both prices are at most 2 minutes old, or the gap is one of time (oldest_at says how old the older is). One price
--      an exchange: its newest, whatever source told it. crossed_bps is the highest bid above the lowest ask,
--      negative where nothing crosses. Pairs with fewer than 2 of their exchanges fresh are left out.
with listed as (
    select
        market,
        count(distinct exchange) as exchanges
    from newest_ticks
    where
        kind = 'spot'
        and market is not null
    group by market
),

fresh as (
    select
        market,
        exchange,
        market_id,
        collected_at,
        price,
        bid,
        ask
    from newest_ticks
    where
        kind = 'spot'
        and market is not null
        and price > 0e0
        and collected_at > cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '2' minute
),

heard as (
    select
        market,
        exchange,
        max(collected_at) as collected_at
    from fresh
    group by market, exchange
),

chosen as (
    select
        fresh.market,
        fresh.exchange,
        min(fresh.market_id) as market_id
    from fresh
    inner join heard
        on fresh.market = heard.market
        and fresh.exchange = heard.exchange
        and fresh.collected_at = heard.collected_at
    group by fresh.market, fresh.exchange
),

quoted as (
    select
        fresh.market,
        fresh.market_id,
        fresh.collected_at,
        fresh.price,
        fresh.bid,
        fresh.ask
    from fresh
    inner join chosen on fresh.market_id = chosen.market_id
),

ends as (
    select
        market,
        min(price) as low_price,
        max(price) as high_price,
        max(bid) as high_bid,
        min(ask) as low_ask,
        min(collected_at) as oldest_at,
        count(*) as samples
    from quoted
    group by market
),

final as (
    select
        ends.market,
        min(case when quoted.price = ends.low_price then quoted.market_id end) as low_market_id,
        max(ends.low_price) as low_price,
        min(case when quoted.price = ends.high_price then quoted.market_id end) as high_market_id,
        max(ends.high_price) as high_price,
        1e4 * (max(ends.high_price) / nullif(max(ends.low_price), 0e0) - 1e0) as gap_bps,
        1e4 * (max(ends.high_bid) / nullif(max(ends.low_ask), 0e0) - 1e0) as crossed_bps,
        max(ends.oldest_at) as oldest_at,
        max(ends.samples) as samples,
        max(listed.exchanges) as expected
    from ends
    inner join quoted on ends.market = quoted.market
    inner join listed on ends.market = listed.market
    where ends.samples >= 2
    group by ends.market
)

select
    market,
    low_market_id,
    low_price,
    high_market_id,
    high_price,
    gap_bps,
    crossed_bps,
    oldest_at,
    samples,
    expected
from final
