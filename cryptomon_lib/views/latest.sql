-- One row per market: its newest tick of the last 24 h, and every metric of now.
-- grain: market_id
-- units: prices, averages and stddev_24h in quote currency; volumes in base currency, quote_volume_24h in quote currency;
--        _pct in percent, _bps in hundredths of a percent, volatility_24h_pct in percent a day; ratios are multiples,
--        zscore_1h in standard deviations, ranks from 1/n to 1
-- lookback: 8 d
-- why: what a table of markets, an alert or a program asks for, computed once a tick and kept in the table of this name.
--      Each metric is of the view that owns it, of the price unless its name says otherwise, and null where that view
--      has none. samples counts the market's ticks of 24 h, samples_1h those of the hour before the newest price.
with priced as (
    select
        market_id,
        average_1h,
        ratio_1h,
        (value - average_1h) / nullif(stddev_1h, 0e0) as zscore_1h,
        samples
    from now_1h
    where measure = 'price'
),

traded as (
    select
        market_id,
        value,
        average_1h,
        ratio_1h
    from now_1h
    where measure = 'volume_1m'
),

moving as (
    select
        market_id,
        moving_average_1h,
        moving_average_24h,
        moving_average_7d
    from moving_averages
    where measure = 'price'
),

ranked as (
    select
        market_id,
        stddev_24h,
        rank_24h,
        rank_24h_in_quote,
        cv_24h,
        rank_cv_24h
    from rank_24h
    where measure = 'price'
),

final as (
    select
        newest_ticks.market_id,
        newest_ticks.source,
        newest_ticks.exchange,
        newest_ticks.symbol,
        newest_ticks.market,
        newest_ticks.base,
        newest_ticks.quote,
        newest_ticks.kind,
        newest_ticks.collected_at,
        newest_ticks.price,
        newest_ticks.bid,
        newest_ticks.ask,
        newest_ticks.open_24h,
        newest_ticks.high_24h,
        newest_ticks.low_24h,
        newest_ticks.change_24h,
        newest_ticks.change_24h_pct,
        newest_ticks.volume_24h,
        newest_ticks.quote_volume_24h,
        newest_ticks.exchange_at,
        2e4 * (newest_ticks.ask - newest_ticks.bid) / nullif(newest_ticks.ask + newest_ticks.bid, 0e0) as spread_bps,
        traded.value as volume_1m,
        priced.average_1h as average_1h_price,
        priced.ratio_1h as ratio_1h_price,
        traded.average_1h as average_1h_volume_1m,
        traded.ratio_1h as ratio_1h_volume_1m,
        priced.zscore_1h,
        returns.return_1h_pct,
        returns.return_24h_pct,
        returns.return_7d_pct,
        volatility_24h.volatility_24h_pct,
        moving.moving_average_1h,
        moving.moving_average_24h,
        moving.moving_average_7d,
        ranked.stddev_24h,
        ranked.rank_24h,
        ranked.rank_24h_in_quote,
        ranked.cv_24h,
        ranked.rank_cv_24h,
        coalesce(priced.samples, 0) as samples_1h,
        60 as expected_1h,
        newest_ticks.samples,
        newest_ticks.expected
    from newest_ticks
    left join priced on newest_ticks.market_id = priced.market_id
    left join traded on newest_ticks.market_id = traded.market_id
    left join returns on newest_ticks.market_id = returns.market_id
    left join volatility_24h on newest_ticks.market_id = volatility_24h.market_id
    left join moving on newest_ticks.market_id = moving.market_id
    left join ranked on newest_ticks.market_id = ranked.market_id
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
    collected_at,
    price,
    bid,
    ask,
    open_24h,
    high_24h,
    low_24h,
    change_24h,
    change_24h_pct,
    volume_24h,
    quote_volume_24h,
    exchange_at,
    spread_bps,
    volume_1m,
    average_1h_price,
    ratio_1h_price,
    average_1h_volume_1m,
    ratio_1h_volume_1m,
    zscore_1h,
    return_1h_pct,
    return_24h_pct,
    return_7d_pct,
    volatility_24h_pct,
    moving_average_1h,
    moving_average_24h,
    moving_average_7d,
    stddev_24h,
    rank_24h,
    rank_24h_in_quote,
    cv_24h,
    rank_cv_24h,
    samples_1h,
    expected_1h,
    samples,
    expected
from final
